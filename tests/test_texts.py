"""fairseq's commands accept odd texts: empty lines, other scripts, separators, very long lines."""

import io
import sys
from unittest import mock

import pytest
import torch
from commands import PLUGIN
from fairseq.data import Dictionary
from fairseq.data.data_utils import load_indexed_dataset
from fairseq_cli import eval_lm, generate, interactive, preprocess, train
from helpers import SIZES

LONG = 20_000
LINES = [
    "w1 w2 w3",
    "",
    "w1",
    "\U0001f642 w2 \U0001f469\u200d\U0001f469\u200d\U0001f467",  # emoji, joined ones among them
    "שלום עולם w3",
    "w1 \x00 w2",
    "w1\u2028w2 w1\x0cw2\x0bw3\x85w1\x1cw2",  # they end lines elsewhere
    "   ",
    "\ufeffw1\tw2  w3",
    "e\u0301 w1",
    "w" * 5000,
    " ".join(["w1", "w2"] * (LONG // 2)),
    "<s> </s> <pad> <unk>",
    "w1 w2",
]
TEXT = "".join(f"{line}\n" for line in LINES)
SPLITS = ("train", "valid", "test")
COMMON = f"--user-dir {PLUGIN} --cpu --num-workers 0".split()
TRAINING = "--optimizer adam --lr 1e-3 --max-tokens 50000 --max-epoch 1 --no-epoch-checkpoints"


def call(module, *words, stdin=""):
    """Runs a command in this process; options are strings of options, or paths."""
    flat = [part for word in words for part in (word.split() if isinstance(word, str) else [word])]
    with (
        mock.patch.object(sys, "argv", ["fairseq", *map(str, flat)]),
        mock.patch.object(sys, "stdin", io.StringIO(stdin)),
    ):
        module.cli_main()


def sizes(side):
    return " ".join(f"--{side}-{name} {size}" for name, size in SIZES.items())


def binarise(folder, name, *options):
    prefixes = " ".join(f"--{split}pref {folder / split}" for split in SPLITS)
    call(preprocess, prefixes, *options, "--destdir", folder / name, "--workers 1")
    return folder / name


def finite_weights(path):
    return all(torch.isfinite(w).all() for w in torch.load(path)["model"].values())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    target = TEXT.replace("w1 w2 " * (LONG // 2 - 100), "")  # full cross attention takes time
    for split in SPLITS:
        for ending, text in (("", TEXT), (".a", TEXT), (".b", target)):
            (folder / f"{split}{ending}").write_bytes(text.encode())
    return folder


@pytest.fixture(scope="module")
def words(folder):
    return binarise(folder, "words", "--only-source")


def test_only_newlines_end_a_line_for_fairseq(words):
    dictionary = Dictionary.load(str(words / "dict.txt"))
    lines = load_indexed_dataset(str(words / "train"), dictionary)
    assert [len(line) - 1 for line in lines] == [len(line.split()) for line in LINES]


def test_translation(folder, capsys):
    data = binarise(folder, "pairs", "--source-lang a --target-lang b --joined-dictionary")
    positions = f"--max-source-positions {LONG + 8} --max-target-positions {LONG + 8}"
    options = f"-a mega --encoder-layers 1 {sizes('encoder')} --rel-pos-bias rotary"
    where = ["--save-dir", folder / "mega", "--encoder-chunk-size 64", positions]
    call(train, data, *COMMON, options, TRAINING, *where)
    saved = folder / "mega/checkpoint_last.pt"
    assert finite_weights(saved)

    # Positions are an option of the task, which is the command's own.
    short = ["--path", saved, "--beam 2 --max-len-a 0 --max-len-b 5", positions]
    batches = "--batch-size 4 --required-batch-size-multiple 1"
    for module, more, stdin in ((generate, batches, ""), (interactive, "", TEXT)):
        capsys.readouterr()
        call(module, data, *COMMON, *short, more, stdin=stdin)
        output = capsys.readouterr().out
        hypotheses = [line for line in output.split("\n") if line.startswith("H-")]
        assert len(hypotheses) == len(LINES)


def test_language_modeling(folder, words, capsys, caplog):
    options = "-a mega_lm --decoder-chunk-size 64 --rel-pos-bias rotary --decoder-layers 1 "
    options += f"{sizes('decoder')} --tokens-per-sample 64 --sample-break-mode complete"
    task = [*COMMON, "--task mega_language_modeling"]
    call(train, words, *task, options, TRAINING, "--save-dir", folder / "lm")
    saved = folder / "lm/checkpoint_last.pt"
    assert finite_weights(saved)

    evaluation = "--sample-break-mode complete --max-tokens 50000 --valid-block splits:2"
    with caplog.at_level("INFO"):
        call(eval_lm, words, *task, "--path", saved, evaluation)
    tokens = sum(len(line.split()) + 1 for line in LINES)
    assert f"Evaluated {tokens:,}" in caplog.text.replace(f"{tokens} ", f"{tokens:,} ")

    capsys.readouterr()
    short = ["--path", saved, "--beam 1 --max-len-a 1 --max-len-b 3"]
    call(interactive, words, *task, *short, stdin=TEXT)
    output = capsys.readouterr().out
    assert len([line for line in output.split("\n") if line.startswith("H-")]) == len(LINES)


def test_classes_of_texts(folder):
    data = folder / "classes"
    data.mkdir()
    binarise(folder, "classes/src-bin", "--only-source")
    for split in SPLITS:
        (data / split).write_text("".join(f"{i % 2}\n" for i in range(len(LINES))))
    binarise(data, "label-bin", "--only-source")
    options = "--task lra-text -a mega_text --encoder-layers 1 --encoder-embed-dim 12 --z-dim 4 "
    options += "--encoder-hidden-dim 16 --n-dim 3 --sentence-class-num 2 --classifier-out-dim 10 "
    options += f"--chunk-size 64 --sen-rep-type cls --max-positions {LONG + 8} "
    options += "--criterion lra_cross_entropy --optimizer adam --lr 1e-3 --batch-size 4"
    saving = "--max-epoch 1 --no-epoch-checkpoints"
    call(train, data, *COMMON, options, saving, "--save-dir", data / "out")
    assert finite_weights(data / "out/checkpoint_last.pt")
