"""Arrays on disk, read through memory maps in the type in which they are stored.

A file that cannot be mapped, such as text, is copied once. The name of the copy contains a hash of
the source's size and times of change, so that an outdated copy is never used.
"""

import hashlib
import logging
from pathlib import Path
from typing import BinaryIO, Callable, Optional

import numpy as np
from filelock import FileLock
from torch import Tensor

from ..checkpoints.writing import replaced_file

logger = logging.getLogger(__name__)


class Numbers:
    """Rows of an array ``(n, L)`` in a file, of which a pickle holds only the path.

    Args:
        read: maps the file at ``path`` to an array.
        scale: converts a row ``(L,)`` to the model's input in float32.
    """

    def __init__(self, path: Path, read: Callable[[Path], np.ndarray], scale: Callable):
        self.path, self.read, self.scale = path, read, scale
        self.array = read(path)
        self.sizes = np.full(len(self.array), self.array.shape[1], dtype=np.int64)

    def __reduce__(self):
        return Numbers, (self.path, self.read, self.scale)

    def __len__(self) -> int:
        return len(self.array)

    def __getitem__(self, row: int) -> Tensor:
        """``(L,)``."""
        return self.scale(np.array(self.array[row]))


def as_numbers(document, what: str) -> np.ndarray:
    """Flattens an array or nested lists of numbers to ``(L,)``; errors call it ``what``."""
    try:
        row = np.array(document).reshape(-1)
    except ValueError:  # rows of different lengths
        row = np.array(None)
    if row.dtype.kind not in "buif":
        raise ValueError(f"{what} must be an array of numbers, but is {document!r:.80}")
    return row


def cached(source: Path, folder: Optional[str], write: Callable[[Path, BinaryIO], None]) -> Path:
    """Returns the copy of ``source``, and makes it first if it is missing.

    Args:
        folder: the folder of the copy (default: the source's).
        write: copies the source to an open file, in numpy's format.
    """
    state = source.stat()
    stem = source.name if folder is None else f"{source.name}.{_digest(source.resolve())}"
    mark = _digest((state.st_size, state.st_mtime_ns, state.st_ctime_ns))
    target = Path(folder or source.parent) / f"{stem}.{mark}.npy"
    if target.exists():
        return target
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f"{stem}.lock")):
            if not target.exists():  # another process may have made it
                logger.info(f"preparing {target}, once, from {source}")
                with replaced_file(target) as part, open(part, "wb") as file:
                    write(source, file)
                for other in target.parent.glob(f"{stem}.{'?' * len(mark)}.npy"):
                    if other != target:
                        other.unlink()
    except OSError as error:
        raise OSError(
            f"the cache {target} cannot be written ({error.strerror or error}): set --cache-dir "
            "to a writable folder with enough free space"
        ) from error
    return target


def _digest(value) -> str:
    return hashlib.sha256(str(value).encode()).hexdigest()[:16]
