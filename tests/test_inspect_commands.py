"""``python -m fairseq_mega inspect``, ``attend`` and ``curves``; memory spans in fairseq's log."""

import base64
import csv
import json
import re
import shutil
import subprocess
import sys

import pytest
import torch
from commands import ROOT, losses, run

from fairseq_mega.__main__ import main
from fairseq_mega.inspection.memory import spans_of
from fairseq_mega.inspection.weights import read_weights

TRAIN = (
    "-s src -t tgt --task translation --arch mega --encoder-layers 2 --decoder-layers 1 "
    "--encoder-embed-dim 16 --encoder-hidden-dim 16 --encoder-ffn-embed-dim 16 --encoder-z-dim 8 "
    "--encoder-n-dim 4 --optimizer adam --lr 3e-2 --criterion label_smoothed_cross_entropy "
    "--batch-size 16 --max-update 6 --log-interval 2 --log-format json --seed 1 --num-workers 0 "
    "--no-epoch-checkpoints --disable-validation --log-memory-per-layer"
)
# No network: what a browser itself would look up.
CHROMIUM = [
    "chromium",
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--enable-logging=stderr",
]


def command(*words):
    main([str(word) for word in words])


def refused(*words):
    """What the command says when it ends with an error."""
    with pytest.raises(SystemExit) as end:
        command(*words)
    return str(end.value)


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.reader(file))


def check_page(folder):
    """A page that needs nothing else, with all pictures, each beside it with its numbers."""
    page = (folder / "index.html").read_text()
    assert "<script" not in page and not re.search(r'(?:src|href)="(?!data:)', page)
    pictures = re.findall(r'<figure id="([^"]+)">.*?base64,([^"]+)"', page)
    names = {path.stem for path in folder.glob("*.png")}
    assert [name for name, _ in pictures] and {name for name, _ in pictures} == names
    for name, data in pictures:
        assert base64.b64decode(data) == (folder / f"{name}.png").read_bytes()
        assert (folder / f"{name}.svg").read_text().rstrip().endswith("</svg>")
        assert len(read_csv(folder / f"{name}.csv")) > 1
    return page


@pytest.fixture(scope="module")
def pages(parity, tmp_path_factory):
    """The folders of a page of each command."""
    folder = tmp_path_factory.mktemp("pages")
    lm, translation = parity / "language_model", parity / "translation"
    command("inspect", translation / "checkpoint.pt", "--out", folder / "inspect")
    command("attend", lm / "checkpoint.pt", lm / "data-bin", "--index", 0, "--out", folder / "lm")
    checkpoint, data = translation / "checkpoint.pt", translation / "data-bin"
    command("attend", checkpoint, data, "--index", 1, "--layers", "-1", "--out", folder / "mt")
    log = folder / "a.log"
    lines = [dict(epoch=1, update=0.1, loss=9 / i, num_updates=i, wps="100") for i in (1, 2, 3)]
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    command("curves", log, "--out", folder / "curves")
    return folder


def test_pages_are_whole(pages):
    assert "mega_wmt_en_de" in check_page(pages / "inspect")
    assert "bits" in check_page(pages / "lm")
    assert {path.stem for path in (pages / "mt").glob("*.png")} == {
        "encoder-1", "decoder-1", "cross-1"
    }  # fmt: skip
    check_page(pages / "mt")
    check_page(pages / "curves")
    rows = read_csv(pages / "curves/curves.csv")[1:]
    assert [row[3:] for row in rows if row[2] == "loss"] == [
        ["1", "9.0"], ["2", "4.5"], ["3", "3.0"]
    ]  # fmt: skip
    assert not list(pages.glob(".*"))


@pytest.mark.skipif(not shutil.which("chromium"), reason="chromium is not installed")
@pytest.mark.parametrize("name", ["inspect", "lm", "mt", "curves"])
def test_a_browser_shows_every_picture(pages, name, tmp_path):
    """The page has no script: a copy counts the pictures that the browser has drawn."""
    page = (pages / name / "index.html").read_text()
    count = (
        "<script>addEventListener('load', () => { document.title = "
        "[...document.images].map(i => i.naturalWidth).join(' ') })</script></body>"
    )
    (tmp_path / "page.html").write_text(page.replace("</body>", count))
    done = subprocess.run(
        [*CHROMIUM, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom",
         (tmp_path / "page.html").as_uri()],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-1000:]
    assert "CONSOLE" not in done.stderr, done.stderr[-1000:]
    widths = re.search(r"<title>([\d ]+)</title>", done.stdout)[1].split()
    assert len(widths) == page.count("<img ") and min(map(int, widths)) > 300


def test_help_has_examples(capsys):
    for name in ("inspect", "attend", "curves"):
        with pytest.raises(SystemExit, match="0"):
            command(name, "--help")
        assert f"python -m fairseq_mega {name} " in capsys.readouterr().out.split("examples:")[1]


def test_without_a_command_the_folder_is_printed(capsys):
    command()
    assert capsys.readouterr().out.strip() == str(ROOT / "fairseq_mega")


# --- bad input ----------------------------------------------------------------------------------


def without_matplotlib(words):
    code = "import sys; sys.modules['matplotlib'] = None; from fairseq_mega.__main__ import main; "
    code += f"main({words})"
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )


