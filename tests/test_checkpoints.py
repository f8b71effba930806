"""What torch loads from a checkpoint: the types that are listed, and nothing else."""

import argparse
import collections
import os
import pathlib
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import fairseq_mega

ROOT = Path(fairseq_mega.__file__).parents[1]


class Custom:
    pass


class RunsCommand:
    """Unpickled, it creates a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


def checkpoint(**extra):
    """A checkpoint of fairseq 0.9's kind."""
    return {
        "args": argparse.Namespace(arch="mega", lr=[0.1], betas=(0.9, 0.98), data=None),
        "model": {"weight": torch.ones(2)},
        "extra_state": {"epoch": 1, "val_loss": None, **extra},
    }


def round_trip(tmp_path, obj):
    torch.save(obj, tmp_path / "checkpoint.pt")
    return torch.load(tmp_path / "checkpoint.pt")


def test_checkpoints_of_the_commands_load(tmp_path):
    loaded = round_trip(tmp_path, checkpoint())
    assert vars(loaded["args"]) == vars(checkpoint()["args"])
    assert torch.equal(loaded["model"]["weight"], torch.ones(2))


@pytest.mark.parametrize("dtype", [np.int64, np.float64, np.float32])
def test_numpy_scalars_load(tmp_path, dtype):
    loaded = round_trip(tmp_path, checkpoint(loss=dtype(3.0)))["extra_state"]["loss"]
    assert loaded == 3 and type(loaded) is dtype


@pytest.mark.parametrize("dtype", ["i8", "f8", "f4", "f2", "u1", "?", ">i4", ">f8"])
@pytest.mark.parametrize("shape", [(12,), (3, 4), (), (1, 2, 3)])
def test_numpy_arrays_load(tmp_path, dtype, shape):
    """fairseq keeps the counts of --eval-bleu in them. Saved again, they load again, and also
    without the plugin's types."""
    array = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    for each in (array, np.array(array, order="F")):
        for _ in range(2):
            loaded = round_trip(tmp_path, checkpoint(counts=each))
            each = loaded["extra_state"]["counts"]
            assert isinstance(each, np.ndarray) and each.dtype == array.dtype
            assert each.shape == shape and each.tolist() == array.tolist()
        assert type(pickle.loads(pickle.dumps(each))) is np.ndarray
        each[...] = 1  # its own memory, which can be written to
        assert (each * each == 1).all()


def test_the_arguments_of_a_training_are_a_plain_namespace(tmp_path):
    for args in (argparse.Namespace(arch="mega", lr=[0.1]), argparse.Namespace()):
        loaded = round_trip(tmp_path, round_trip(tmp_path, args))
        assert loaded == args and isinstance(loaded, argparse.Namespace)
    assert type(round_trip(tmp_path, checkpoint())["args"]) is argparse.Namespace


def test_numpy_arrays_hold_no_code(tmp_path):
    mark = tmp_path / "mark"
    with pytest.raises(pickle.UnpicklingError, match="posix.system|numpy.dtype 'O8'"):
        round_trip(tmp_path, checkpoint(counts=np.array([RunsCommand(mark)])))
    assert not mark.exists()


@pytest.mark.parametrize(
    "value, name",
    [
        (collections.deque("abc"), "collections.deque"),
        (Custom(), f"{__name__}.Custom"),
        (pathlib.PurePosixPath("/tmp"), "pathlib.PurePosixPath"),
        (os.getcwd, "posix.getcwd"),
        (np.array(["a", None]), "numpy.dtype 'O8'"),
        (np.complex128(1), "numpy.dtype 'c16'"),
    ],
    ids=lambda value: str(type(value)),
)
def test_other_types_are_refused_by_name(tmp_path, value, name):
    with pytest.raises(pickle.UnpicklingError, match=name):
        round_trip(tmp_path, checkpoint(extra=value))


def test_numpy_scalars_of_objects_are_refused(tmp_path):
    """They hold a pickle of their own."""
    mark = tmp_path / "mark"
    scalar = type(
        "Scalar",
        (),
        {
            "__reduce__": lambda self: (
                np.float64(0).__reduce__()[0],
                (np.dtype(object), pickle.dumps(RunsCommand(mark))),
            )
        },
    )()
    with pytest.raises(pickle.UnpicklingError, match="numpy.dtype 'O8'"):
        round_trip(tmp_path, checkpoint(loss=scalar))
    assert not mark.exists()


@pytest.mark.parametrize("place", ["value", "key", "args"])
def test_a_tampered_pickle_runs_no_code(tmp_path, place):
    mark = tmp_path / "mark"
    bad = checkpoint()
    if place == "value":
        bad["model"]["weight"] = RunsCommand(mark)
    elif place == "key":
        bad[RunsCommand(mark)] = 1
    else:
        bad["args"].data = RunsCommand(mark)
    with pytest.raises(pickle.UnpicklingError, match="posix.system"):
        round_trip(tmp_path, bad)
    assert not mark.exists()


def load_in_a_new_process(path, plugin):
    code = f"import torch; {'import fairseq_mega; ' * plugin}torch.load({str(path)!r}); print('ok')"
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300
    )


def test_it_is_the_plugin_that_lists_the_types(tmp_path):
    torch.save(checkpoint(loss=np.float64(3)), tmp_path / "checkpoint.pt")
    with_plugin = load_in_a_new_process(tmp_path / "checkpoint.pt", plugin=True)
    assert with_plugin.stdout == "ok\n", with_plugin.stderr
    without = load_in_a_new_process(tmp_path / "checkpoint.pt", plugin=False)
    assert without.returncode != 0 and "weights_only" in without.stderr


@pytest.mark.parametrize("name", ["translation", "language_model"])
def test_published_checkpoints_load(parity, name):
    loaded = torch.load(parity / name / "checkpoint.pt", weights_only=True)
    assert isinstance(loaded["args"], argparse.Namespace)
    assert "decoder.layers.0.mega_layer.move.delta" in loaded["model"]
