"""Runs the preparations of classification data, and trains on what they make."""

from contextlib import contextmanager

import pytest
from commands import run_warm
from server import running_server

from examples.classification import prepare

SPLITS = ("train", "valid", "test")
REMOTES = ("MEGA_LRA", "MEGA_SPEECH_COMMANDS", "LRA_IMDB", "LRA_CIFAR10")
TINY = (
    "--encoder-layers 1 --encoder-embed-dim 8 --encoder-hidden-dim 16 --z-dim 4 --n-dim 2 "
    "--chunk-size 64 --classifier-out-dim 16 --criterion lra_cross_entropy --sentence-avg "
    "--optimizer adam --lr 1e-3 --batch-size 4 --max-update 1 --log-format json --log-interval 1 "
    "--num-workers 0 --no-save"
)


@contextmanager
def serving_all():
    """A server that has all downloads by the names of their variables."""
    with pytest.MonkeyPatch.context() as patch, running_server() as server:
        for name in REMOTES:
            patch.setenv(f"{name}_URL", server.address(name))
        yield server


def make(*words):
    prepare.main([str(word) for word in words])


def refused(message, *words):
    """The preparation ends with a message that the pattern is in."""
    with pytest.raises(SystemExit, match=message):
        make(*words)


def train(data, task, options=""):
    """One update and one validation."""
    output = run_warm("train", data, f"--task {task}", TINY, options)
    assert '"train_num_updates": "1"' in output and '"valid_accuracy"' in output


def lines(path):
    return path.read_text().splitlines()
