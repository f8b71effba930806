"""Clips of audio in tensors on disk, the published layout, through memory maps."""

from pathlib import Path
from typing import BinaryIO, Optional, Tuple

import numpy as np

from .arrays import MappedArray, cached, load_tensor

WORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")


def map_clips(path: Path, cache: Optional[str]) -> Tuple[MappedArray, float]:
    """Clips ``(n, L)`` from a tensor ``(n, 1, L)`` or ``(n, L)``, and the unit of its numbers.

    The file is mapped as it is, or a copy in ``cache`` where it is in the format before torch 1.6.

    Returns:
        The clips in the type of the tensor, and what to divide them by, see ``unit_of``.

    Raises:
        ValueError: where the file is cut off or holds something else; names it.
    """
    try:
        clips = MappedArray(path, read_clips)
    except RuntimeError:
        clips = cached(path, cache, lambda file: _copy_clips(path, file))
    return clips, unit_of(clips.array)


def unit_of(clips: np.ndarray) -> float:
    """What to divide samples of this type by, so that they are from -1 to 1."""
    return float(np.iinfo(clips.dtype).max + 1) if clips.dtype.kind == "i" else 1.0


def read_clips(path: Path) -> np.ndarray:
    return _as_rows(load_tensor(path, mmap=True), path)


def _copy_clips(path: Path, file: BinaryIO) -> None:
    np.lib.format.write_array(file, _as_rows(load_tensor(path), path))


def _as_rows(clips: np.ndarray, path: Path) -> np.ndarray:
    """``(n, 1, L)`` or ``(n, L)`` to ``(n, L)``."""
    if clips.ndim == 3 and clips.shape[1] == 1:
        clips = clips[:, 0]
    if clips.ndim != 2 or clips.dtype.kind not in "if":
        raise ValueError(
            f"{path} holds a tensor {clips.shape} of {clips.dtype}, but must hold clips of equal "
            "length, (clips, 1, samples) or (clips, samples), in a type of whole or real numbers "
            "with a sign"
        )
    return clips


def read_clip_labels(path: Path) -> np.ndarray:
    """Classes ``(n,)`` from a tensor of whole numbers.

    Raises:
        ValueError: where the file is cut off or holds something else; names it.
    """
    labels = load_tensor(path)
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or (labels < 0).any():
        raise ValueError(
            f"{path} holds a tensor {labels.shape} of {labels.dtype}, but must hold the number of "
            "a class, from 0 on, for each clip"
        )
    return labels.astype(np.int64)
