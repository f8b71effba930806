"""The commands ``python -m fairseq_mega inspect``, ``attend`` and ``curves``."""

import base64
import csv
import json
import re
import subprocess
import sys

import pytest
import torch
from commands import ROOT

from fairseq_mega.__main__ import main


def command(*words):
    main([str(word) for word in words])


def refused(*words):
    """Returns the command's error message."""
    with pytest.raises(SystemExit) as end:
        command(*words)
    return str(end.value)


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.reader(file))


def check_page(folder, *figures):
    """Checks that a page is complete and contains these figures, next to which are their files."""
    page = (folder / "index.html").read_text()
    assert "<script" not in page and not re.search(r'(?:src|href)="(?!data:)', page)
    images = dict(re.findall(r'<img id="([^"]+)".*?base64,([^"]+)"', page))
    assert set(images) == {path.stem for path in folder.glob("*.png")} == set(figures)
    for name, data in images.items():
        assert base64.b64decode(data) == (folder / f"{name}.png").read_bytes()
        assert (folder / f"{name}.svg").read_text().rstrip().endswith("</svg>")
        assert len(read_csv(folder / f"{name}.csv")) > 1
    return page


def test_pages_contain_their_figures(parity, tmp_path, monkeypatch):
    lm, translation = parity / "language_model", parity / "translation"
    command("inspect", translation / "checkpoint.pt", "--out", tmp_path / "inspect")
    page = check_page(tmp_path / "inspect", "memory", "kernels", "bias")
    assert "mega_wmt_en_de" in page and "encoder_embed_dim" in page
    monkeypatch.chdir(lm / "data-bin")  # "." is not the checkpoint's folder
    lines = (lm / "data-bin/dict.txt").read_text().splitlines()
    text = " ".join(line.split()[0] for line in lines[:20])
    command("attend", lm / "checkpoint.pt", ".", text, "--out", tmp_path / "lm")
    names = ("decoder-0", "decoder-1", "surprisal", "difference")
    assert "bits" in check_page(tmp_path / "lm", *names)
    words = [translation / "checkpoint.pt", translation / "data-bin", "--index", 1]
    command("attend", *words, "--layers", "-1", "--out", tmp_path / "mt")
    check_page(tmp_path / "mt", "encoder-1", "decoder-1", "cross-1")
    lines = [dict(epoch=1, update=0.1, loss=9 / i, num_updates=i, wps="100") for i in (1, 2, 3)]
    (tmp_path / "a.log").write_text("".join(json.dumps(line) + "\n" for line in lines))
    command("curves", tmp_path / "a.log")
    check_page(tmp_path / "a-curves", "curves")
    rows = read_csv(tmp_path / "a-curves/curves.csv")[1:]
    losses = [row[3:] for row in rows if row[0] == "loss"]
    assert losses == [["1", "9.0"], ["2", "4.5"], ["3", "3.0"]]


# --- bad input ----------------------------------------------------------------------------------


def test_matplotlib_is_missing(tmp_path, parity):
    code = "import sys; sys.modules['matplotlib'] = None; from fairseq_mega.__main__ import main; "
    code += f"main(['inspect', {str(parity / 'translation/checkpoint.pt')!r}])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    assert "inspect needs matplotlib: pip install '.[inspect]'" in done.stderr


def test_nothing_half_written_is_left(tmp_path, parity):
    checkpoint = parity / "translation/checkpoint.pt"
    state = torch.load(checkpoint)
    state["args"].arch = "transformer"
    torch.save(state, tmp_path / "other.pt")
    (tmp_path / "file").write_text("mine")
    before = set(tmp_path.iterdir())
    assert "TransformerModel" in refused("inspect", tmp_path / "other.pt")
    assert "TransformerModel" in refused("attend", tmp_path / "other.pt", tmp_path, "a")
    assert "no log" in refused("curves", tmp_path)
    out = tmp_path / "nosuch/out"
    assert str(out.parent) in refused("inspect", checkpoint, "--out", out)
    assert str(tmp_path / "file") in refused("inspect", checkpoint, "--out", tmp_path / "file")
    # The checkpoint has not been read yet.
    said = refused("attend", tmp_path / "other.pt", tmp_path, "a", "--out", tmp_path / "file")
    assert str(tmp_path / "file") in said and "TransformerModel" not in said
    assert set(tmp_path.iterdir()) == before and (tmp_path / "file").read_text() == "mine"


def test_options_that_do_not_go_together(parity):
    folder = parity / "translation"
    words = ["attend", folder / "checkpoint.pt", folder / "data-bin"]
    assert "--target is 'a', but a sample has a translation" in refused(
        *words, "--index", 1, "--target", "a"
    )
    words += ["a", "--bpe", "sentencepiece"]
    assert "needs a model: give --sentencepiece-model or --bpe-codes" in refused(*words)
    assert "nosuch" in refused(*words, "--sentencepiece-model", "nosuch")
