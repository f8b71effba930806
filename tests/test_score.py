"""Averages are means; scores are those of fairseq-score and of the sacrebleu command."""

import argparse
import json
import re
import subprocess

import archives
import pytest
import torch
from commands import BIN
from fairseq_cli import score as fairseq_score

from examples.translation import average_checkpoints, score

# --- averaging ----------------------------------------------------------------------------------


def save(path, weight, dtype=torch.float32, **more):
    model = {"weight": torch.tensor(weight, dtype=dtype), "step": torch.tensor([len(path.stem)])}
    optimizer = {"state": {0: torch.ones(2)}}
    args = argparse.Namespace(arch="mega")
    torch.save({"args": args, "model": model | more, "last_optimizer_state": optimizer}, path)


def average(folder, *words):
    average_checkpoints.main([str(folder), *words])
    return torch.load(folder / "averaged.pt", weights_only=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16])
def test_the_average_is_the_mean_of_the_last_checkpoints(tmp_path, dtype):
    """Sums of half precision would overflow in it."""
    rows = 20000 + 100 * torch.randn(12, 3, generator=torch.Generator().manual_seed(1)).to(dtype)
    for i, row in enumerate(rows, start=1):
        save(tmp_path / f"checkpoint{i}.pt", row.tolist(), dtype)
    for other in ("checkpoint_best.pt", "checkpoint_last.pt", "checkpoint_12_400.pt"):
        save(tmp_path / other, [0.0] * 3, dtype)
    averaged = average(tmp_path, "--last", "10")
    mean = rows[2:].double().mean(0).to(dtype)
    torch.testing.assert_close(averaged["model"]["weight"], mean)
    assert averaged["model"]["step"].tolist() == [len("checkpoint12")]
    assert averaged["args"].arch == "mega" and averaged["last_optimizer_state"] is None


def test_checkpoints_made_every_so_many_updates(tmp_path):
    for epoch, updates, weight in [(1, 900, 5.0), (2, 1000, 1.0), (2, 1100, 2.0)]:
        save(tmp_path / f"checkpoint_{epoch}_{updates}.pt", [weight])
    assert average(tmp_path, "--last", "2", "--updates")["model"]["weight"].tolist() == [1.5]


@pytest.mark.parametrize(
    "words, more, message",
    [
        ("--last 2 --output nosuch/a.pt", {}, "--output is nosuch/a.pt, but there is no folder"),
        ("--last 3", {}, "--last 3: .* has 2 checkpoints.*--keep-last"),
        ("--last 2", {"new": torch.ones(1)}, "not of the same model, they differ in new: "),
    ],
)
def test_checkpoints_that_cannot_be_averaged(tmp_path, words, more, message):
    save(tmp_path / "checkpoint1.pt", [1.0])
    save(tmp_path / "checkpoint2.pt", [1.0], **more)
    with pytest.raises(SystemExit, match=message):
        average(tmp_path, *words.split())
    assert not (tmp_path / "averaged.pt").exists()


# --- scoring ------------------------------------------------------------------------------------

TOKENS = [
    ("Der rot-weiß-rote Ball ist a-b-c .", "Ein rot-weißer Ball ist a-b-c ."),
    ("&quot; So geht &apos; s &quot; , sagt er - oder ?", "&quot; So geht es &quot; , sagt er ."),
    ("Zwei Hunde laufen über die gras-grüne Wiese .", "Zwei Hunde laufen über die Wiese ."),
    ("Am 3. Mai 2014 kostet es mehr &amp; anderes .", "Am 3. Mai 2014 kostet es 1.234,50 € ."),
]
PLAIN = [
    "Ein rot-weißer Ball ist a-b-c.",
    '"So geht es", sagt er.',
    "Zwei Hunde laufen über die Wiese.",
    "Am 3. Mai 2014 kostet es 1.234,50 €.",
]