def test_matplotlib_is_missing(tmp_path, parity):
    out = tmp_path / "out"
    words = ["inspect", str(parity / "translation/checkpoint.pt"), "--out", str(out)]
    done = without_matplotlib(words)
    assert done.returncode == 1 and not out.exists()
    assert "pictures need matplotlib: pip install 'fairseq-mega[inspect]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_nothing_half_written_is_left(tmp_path, parity):
    """An error comes after the folder was begun, and where it cannot be."""
    checkpoint = parity / "translation/checkpoint.pt"
    state = torch.load(checkpoint)
    state["args"].arch = "transformer"
    torch.save(state, tmp_path / "other.pt")
    before = set(tmp_path.iterdir())
    assert "TransformerModel" in refused("inspect", tmp_path / "other.pt")
    assert "TransformerModel" in refused("attend", tmp_path / "other.pt", tmp_path, "a")
    assert "no log" in refused("curves", tmp_path)
    assert set(tmp_path.iterdir()) == before
    out = tmp_path / "nosuch/out"
    assert f"no folder at {out.parent}" in refused("inspect", checkpoint, "--out", out)
    (tmp_path / "file").write_text("mine")
    out = tmp_path / "file/out"
    assert "no folder at" in refused("inspect", checkpoint, "--out", out)
    assert "is there" in refused("inspect", checkpoint, "--out", tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"
    said = refused("inspect", checkpoint, "--out", tmp_path / ("x" * 250))
    assert "cannot be made: File name too long. Give another --out" in said


def test_attend_takes_its_data_from_where_it_is_called(parity, tmp_path, monkeypatch):
    """Though fairseq takes a path that begins with a dot as one in the checkpoint's folder."""
    (tmp_path / "here").mkdir()
    checkpoint = shutil.copy(parity / "language_model/checkpoint.pt", tmp_path)
    monkeypatch.chdir(shutil.copytree(parity / "language_model/data-bin", tmp_path / "here/data"))
    command("attend", checkpoint, ".", "--index", 0, "--out", tmp_path / "out")
    check_page(tmp_path / "out")


def test_attend_names_a_colon_in_the_name(parity, tmp_path):
    checkpoint = shutil.copy(parity / "language_model/checkpoint.pt", tmp_path / "a:b.pt")
    says = refused("attend", checkpoint, parity / "language_model/data-bin", "--index", 0)
    assert "a:b.pt has a :, with which fairseq names several: give the file another name" in says


@pytest.mark.parametrize(
    "words, says",
    [
        ([], "either a TEXT or --index"),
        (["a", "--index", 1], "either a TEXT or --index"),
        (["--index", 1, "--target", "a"], "--target is the translation of a TEXT"),
        (["a", "--bpe", "sentencepiece"], "--bpe sentencepiece needs --sentencepiece-model"),
        (["a", "--bpe", "subword_nmt", "--bpe-codes", "nosuch"], "no file at nosuch"),
    ],
)
def test_options_that_do_not_go_together(parity, tmp_path, words, says):
    folder = parity / "translation"
    out = tmp_path / "out"
    words = [folder / "checkpoint.pt", folder / "data-bin", *words, "--out", out]
    assert says in refused("attend", *words)
    assert not out.exists()


# --- training -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained(parity, tmp_path_factory):
    """The same training with fairseq's task and criterion, with and without memory spans."""
    folder = tmp_path_factory.mktemp("trained")
    plugin = folder / "without_spans"
    plugin.mkdir()
    (plugin / "__init__.py").write_text(
        "from fairseq_mega.models.base import MegaCheckpointMixin\n"
        "del MegaCheckpointMixin.set_num_updates\n"
    )
    data = parity / "translation/data-bin"
    return folder, [
        run(
            "train", data, TRAIN, f"--save-dir {folder}/{name} --log-file {folder}/{name}.log",
            user_dir=user_dir, env={"PYTHONPATH": str(ROOT)},
        )
        for name, user_dir in (("with", "fairseq_mega"), ("without", plugin))
    ]  # fmt: skip


def test_memory_spans_are_in_the_log_and_change_nothing(trained):
    folder, (with_spans, without) = trained
    assert losses(with_spans) == losses(without) and len(losses(without)) == 3
    assert "memory_longest" not in without
    line = json.loads(re.findall(r"train_inner\b.*? (\{.*\})", with_spans)[-1])
    layers = read_weights(str(folder / "with/checkpoint_last.pt")).layers
    all_spans = torch.cat([each.half_lives.flatten() for x in layers for each in spans_of(x)])
    longest, median = all_spans.max().item(), all_spans.median().item()
    expected = {"memory_longest": longest, "memory_median": median}
    for layer in layers:
        spans = torch.cat([each.half_lives.flatten() for each in spans_of(layer)])
        label = f"memory_{layer.side[0]}{layer.name.split()[1]}"
        expected[f"{label}_longest"] = spans.max().item()
        expected[f"{label}_median"] = spans.median().item()
    found = {name: float(value) for name, value in line.items() if name.startswith("memory_")}
    assert found == pytest.approx(expected, rel=6e-3)  # three digits
    first = json.loads(re.findall(r"train_inner\b.*? (\{.*\})", with_spans)[0])
    assert any(first[name] != line[name] for name in found)
    names = [*line]
    assert min(map(names.index, found)) > names.index("lr")  # after fairseq's own


def test_curves_of_the_log(trained, tmp_path):
    folder, _ = trained
    command("curves", folder / "with.log", "--out", tmp_path / "curves")
    head, *rows = read_csv(tmp_path / "curves/memory-spans.csv")
    assert head == ["run", "layer", "statistic", "updates", "half_life_tokens"]
    layers = ("e0", "e1", "d0")
    assert {(row[1], row[3]) for row in rows} == {(name, u) for name in layers for u in "246"}
