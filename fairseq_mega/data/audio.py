"""Clips of audio in tensors on disk, the published layout, read through memory maps."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

WORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")


def read_clips(path: Path) -> np.ndarray:
    """Maps clips ``(n, L)`` of a tensor ``(n, 1, L)`` or ``(n, L)``.

    Raises:
        ValueError: if the file is truncated or holds something else; names it.
    """
    clips = _map_tensor(path)
    if clips.ndim == 3 and clips.shape[1] == 1:
        clips = clips[:, 0]
    if clips.ndim != 2 or clips.dtype.kind not in "if":
        raise ValueError(
            f"{path} holds a tensor {clips.shape} of {clips.dtype}, but must hold clips of equal "
            "length, (clips, 1, samples) or (clips, samples), in a signed type"
        )
    return clips


def scale_clip(clip: np.ndarray) -> Tensor:
    """Samples ``(L,)`` in float32; whole numbers are divided so that they are from -1 to 1."""
    unit = np.iinfo(clip.dtype).max + 1 if clip.dtype.kind == "i" else 1
    return torch.from_numpy(clip).float() / unit


def read_clip_labels(path: Path) -> np.ndarray:
    """Classes ``(n,)`` of a tensor of whole numbers.

    Raises:
        ValueError: if the file is truncated or holds something else; names it.
    """
    labels = _map_tensor(path)
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or (labels < 0).any():
        raise ValueError(
            f"{path} holds a tensor {labels.shape} of {labels.dtype}, but must hold the number of "
            "a class, from 0 on, for each clip"
        )
    return labels.astype(np.int64)


def _map_tensor(path: Path) -> np.ndarray:
    try:
        return torch.load(path, map_location="cpu", mmap=True, weights_only=True).numpy()
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read as one tensor: if it is truncated, copy it again; save others "
            f"with torch.save, in float32, float16 or int16 ({error})"
        ) from error
