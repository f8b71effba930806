"""Arrays of numbers on disk, read through memory maps in the type that they are stored in.

What cannot be mapped as it is, such as text, is copied once into a file that can, the cache. Its
name holds the source's size and the times of its last changes, so that another source never meets
the cache of an earlier one; it gets this name when it is complete; and of several processes that
need it, one makes it while the others wait.
"""

import fcntl
import hashlib
import logging
import os
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Callable, Optional

import numpy as np
import torch

logger = logging.getLogger(__name__)

MARK = len("0123456789abcdef.npy")  # of the state of a source, at the end of a cache's name
CLOCK = 0.05  # seconds within which two changes of a file may bear the same time


class MappedArray:
    """An array ``(n, L)`` in a file; a copy in another process maps the file too.

    Args:
        path: the file.
        read: maps it: ``path`` to array.
    """

    def __init__(self, path: Path, read: Callable[[Path], np.ndarray]):
        self.path, self.read = path, read
        self.array = read(path)

    def __reduce__(self):
        return MappedArray, (self.path, self.read)

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, row: int) -> np.ndarray:
        return self.array[row]


def map_array(path: Path) -> np.ndarray:
    return np.load(path, mmap_mode="r")


def load_tensor(path: Path, mmap: bool = False) -> np.ndarray:
    """The tensor in a file of ``torch.save``.

    Args:
        mmap: map it, rather than read it.

    Raises:
        ValueError: where the file is cut off, or holds something else.
        RuntimeError: if ``mmap``, where it is in the format before torch 1.6.
    """
    try:
        tensor = torch.load(path, map_location="cpu", mmap=mmap, weights_only=True)
    except Exception as error:
        if "mmap can only be used" in str(error):
            raise
        raise ValueError(
            f"{path} cannot be read as a tensor, it may be cut off: copy it again ({error})"
        ) from error
    if not isinstance(tensor, torch.Tensor):
        raise ValueError(f"{path} holds a {type(tensor).__name__}, but must hold one tensor")
    if tensor.dtype == torch.bfloat16:
        raise ValueError(f"{path} holds bfloat16, which numpy lacks: save it as float16 or float32")
    return tensor.numpy()


def cached(source: Path, folder: Optional[str], write: Callable[[BinaryIO], None]) -> MappedArray:
    """The array that ``write`` makes of ``source``, from the cache if it is there.

    Args:
        folder: that of the cache; None for that of the source.
        write: writes it to an open file, in numpy's format.

    Raises:
        OSError: where the folder cannot be written; says what to do.
    """
    target = _cache_path(source, folder)
    if not target.exists():
        with _folder_for(target), _lock(target):
            if not target.exists():  # another process may have made it meanwhile
                _make(source, target, write)
                for stale in target.parent.glob(f"{target.name[:-MARK]}{'?' * MARK}"):
                    if stale != target:
                        stale.unlink(missing_ok=True)
    return MappedArray(target, map_array)


def _cache_path(source: Path, folder: Optional[str]) -> Path:
    """A name for the cache that no other source, and no other state of this one, has."""
    changed = source.stat().st_ctime
    time.sleep(max(0.0, min(CLOCK, changed + CLOCK - time.time())))
    state = source.stat()
    mark = _digest(f"{state.st_size} {state.st_mtime_ns} {state.st_ctime_ns}")
    if folder is None:
        return source.parent / f"{source.name}.{mark}.npy"
    return Path(folder) / f"{source.name}.{_digest(str(source.resolve()))}.{mark}.npy"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@contextmanager
def _folder_for(target: Path):
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise OSError(
            f"the cache {target} cannot be written ({error.strerror or error}): give --cache-dir, "
            "a folder that can be written, with room for it"
        ) from error


@contextmanager
def _lock(target: Path):
    path = target.with_suffix(".lock")
    with open(path, "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def _make(source: Path, target: Path, write: Callable[[BinaryIO], None]) -> None:
    logger.info(f"preparing {target}, once, from {source}")
    descriptor, name = tempfile.mkstemp(dir=target.parent, suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o644)
        os.replace(name, target)
    finally:
        Path(name).unlink(missing_ok=True)
    logger.info(f"prepared {target}")
