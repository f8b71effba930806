"""The demo of long sequences at its smallest, and its Transformer."""

import json
import subprocess
import sys

import pytest
import torch
from commands import ROOT
from PIL import Image

from examples.classification import demo, demo_data, demo_report
from examples.quickstart.demo import command


@pytest.fixture(scope="module")
def transformer():
    """Makes the baseline for so many symbols; without any, for numbers."""
    from examples.classification.baseline import TransformerClassifier, TransformerClassifierConfig

    def make(symbols=0):
        torch.manual_seed(1)
        sizes = dict(encoder_embed_dim=16, encoder_ffn_embed_dim=32, classifier_out_dim=16)
        cfg = TransformerClassifierConfig(**sizes, sentence_class_num=3, max_positions=20)
        return TransformerClassifier(cfg, symbols, pad=1 if symbols else 0).eval()

    return make


def logits(model, tokens):
    return model({"net_input": {"src_tokens": tokens}})["encoder_out"]


@torch.no_grad()
def test_padding_never_changes_what_the_transformer_says(transformer):
    model, tokens = transformer(symbols=12), torch.randint(4, 12, (2, 9))
    padded = torch.cat([tokens, torch.ones(2, 4, dtype=torch.long)], dim=1)
    torch.testing.assert_close(logits(model, padded), logits(model, tokens))


@torch.no_grad()
def test_the_transformer_knows_the_order_of_numbers(transformer):
    numbers = torch.randn(2, 9)
    model = transformer()
    assert logits(model, numbers).shape == (2, 3)
    assert not torch.allclose(logits(model, numbers), logits(model, numbers.flip(1)), atol=1e-3)


def test_models_have_equal_sizes_and_updates():
    for task in demo.TASKS:
        assert list(task.models) == ["mega", "mega-chunk", "transformer"]
        assert not any("--max-update" in each or "--lr" in each for each in task.models.values())


@pytest.mark.parametrize("digit", [0, 9])
def test_tones_have_the_pitch_of_their_digit(digit):
    import numpy as np

    draw = np.random.default_rng(4)
    sound = demo_data.synthesise(digit, draw, None)
    spectrum = np.abs(np.fft.rfft(demo_data.placed(sound, draw)))
    pitch = demo_data.LOWEST * demo_data.INTERVAL**digit
    assert abs(spectrum.argmax() / pitch - 1) < 0.06  # a second of sound: bins are of 1 Hz


def test_the_table_says_where_mega_is_not_above():
    def outcome(accuracy, low, high):
        summary = {"accuracy": accuracy, "interval_95": [low, high], "samples": 10,
                   "confusion": [[4, 2], [2, 2]]}  # fmt: skip
        return demo_report.Outcome("1", 1, 1.0, 1.0, summary, [])

    outcomes = {
        ("listops", "mega"): outcome(50, 40, 60),
        ("listops", "mega-chunk"): outcome(20, 10, 30),
        ("listops", "transformer"): outcome(45, 35, 55),
    }
    said = demo_report.remarks(outcomes)
    assert "the commonest class would have 60.0%" in said
    assert "intervals of mega and the Transformer overlap" in said
    assert "mega-chunk is not above the Transformer (20.0 and 45.0)" in said


def test_the_demo_from_end_to_end(tmp_path):
    """Symbols and samples, at the smallest size; a second run finds all done."""
    only = ["listops/transformer", "spoken/mega-chunk"]
    words = ["--tiny", "--threads", "1", "--workdir", str(tmp_path), "--only", *only]
    program = [sys.executable, str(ROOT / "examples/classification/demo.py"), *words]
    output = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True)
    assert output.returncode == 0, output.stdout[-2000:] + output.stderr[-2000:]
    rows = (tmp_path / "table.md").read_text().splitlines()
    assert len([row for row in rows if row.startswith("| ")]) == 2 + 2
    for name in ("listops", "spoken"):
        with Image.open(tmp_path / f"{name}.png") as picture:
            assert picture.width >= 500
    for name in only:
        cost = json.loads((tmp_path / name / "cost.json").read_text())
        assert cost["seconds"] > 1 and cost["peak_bytes"] > 1e8
        summary = json.loads((tmp_path / f"{name}-test" / "summary-test.json").read_text())
        assert f"| {summary['accuracy']:.1f} (" in (tmp_path / "table.md").read_text()
    again = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True)
    assert "train_inner" not in again.stdout and again.stdout.count("done before") == 6


def test_the_picture_of_digits(tmp_path):
    (tmp_path / "input").mkdir()
    (tmp_path / "input/test.src").write_text(" ".join(["7"] * 64) + "\n" + " ".join(["9"] * 64))
    rows = [{"sample": str(i), "class": "3", "predicted": str(3 + i)} for i in range(2)]
    outcome = demo_report.Outcome("1", 1, 1.0, 1.0, None, rows)
    assert demo_report.some_of_both(outcome, 20) == rows[::-1]  # the wrong one first
    path = demo_report.digits_picture(tmp_path / "digits.png", tmp_path, outcome)
    with Image.open(path) as picture:
        assert picture.width >= 500


def test_a_failing_command_fails_when_measured(tmp_path):
    script = str(ROOT / "examples/classification/measured.py")
    words = command(sys.executable, script, str(tmp_path / "cost.json"), sys.executable)
    assert subprocess.run([*words, "-c", "raise SystemExit(3)"]).returncode == 3
