"""The commands of examples/experiments start and finish at tiny sizes."""

import random
import subprocess
import sys

from archives import deb
from commands import ROOT, run_warm
from test_debian import make_help_packages, needs_dpkg

from examples.experiments import small_data, small_text
from examples.translation import prepare


def script(name, *words):
    command = [sys.executable, f"examples/experiments/{name}.py", *map(str, words)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def cells(text):
    return [[cell.strip() for cell in row.split("|")[1:-1]] for row in text.split("\n")]


def test_recall(tmp_path):
    output = script("recall", "--quick", "--out", tmp_path)
    text = (tmp_path / "results.md").read_text()
    assert text in output
    rows = cells(text)
    assert rows[0] == ["distance", "mega", "mega-spread", "mega-cut", "transformer"]
    assert [row[0] for row in rows if len(row) == 5][2:] == [
        "4", "8", "16", "16 from place 0", "16 from place 4", "16 from place 7",
    ]  # fmt: skip


def test_needle(tmp_path):
    script("needle", "data", tmp_path, "--longest", 16, "--first", 9, "--lines", 200)
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
    output = script(
        "needle", "score", tmp_path / "checkpoint_last.pt", "--data", f"{tmp_path}/bin", *options
    )
    assert [line.split(":")[0] for line in output.splitlines()] == [
        "distance 2 tokens", "distance 30 tokens", "a text of 5,000 tokens",
    ]  # fmt: skip


@needs_dpkg
def test_small_data(tmp_path, capsys):
    make_help_packages(tmp_path / "data/downloads")
    words = f"help --held-out 20 --vocab-size 120 --workers 1 --workdir {tmp_path / 'data'}"
    prepare.main(words.split())
    tiny = "--encoder-layers 1 --decoder-layers 1 --encoder-embed-dim 16"
    tiny = [f"--mega={tiny}", f"--transformer={tiny} --decoder-embed-dim 16"]
    where = ["--data", str(tmp_path / "data"), "--workdir", str(tmp_path / "out")]
    small_data.main([*where, "--updates", "2", "--seeds", "1", *tiny])
    text = (tmp_path / "out/results.md").read_text()
    assert text in capsys.readouterr().out
    rows = cells(text)
    assert [row[0] for row in rows if len(row) == 7][-1] == "2"
    assert [row[:2] for row in rows if len(row) == 5][2:] == [["1", "transformer"], ["1", "mega"]]


@needs_dpkg
def test_small_text(tmp_path, capsys):
    downloads = tmp_path / "manual/downloads"
    downloads.mkdir(parents=True)
    draw = random.Random(1)
    pages = {f"{i}.rst.txt": " ".join(f"{draw.random()}" for _ in range(90)) for i in range(99)}
    deb(downloads, "python3.11-doc", {f"usr/share/doc/{name}": p for name, p in pages.items()})
    tiny = "--decoder-layers 1 --decoder-embed-dim 16 --decoder-input-dim 16"
    tiny += " --decoder-output-dim 16"
    small_text.main(
        ["--workdir", str(tmp_path), "--symbols", "bytes", "--only", "transformer"]
        + ["--updates", "2", "--seeds", "1", f"--transformer={tiny}"]
    )
    text = (tmp_path / "results.md").read_text()
    assert text in capsys.readouterr().out
    tests = [row[3] for row in cells(text) if row[:2] == ["1", "transformer"]]
    assert tests == ["blocks of 512", "blocks of 128, up to 384 read before"]
