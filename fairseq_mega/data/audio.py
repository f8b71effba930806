"""Reads audio clips in the published layout, tensors on disk, through memory maps."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

WORDS = ("yes", "no", "up", "down", "left", "right", "on", "off", "stop", "go")


def read_clips(path: Path) -> np.ndarray:
    """Maps a tensor ``(n, 1, L)`` or ``(n, L)`` on disk to clips ``(n, L)``."""
    clips = _map_tensor(path)
    if clips.ndim == 3 and clips.shape[1] == 1:
        clips = clips[:, 0]
    if clips.ndim != 2 or clips.dtype.kind not in "if":
        raise ValueError(
            f"{path} holds a tensor {clips.shape} of {clips.dtype}, but must hold clips of equal "
            "length, (clips, 1, samples) or (clips, samples), in a float or signed integer type"
        )
    return clips


def scale_clip(clip: np.ndarray) -> Tensor:
    """Converts samples ``(L,)`` to float32; integers are scaled to the range from -1 to 1."""
    unit = np.iinfo(clip.dtype).max + 1 if clip.dtype.kind == "i" else 1
    return torch.from_numpy(clip).float() / unit


def read_clip_labels(path: Path) -> np.ndarray:
    """Reads the classes ``(n,)`` from a tensor of integers."""
    labels = _map_tensor(path)
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or (labels < 0).any():
        raise ValueError(
            f"{path} holds a tensor {labels.shape} of {labels.dtype}, but must hold one class "
            "number for each clip, counted from 0"
        )
    return labels.astype(np.int64)


def _map_tensor(path: Path) -> np.ndarray:
    try:
        return torch.load(path, map_location="cpu", mmap=True, weights_only=True).numpy()
    except Exception as error:
        raise ValueError(
            f"{path} cannot be read as one tensor ({error}): if it is truncated, copy it again; "
            "otherwise save a tensor in float32, float16 or int16 with torch.save"
        ) from error
