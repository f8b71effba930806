"""The text with values to recall: what can be foreseen in it, and that its score is of that."""

import random
import re
import subprocess
import sys

import pytest
import torch
from commands import ROOT, run_warm
from fairseq.data import Dictionary

from examples.experiments import needle

SCRIPT = "examples/experiments/needle.py"


def test_only_what_follows_a_query_can_be_foreseen():
    draw, gaps = random.Random(1), []
    for _ in range(200):
        words = needle.line(200, draw)
        places = [i for i, word in enumerate(words) if word in needle.VALUES]
        assert len({words[i] for i in places}) == 1 and places[0] < needle.FIRST
        queries = [i for i, word in enumerate(words) if word == needle.QUERY]
        assert [i + 1 for i in queries] == places[1:] and places[-1] == len(words) - 1
        gaps += [b - a for a, b in zip(places, places[1:])]
    # Evenly by the logarithm: half of them are below the geometric mean of 2 and 200.
    assert min(gaps) == 2 and 190 < max(gaps) <= 200
    assert sum(each < 20 for each in gaps) / len(gaps) == pytest.approx(0.5, abs=0.05)


def test_a_value_may_stand_anywhere_in_a_long_line():
    lines = [needle.line(20, random.Random(i), first=300, length=500) for i in range(100)]
    places = [next(i for i, word in enumerate(words) if word in needle.VALUES) for words in lines]
    assert min(places) < 30 and 270 < max(places) < 300
    assert all(500 < len(words) <= 520 for words in lines)


@pytest.mark.parametrize("first", [0, 1025])
def test_lines_without_a_query_are_refused(first, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["needle.py", "data", str(tmp_path), f"--first={first}"])
    with pytest.raises(SystemExit):
        needle.main()
    assert f"--first {first}: a line of 1024 tokens" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("length, distance", [(9, 2), (9, 9), (10_000, 2), (10_000, 9_999)])
def test_a_test_has_one_value_and_one_query(length, distance):
    dictionary = Dictionary()
    for word in [*needle.WORDS, needle.QUERY, *needle.VALUES]:
        dictionary.add_symbol(word)
    draw = torch.Generator().manual_seed(1)
    pieces, answers = needle.single_queries(dictionary, length, distance, 5, draw)
    texts = torch.cat(list(pieces), dim=1)
    assert texts.shape == (5, length)
    assert torch.equal(texts[:, length - distance], answers)
    assert (texts[:, -1] == dictionary.index(needle.QUERY)).all()
    values = [dictionary.index(word) for word in needle.VALUES]
    is_value = torch.isin(texts, torch.tensor(values))
    assert (is_value.sum(1) == 1).all() and len(set(answers.tolist())) > 1


def script(*words):
    command = [sys.executable, SCRIPT, *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_from_the_data_to_the_score(tmp_path):
    script("data", tmp_path, "--longest", 16, "--lines", 200)
    prefixes = f"--trainpref {tmp_path}/train.txt --validpref {tmp_path}/valid.txt"
    run_warm("preprocess", f"--only-source {prefixes} --destdir {tmp_path}/bin")
    run_warm(
        "train",
        tmp_path / "bin",
        "--task mega_language_modeling --sample-break-mode eos --max-tokens 512 "
        "--arch mega_lm_long --decoder-layers 1 --decoder-embed-dim 16 --decoder-hidden-dim 16 "
        "--decoder-ffn-embed-dim 16 --decoder-z-dim 8 --decoder-n-dim 4 --decoder-chunk-size 8 "
        "--criterion cross_entropy --optimizer adam --lr 1e-2 --max-update 5 "
        f"--disable-validation --save-dir {tmp_path}",
    )
    options = "--distances", 2, 30, "--lengths", 5000, "--tests", 16
    output = script("score", tmp_path / "checkpoint_last.pt", "--data", tmp_path / "bin", *options)
    found = re.findall(r"^(distance|a text of) ([\d,]+) tokens: [\d.]+% recalled", output, re.M)
    assert found == [("distance", "2"), ("distance", "30"), ("a text of", "5,000")]
