"""Images as lines of text, the published layout, as an array of bytes."""

import warnings
from functools import partial
from pathlib import Path
from typing import BinaryIO, Optional

import numpy as np
import torch
from torch import Tensor

from .arrays import Numbers, cached


def map_pixels(source: Path, cache: Optional[str], mean: float, std: float) -> Numbers:
    """Images of a file of lines of ``L`` numbers from 0 to 255, normalised.

    Args:
        cache: the folder of the copy in bytes; None for the folder of the file.

    Raises:
        ValueError: at the first line that is not such an image; names file and line.
    """
    scale = partial(scale_pixels, mean=mean, std=std)
    return Numbers(cached(source, cache, write_pixels), partial(np.load, mmap_mode="r"), scale)


def scale_pixels(pixels: np.ndarray, mean: float, std: float) -> Tensor:
    """``(pixels / 255 - mean) / std``, of the same shape, in float32."""
    return (torch.from_numpy(pixels).float() / 255 - mean) / std


def write_pixels(source: Path, file: BinaryIO) -> None:
    """Copies the lines of ``source`` as an array of bytes, with one line at a time in memory."""
    with open(source, "rb") as lines:
        count = sum(1 for _ in lines)
    if count == 0:
        raise ValueError(f"{source} is empty: it must have an image a line")
    length = 0
    with open(source, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            image = _read_line(line, f"{source}, line {number}")
            if not length:
                length = image.size
                header = {"descr": "|u1", "fortran_order": False, "shape": (count, length)}
                np.lib.format.write_array_header_1_0(file, header)
            if image.size != length:
                raise ValueError(
                    f"{source}, line {number} has {image.size} pixels, but those before have "
                    f"{length}: all images must have the same size"
                )
            file.write(image.tobytes())


def _read_line(line: bytes, where: str) -> np.ndarray:
    try:
        with warnings.catch_warnings(action="error"):  # old numpy only warns
            pixels = np.fromstring(line, dtype=np.int64, sep=" ")
    except (DeprecationWarning, ValueError):
        pixels = np.empty(0, dtype=np.int64)
    if not pixels.size or pixels.min() < 0 or pixels.max() > 255:
        raise ValueError(
            f"{where} must be whole numbers from 0 to 255 with blanks between them, but is "
            f"{line.decode(errors='replace').strip()!r:.80}"
        )
    return pixels.astype(np.uint8)
