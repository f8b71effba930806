"""The demo of long sequences at its smallest, and its Transformer."""

import json
import re
from dataclasses import replace

import torch
from commands import ROOT

from examples.classification import demo
from examples.classification.baseline import TransformerClassifier, TransformerClassifierConfig


def transformer(symbols=0):
    """The baseline for so many symbols; without any, for numbers."""
    torch.manual_seed(1)
    sizes = dict(encoder_embed_dim=16, encoder_ffn_embed_dim=32, classifier_out_dim=16)
    cfg = TransformerClassifierConfig(**sizes, sentence_class_num=3, max_positions=20)
    model = TransformerClassifier(cfg, symbols, pad=1 if symbols else 0).eval()
    return lambda tokens: model({"net_input": {"src_tokens": tokens}})["encoder_out"]


@torch.no_grad()
def test_padding_never_changes_what_the_transformer_says():
    model, tokens = transformer(symbols=12), torch.randint(4, 12, (2, 9))
    padded = torch.cat([tokens, torch.ones(2, 4, dtype=torch.long)], dim=1)
    torch.testing.assert_close(model(padded), model(tokens))


@torch.no_grad()
def test_the_transformer_knows_the_order_of_numbers():
    model, numbers = transformer(), torch.randn(2, 9)
    assert model(numbers).shape == (2, 3)
    assert not torch.allclose(model(numbers), model(numbers.flip(1)), atol=1e-3)


TINY = {"20000 100 2000": "80 10 20", "count 60": "count 8", "-size 4": "-size 2"}
TINY[r"max-update \d+"] = "max-update 2"


def tiny(options):
    for large, small in TINY.items():
        options = re.sub(large, small, options)
    return options


def test_the_demo_from_end_to_end(tmp_path, monkeypatch, capsys):
    """Symbols and samples, at the smallest size; a second run finds all done."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setitem(demo.demo.ENVIRONMENT, "OMP_NUM_THREADS", "1")
    tasks = [
        replace(task, data=[*map(tiny, task.data)], train=tiny(task.train)) for task in demo.TASKS
    ]
    monkeypatch.setattr(demo, "TASKS", tasks)
    trials = demo.plan(tmp_path)
    assert [trial.model for trial in trials] == ["mega", "mega-chunk", "transformer"] * 2
    some = [trials[2], trials[4]]  # a Transformer on symbols, Mega-chunk on samples
    for _ in range(2):
        demo.run(some, tmp_path)
    assert capsys.readouterr().out.count("done before") == 6
    demo.report(tmp_path, some, threads=1)
    rows = (tmp_path / "table.md").read_text().splitlines()
    rows = [row.split("|") for row in rows if row.startswith("| ")]
    for trial, row in zip(some, rows[2:], strict=True):
        summary = json.loads((trial.test.folder / "summary-test.json").read_text())
        assert f" {summary['accuracy']:.1f} (" in row[5]
        assert float(row[6]) >= 1 and int(row[7].split()[0].replace(",", "")) > 100


def test_a_training_is_one_process_on_the_cpu():
    """Also where torch sees several GPUs, on which fairseq would start a process each."""
    for trial in demo.plan(ROOT / "demo"):
        words = trial.training.commands[0]
        assert "--cpu" in words and words[words.index("--distributed-world-size") + 1] == "1"