@pytest.fixture
def generated(tmp_path):
    """Output of fairseq-generate, out of order and with a second-best translation."""
    rows = ["2026-01-01 | INFO | loading"]
    for i in (2, 0, 3, 1):
        translation, reference = TOKENS[i]
        rows += [f"S-{i}\tH-1", f"T-{i}\t{reference}", f"H-{i}\t-0.5\t{translation}"]
        rows += [f"D-{i}\t-0.5\t{translation}", f"P-{i}\t-0.1 -0.2", f"H-{i}\t-0.9\tschlechter"]
    rows += ["Generate test with beam=5: BLEU4 = 1.00"]
    (tmp_path / "generated.txt").write_text(archives.lines(rows))
    (tmp_path / "test.de").write_text(archives.lines(PLAIN))
    return tmp_path / "generated.txt"


def printed(generated, capsys, *words):
    score.main([str(generated), *map(str, words)])
    return capsys.readouterr().out.splitlines()


def test_tokenised_bleu_is_that_of_fairseq_score(generated, tmp_path, capsys, monkeypatch):
    (tokenised,) = printed(generated, capsys)
    split = ["Der rot ##AT##-##AT## weiß-rote", "rot ##AT##-##AT## weißer", "gras ##AT##-##AT## "]
    for i, name in enumerate(("sys", "ref")):
        text = archives.lines(score.split_compounds(pair[i]) for pair in TOKENS)
        (tmp_path / name).write_text(text)
        assert any(part in text for part in split)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["fairseq-score", "--sys", "sys", "--ref", "ref"])
    fairseq_score.cli_main()
    theirs = capsys.readouterr().out.splitlines()[-1]
    assert tokenised == f"Tokenised, compounds split: {theirs}"
    assert 10 < float(re.search(r"BLEU4 = ([\d.]+)", tokenised)[1]) < 90


DETOKENISED = [
    "Der rot-weiß-rote Ball ist a-b-c.",
    '"So geht \'s", sagt er - oder?',
    "Zwei Hunde laufen über die gras-grüne Wiese.",
    "Am 3. Mai 2014 kostet es mehr & anderes.",
]


def test_bleu_and_chrf_are_those_of_the_sacrebleu_command(generated, tmp_path, capsys):
    (tmp_path / "plain").write_text(archives.lines(DETOKENISED))
    words = [BIN / "sacrebleu", tmp_path / "test.de", "-i", tmp_path / "plain", "-w", "2"]
    done = subprocess.run([*words, "-m", "bleu", "chrf"], capture_output=True, text=True)
    bleu, chrf = json.loads(done.stdout)
    options = ("--tokens", "de", "--reference", tmp_path / "test.de")
    _, *ours = printed(generated, capsys, *options)
    assert ours == [
        f"SacreBLEU = {bleu['score']:.2f} {bleu['verbose_score']}",
        bleu["signature"],
        f"chrF2 = {chrf['score']:.2f}",
        chrf["signature"],
    ]
    assert printed(generated, capsys, *options, "--metrics", "chrf")[1:] == ours[2:]
    assert 10 < bleu["score"] < 90


@pytest.mark.parametrize(
    "words, installed, message",
    [
        ("--metrics chrf", True, "--metrics chrf needs --reference"),
        ("--metrics bleu comet --reference {0}", True, "comet needs --source"),
        ("--metrics comet --reference {0}", None, "pip install unbabel-comet"),
    ],
)
def test_metrics_that_lack_something(generated, capsys, monkeypatch, words, installed, message):
    monkeypatch.setattr(score, "comet", installed)
    with pytest.raises(SystemExit):
        score.main([str(generated), *words.format(generated).split()])
    assert message in capsys.readouterr().err


def test_outputs_that_are_truncated_or_leave_sentences_out_are_refused(generated, tmp_path):
    (tmp_path / "test.de").write_text(archives.lines([*PLAIN, "Noch einer."]))
    with pytest.raises(SystemExit, match="5 lines, .* 4 translations .*--required-batch-size-mul"):
        score.main([str(generated), "--reference", str(tmp_path / "test.de")])
    text = generated.read_text()
    generated.write_text(text[: text.index("H-3")])
    with pytest.raises(SystemExit, match="2 translations .* and 3 references"):
        score.main([str(generated)])
