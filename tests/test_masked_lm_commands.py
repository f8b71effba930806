"""Masked language models and classifiers with fairseq's own commands and tasks."""

import numpy as np
import pytest
import torch
from classification import dictionary_of, write_lines
from commands import losses, made_once, run_warm, valid_loss

SIZES = (
    "-a mega_masked_lm_small --encoder-layers 2 --encoder-embed-dim 32 --encoder-hidden-dim 48 "
    "--encoder-ffn-embed-dim 48 --encoder-z-dim 16 --encoder-n-dim 4 --encoder-chunk-size 8"
)
TRAIN = (
    f"{SIZES} --dropout 0 --optimizer adam --adam-betas (0.9,0.98) --lr-scheduler linear_decay "
    "--lr 1e-2 --warmup-updates 4 --total-num-update 60 --batch-size 16 --num-workers 0 "
    "--log-interval 1 --log-format json --no-epoch-checkpoints --seed 1"
)
WORDS = f"--task masked_lm --criterion masked_lm --tokens-per-sample 24 {TRAIN}"
CLASSES = (
    "--task sentence_prediction --criterion sentence_prediction --num-classes 2 --init-token 0 "
    f"--max-positions 24 {TRAIN}"
)
LETTERS = "abcdefghij"


def texts(count, seed):
    """Runs of the alphabet, forwards or backwards: a letter follows from those around it."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        start = rng.integers(10)
        step = 1 if i % 2 else -1
        yield [LETTERS[(start + step * j) % 10] for j in range(rng.integers(4, 20))]


def make(folder):
    """Data of both tasks, with one dictionary, and a trained masked language model."""
    words, labels = dictionary_of(LETTERS), dictionary_of(["down", "up"])
    for seed, (split, count) in enumerate({"train": 160, "valid": 32}.items()):
        rows = list(texts(count, seed))
        write_lines(folder / "words" / split, rows, words)
        write_lines(folder / "classes" / "input0" / split, rows, words)
        names = [["up" if i % 2 else "down"] for i in range(count)]
        write_lines(folder / "classes" / "label" / split, names, labels)
    output = run_warm(
        "train", folder / "words", WORDS,
        f"--max-update 60 --sample-break-mode eos --save-dir {folder / 'mlm'}",
    )  # fmt: skip
    (folder / "log").write_text(output)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    return made_once(tmp_path_factory, "masked_lm", make)


def test_a_masked_language_model_learns(trained):
    output = (trained / "log").read_text()
    each = losses(output)
    assert len(each) == 60 and each[1] > 3
    assert valid_loss(output) < 2.2  # of 14 words, 10 of which are in texts: 3.3 bits


def test_a_classifier_starts_from_it(trained, tmp_path):
    """Classifiers also start by --restore-file, which takes over the weights alone."""
    path = trained / "mlm" / "checkpoint_last.pt"
    output = run_warm(
        "train", trained / "classes", CLASSES, f"--save-dir {tmp_path} --max-update 1",
        f"--restore-file {path} --reset-optimizer --reset-dataloader --reset-meters",
        "--reset-lr-scheduler",
    )  # fmt: skip
    assert valid_loss(output) > 0
    before = torch.load(path)["model"]
    after = torch.load(tmp_path / "checkpoint_last.pt")["model"]
    encoder = [name for name in before if name.startswith("encoder.")]
    assert encoder  # and one update of warm-up moves nothing by more than 1e-7
    assert all(torch.allclose(before[name], after[name], atol=1e-6) for name in encoder)
    heads = {name.split(".")[0] for name in after if not name.startswith("encoder.")}
    assert heads == {"classification_heads"}


def test_a_classifier_learns_and_is_validated(trained, tmp_path):
    path = trained / "mlm" / "checkpoint_last.pt"
    run_warm(
        "train", trained / "classes", CLASSES, f"--save-dir {tmp_path} --max-update 40",
        f"--finetune-from-model {path} --best-checkpoint-metric accuracy "
        "--maximize-best-checkpoint-metric",
    )  # fmt: skip
    best = tmp_path / "checkpoint_best.pt"
    output = run_warm(
        "validate", trained / "classes",
        f"--task sentence_prediction --criterion sentence_prediction --path {best}",
        "--num-classes 2 --init-token 0 --batch-size 7 --max-positions 24 --log-format json",
    )  # fmt: skip
    assert float(output.split('"valid_accuracy": "')[1].split('"')[0]) > 90


def test_several_languages(trained, tmp_path):
    """The longest sequence is the task's --tokens-per-sample, as for fairseq's own models."""
    for language in "xy":
        (tmp_path / language).symlink_to(trained / "words")
    (tmp_path / "dict.txt").symlink_to(trained / "words" / "dict.txt")
    output = run_warm(
        "train", tmp_path, f"--task multilingual_masked_lm --criterion masked_lm {TRAIN}",
        "--tokens-per-sample 24 --encoder-chunk-size -1 --rel-pos-bias simple --max-update 2",
        f"--no-save --save-dir {tmp_path}",
    )  # fmt: skip
    assert len(losses(output)) == 2
