"""The types that a checkpoint may hold besides tensors and plain containers.

torch loads checkpoints with ``weights_only=True``, which builds only objects of listed types.
fairseq's checkpoints hold an ``argparse.Namespace``, those of trainings with --eval-bleu numpy
arrays of counts, and those of the published Mega language models numpy scalars.

The list applies to every file that the process loads, and torch calls the listed types with
arguments taken from the file. numpy's own types are therefore not on it: ``np.ndarray`` makes an
array of objects from the bytes in a file, a second ``__setstate__`` frees memory that a tensor may
share, and that of an ``np.dtype`` changes it for the whole process. The names that numpy writes to
files lead to the stand-ins below, which accept numbers and nothing else.
"""

import argparse
import math
import re
from pickle import UnpicklingError
from typing import Any, Tuple

import numpy as np
import torch

# Booleans, integers and floating-point numbers, by the names that numpy gives them in files.
_NUMBERS = re.compile("b1|[iu][1248]|f[248]")


class _Namespace(argparse.Namespace):
    """Becomes an ``argparse.Namespace`` when it is given its attributes."""

    def __setstate__(self, state: dict) -> None:
        if type(state) is not dict:
            raise UnpicklingError("the attributes of an argparse.Namespace are not a dictionary")
        for name in state:
            # An attribute such as __class__ would change what the object is.
            if type(name) is not str or name.startswith("__") or hasattr(argparse.Namespace, name):
                raise UnpicklingError(f"{name!r:.80} cannot be an option in an argparse.Namespace")
        vars(self).update(state)
        self.__class__ = argparse.Namespace  # type: ignore[assignment]

    def __reduce__(self) -> Tuple:
        """Saves an empty one, which was given no attributes, as an ``argparse.Namespace``."""
        return argparse.Namespace, ()


class _Dtype:
    """The type of numbers that a file gives to ``numpy.dtype``; only names what to build."""

    code: str
    order: str

    def __new__(cls, code: Any = None, *_: Any) -> "_Dtype":  # torch calls no __init__
        if type(code) is not str or not _NUMBERS.fullmatch(code):
            raise UnpicklingError(
                f"numpy.dtype {code!r:.80}: arrays in checkpoints are of booleans, integers or "
                "floating-point numbers"
            )
        self = super().__new__(cls)
        self.code, self.order = code, "="
        return self

    def __setstate__(self, state: Tuple) -> None:
        """``state`` is (version, byte order, 3 entries for other types than numbers, ...)."""
        if type(state) is not tuple or len(state) < 5 or state[1] not in ("<", ">", "|", "="):
            raise UnpicklingError("numpy.dtype: not the byte order of a type of numbers")
        if state[2:5] != (None, None, None):
            raise UnpicklingError("numpy.dtype: it has parts, but a number has none")
        self.order = state[1]

    def read(self, data: Any, count: int) -> np.ndarray:
        """Reads ``count`` numbers from their bytes."""
        dtype = np.dtype(self.order + self.code)
        if type(data) is not bytes or len(data) != count * dtype.itemsize:
            raise UnpicklingError(
                f"a numpy array of {count} numbers of {dtype.itemsize} bytes has other data"
            )
        return np.frombuffer(data, dtype)


class _Numbers(np.ndarray):
    """An array without elements that is filled, once, with what the file says."""

    def __new__(cls) -> "_Numbers":
        return super().__new__(cls, 0, np.int8)

    def __setstate__(self, state: Tuple) -> None:  # type: ignore[override]
        """``state`` is (version, shape, dtype, whether columns come first, data)."""
        if type(state) is not tuple or len(state) != 5:
            raise UnpicklingError("a numpy array of an unknown version")
        if vars(self):  # torch may hold the memory by now
            raise UnpicklingError("a numpy array is filled twice")
        _, shape, dtype, columns_first, data = state
        if type(dtype) is not _Dtype or type(data) is not bytes:
            raise UnpicklingError("a numpy array of something else than numbers")
        if (
            type(shape) is not tuple
            or len(shape) > 32
            or any(type(size) is not int or not 0 <= size <= len(data) for size in shape)
        ):
            raise UnpicklingError(f"{shape!r:.80} is not the shape of a numpy array")
        values = dtype.read(data, math.prod(shape)).reshape(shape, order="CF"[bool(columns_first)])  # type: ignore[call-overload]
        vars(self)["filled"] = True
        self.dtype = values.dtype  # type: ignore[misc]
        self.resize(shape, refcheck=False)
        self[...] = values

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Saves an array of numpy's."""
        return self.view(np.ndarray).__reduce_ex__(protocol)


def _reconstruct(kind: Any = None, *_: Any) -> _Numbers:
    """Replaces numpy's function of this name, with which its arrays begin in files."""
    if kind is not _Numbers:
        raise UnpicklingError("numpy's _reconstruct is for numpy.ndarray")
    return _Numbers()


def _scalar(dtype: Any = None, data: Any = None) -> np.generic:
    """Replaces ``numpy.core.multiarray.scalar``."""
    if type(dtype) is not _Dtype:
        raise UnpicklingError("a numpy scalar that is not a number")
    return dtype.read(data, 1)[0]


def allow_checkpoint_types() -> None:
    """Allows the types that fairseq's and the published checkpoints hold."""
    multiarray = "numpy.core.multiarray", "numpy._core.multiarray"  # the second from numpy 2 on
    torch.serialization.add_safe_globals(
        [
            (_Namespace, "argparse.Namespace"),
            (_Numbers, "numpy.ndarray"),
            (_Dtype, "numpy.dtype"),
            *((_scalar, f"{module}.scalar") for module in multiarray),
            *((_reconstruct, f"{module}._reconstruct") for module in multiarray),
        ]
    )
