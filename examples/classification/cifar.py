"""CIFAR-10's files for Python: pickles, of which only plain data and arrays of bytes are read.

A pickle can name any function and have it called. Here the few names that these files need stand
for objects that only keep what they are given; at any other name, reading ends.
"""

import pickle
from pathlib import Path
from typing import Tuple

import numpy as np

from examples.download import Remote
from examples.steps import PreparationError

CIFAR10 = Remote("LRA_CIFAR10", "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz")
CIFAR_TRAIN = [f"data_batch_{i}" for i in range(1, 6)]
CIFAR_TEST = "test_batch"
SIDE = 32  # pixels
CLASSES = 10


class Kept:
    """What stands for an array or its type: it keeps the arguments and the state of the pickle."""

    def __init__(self, *arguments):
        self.arguments, self.state = arguments, ()

    def __setstate__(self, state):
        self.state = state


class Unpickler(pickle.Unpickler):
    """Reads dictionaries, lists, numbers, strings, and arrays as ``Kept``."""

    names = {
        ("numpy", "ndarray"): Kept,
        ("numpy", "dtype"): Kept,
        ("numpy.core.multiarray", "_reconstruct"): Kept,
        ("numpy._core.multiarray", "_reconstruct"): Kept,
    }

    def find_class(self, module: str, name: str):
        if (module, name) == ("_codecs", "encode"):
            return lambda text, encoding: text.encode("latin1")  # bytes, of newer Pythons
        if (module, name) in self.names:
            return self.names[module, name]
        raise pickle.UnpicklingError(f"it names {module}.{name}, which no such file needs")

    def persistent_load(self, _):
        raise pickle.UnpicklingError("it refers to objects outside")


def read_batch(path: Path) -> Tuple[np.ndarray, np.ndarray]:
    """Images ``(n, 32, 32, 3)`` of bytes, and their classes ``(n,)``.

    Raises:
        PreparationError: where the file is missing, cut off, or holds something else.
    """
    if not path.is_file():
        raise PreparationError(
            f"{path} is not there: --from must be the folder of {', '.join(CIFAR_TRAIN)} and "
            f"{CIFAR_TEST}"
        )
    try:
        with path.open("rb") as file:
            batch = Unpickler(file, encoding="bytes").load()
        pixels, labels = array_of(batch[b"data"]), np.array(batch[b"labels"], dtype=np.int64)
        if labels.ndim != 1 or not ((labels >= 0) & (labels < CLASSES)).all():
            raise ValueError("its labels are not numbers from 0 to 9")
        pixels = pixels.reshape(len(labels), 3, SIDE, SIDE)
    # A damaged pickle raises nearly anything.
    except Exception as error:  # noqa: BLE001
        raise PreparationError(
            f"{path} is no batch of CIFAR-10 that can be read ({error or type(error).__name__}): "
            "delete it, and get it again"
        ) from error
    return pixels.transpose(0, 2, 3, 1), labels


def array_of(kept: Kept) -> np.ndarray:
    """The array of bytes that a pickle describes: its state is version, shape, type, whether it is
    column by column, and the bytes."""
    _, shape, kind, by_column, content = kept.state
    if kind.arguments[0] not in ("u1", b"u1") or by_column:
        raise ValueError("its images are not rows of bytes")
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)
