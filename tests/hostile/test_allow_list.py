"""What the plugin lets torch build from a file gives no way in, whatever the file asks of it.

An attack may end the process in a segmentation fault: all are made in a process of its own, which
says how each one ended.
"""

import json
import subprocess
import sys

import pytest
from commands import ROOT
from pickles import Again, Build, Call, Kept, Name, New, save

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
    "records of objects": (array((1,), dtype("V8"), b"A" * 8), "numpy.dtype 'V8'"),
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
    "dtype with an empty state": (dtype("f8", ()), "byte order"),
    "dtype of the array a string": (array((1,), "O", b"A" * 8), "something else than numbers"),
    "more elements than bytes": (array((1 << 40,), FLOAT, b"A" * 8), "shape"),
    "fewer bytes than elements": (array((4,), FLOAT, b"A" * 8), "has other data"),
    "shape that overflows": (array((1 << 62, 4), FLOAT, b""), "shape"),
    "shape with a zero that overflows": (array((0, 1 << 80), FLOAT, b""), "shape"),
    "negative shape": (array((-1,), FLOAT, b"A" * 8), "shape"),
    "shape of floats": (array((1.0,), FLOAT, b"A" * 8), "shape"),
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
    "array of a tensor": (Call(RECONSTRUCT, (Name("torch.Tensor"), (0,), b"b")), "numpy.ndarray"),
    "scalar of objects": (Call(SCALAR, (dtype("O8"), b"cos\nsystem\n.")), "numpy.dtype 'O8'"),
    "scalar of a string as type": (Call(SCALAR, ("O", b"A" * 8)), "no number"),
    "scalar of too few bytes": (Call(SCALAR, (FLOAT, b"A")), "has other data"),
    "scalar without data": (Call(SCALAR, (FLOAT,)), "has other data"),
    "class of a namespace": (
        Build(Call(NAMESPACE), ({"__class__": Name("torch.storage.TypedStorage")},)),
        "'__class__' cannot be an option",
    ),
    "class of a namespace as slot": (
        Build(Call(NAMESPACE), ((None, {"__class__": Name("torch.storage.TypedStorage")}),)),
        "no dictionary",
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
    "file mapped": (Call(Name("numpy.memmap"), ("/etc/hostname",)), "numpy.memmap"),
    "numpy's own loader": (Call(Name("numpy.load"), ("x", None, True)), "numpy.load"),
    "buffer of protocol 5": (Name("numpy.core.numeric._frombuffer"), "_frombuffer"),
    "our own names": (Name("fairseq_mega.checkpoints.types._Numbers"), "fairseq_mega.checkpoints"),
}

LOAD = """
import json, sys
from pathlib import Path
import torch
import fairseq_mega

for path in sorted(Path(sys.argv[1]).iterdir()):
    try:
        print(json.dumps([path.name, "", repr(torch.load(path, weights_only=True))]), flush=True)
    except Exception as error:
        print(json.dumps([path.name, type(error).__name__, str(error)]), flush=True)
"""


@pytest.fixture(scope="module")
def endings(tmp_path_factory):
    """How each attack ended: the exception's type and words. Not in it: one that ended the
    process."""
    folder = tmp_path_factory.mktemp("attacks")
    for name, (attack, _) in ATTACKS.items():
        save(attack, folder / name)
    process = subprocess.run(
        [sys.executable, "-c", LOAD, str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    ends = {name: ending for name, *ending in map(json.loads, process.stdout.splitlines())}
    return ends, process.returncode


@pytest.mark.parametrize("name", ATTACKS)
def test_no_attack_gets_in(endings, name):
    ends, _ = endings
    assert name in ends, "the process had ended"
    error, words = ends[name]
    assert error in ("UnpicklingError", "TypeError") and ATTACKS[name][1] in words, words


def test_the_process_survives_them_all(endings):
    ends, code = endings
    assert code == 0 and len(ends) == len(ATTACKS)
