"""Torch builds values and options from a checkpoint and nothing else, whatever the file asks
for."""

import argparse
import pickle

import numpy as np
import pytest
import torch
from pickles import Again, Build, Call, Kept, Name, New, save

import fairseq_mega  # noqa: F401 - it lists the types

NDARRAY, DTYPE, NAMESPACE = (
    Name(name) for name in ("numpy.ndarray", "numpy.dtype", "argparse.Namespace")
)
RECONSTRUCT = Name("numpy.core.multiarray._reconstruct")
SCALAR = Name("numpy.core.multiarray.scalar")
EMPTY = Call(RECONSTRUCT, (NDARRAY, (0,), b"b"))
NATIVE = (3, "<", None, None, None, -1, -1, 0)


def dtype(code, *states):
    return Build(Call(DTYPE, (code, False, True)), states or (NATIVE,))


def array(shape, kind, data, *more):
    return Build(EMPTY, ((1, shape, kind, False, data), *more))


FLOAT = dtype("f8")
ONE = (1, (1,), FLOAT, False, b"A" * 8)
# Attacks by name, and what the error must say.
ATTACKS = {
    "array of a buffer by call": (Call(NDARRAY, ((1,), "O", b"A" * 8)), "positional argument"),
    "array of a buffer by new": (New(NDARRAY, ((1,), "O", b"A" * 8)), "positional argument"),
    "array of objects": (array((1,), dtype("O8"), b"A" * 8), "numpy.dtype 'O8'"),
    "array of objects in a list": (array((1,), dtype("O8"), ["x"]), "numpy.dtype 'O8'"),
    "fields by a list": (dtype([("a", "O")]), "numpy.dtype"),
    "type by a class": (dtype(NAMESPACE), "numpy.dtype"),
    "dtype without a code": (New(DTYPE), "numpy.dtype None"),
    "number type made one of objects": (
        array((1,), dtype("f8", (3, "|", None, ("a",), {"a": (dtype("O8"), 0)}, 8, 1, 63)), b""),
        "numpy.dtype",
    ),
    "number type made one of parts": (
        dtype("f8", (3, "|", (Call(DTYPE, ("f8",)), (1 << 40,)), None, None, 8, 1, 0)),
        "has parts",
    ),
    "byte order of another type": (dtype("f8", (3, {}, None, None, None, 1, 1, 0)), "byte order"),
    "dtype of the array a string": (array((1,), "O", b"A" * 8), "something else than numbers"),
    "more elements than bytes": (array((1 << 40,), FLOAT, b"A" * 8), "shape"),
    "fewer bytes than elements": (array((4,), FLOAT, b"A" * 8), "has other data"),
    "shape that overflows": (array((1 << 62, 4), FLOAT, b""), "shape"),
    "shape with a zero that overflows": (array((0, 1 << 80), FLOAT, b""), "shape"),
    "negative shape": (array((-1,), FLOAT, b"A" * 8), "shape"),
    "too many dimensions": (array((1,) * 100, FLOAT, b"A" * 8), "shape"),
    "array without data": (array((1,), FLOAT, None), "something else than numbers"),
    "state of an array too short": (Build(EMPTY, ((1, (1,)),)), "unknown version"),
    "array filled twice": (Build(EMPTY, (ONE, ONE)), "filled twice"),
    "memory freed under a tensor": (
        (
            Kept(1, array((4096,), FLOAT, b"A" * 8 * 4096)),
            Call(
                Name("torch._utils._rebuild_device_tensor_from_numpy"),
                (Again(1), Name("torch.float64"), "cpu", False),
            ),
            Build(Again(1), (ONE,)),
        ),
        "filled twice",
    ),
    "array of another class": (Call(RECONSTRUCT, (NAMESPACE, (0,), b"b")), "is for numpy.ndarray"),
    "scalar of objects": (Call(SCALAR, (dtype("O8"), b"cos\nsystem\n.")), "numpy.dtype 'O8'"),
    "complex scalar": (Call(SCALAR, (dtype("c16"), b"A" * 16)), "numpy.dtype 'c16'"),
    "scalar of a string as type": (Call(SCALAR, ("O", b"A" * 8)), "not a number"),
    "scalar of too few bytes": (Call(SCALAR, (FLOAT, b"A")), "has other data"),
    "class of a namespace": (
        Build(Call(NAMESPACE), ({"__class__": Name("torch.storage.TypedStorage")},)),
        "'__class__' cannot be an option",
    ),
    "class of a namespace as slot": (
        Build(Call(NAMESPACE), ((None, {"__class__": Name("torch.storage.TypedStorage")}),)),
        "not a dictionary",
    ),
    "method of a namespace": (
        Build(Call(NAMESPACE), ({"_get_kwargs": Name("builtins.set")},)),
        "'_get_kwargs' cannot be an option",
    ),
    "number as a name": (Build(Call(NAMESPACE), ({1: 2},)), "1 cannot be an option"),
    "namespace filled twice": (Build(Call(NAMESPACE), ({"a": 1}, {"b": 2})), "Can only build"),
    "arguments of a namespace": (Call(NAMESPACE, (1,)), "positional argument"),
    "array at another name": (Name("numpy.core.multiarray.array"), "numpy.core.multiarray.array"),
    "array of a file": (Call(Name("numpy.fromfile"), ("/etc/hostname",)), "numpy.fromfile"),
    "type of Python's": (Call(Name("collections.deque"), ("abc",)), "collections.deque"),
    "buffer of protocol 5": (Name("numpy.core.numeric._frombuffer"), "_frombuffer"),
    "our own names": (Name("fairseq_mega.checkpoints.types._Numbers"), "fairseq_mega.checkpoints"),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_no_attack_gets_in(name, tmp_path):
    attack, says = ATTACKS[name]
    save(attack, tmp_path / "attack")
    with pytest.raises((pickle.UnpicklingError, TypeError)) as refused:
        torch.load(tmp_path / "attack", weights_only=True)
    assert says in str(refused.value)


# --- what loads ---------------------------------------------------------------------------------


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


def test_the_options_of_a_training_are_a_plain_namespace(tmp_path):
    loaded = round_trip(tmp_path, checkpoint())
    assert vars(loaded["args"]) == vars(checkpoint()["args"])
    assert type(loaded["args"]) is argparse.Namespace
    for args in (argparse.Namespace(arch="mega", lr=[0.1]), argparse.Namespace()):
        loaded = round_trip(tmp_path, round_trip(tmp_path, args))
        assert loaded == args and isinstance(loaded, argparse.Namespace)


@pytest.mark.parametrize("dtype", [np.int64, np.float64, np.float32])
def test_numpy_scalars_load(tmp_path, dtype):
    loaded = round_trip(tmp_path, checkpoint(loss=dtype(3.0)))["extra_state"]["loss"]
    assert loaded == 3 and type(loaded) is dtype


@pytest.mark.parametrize(
    "dtype, shape",
    [("i8", (12,)), ("f8", (3, 4)), ("f4", ()), ("f2", (1, 2, 3)), ("u1", (3, 4)), ("?", (12,))]
    + [(">i4", (3, 4)), (">f8", ())],
)
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
