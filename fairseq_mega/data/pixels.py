"""Reads images in the published layout, lines of text, through a copy in bytes."""

from functools import partial
from pathlib import Path
from typing import BinaryIO, Optional

import numpy as np
import torch
from torch import Tensor

from .arrays import Numbers, cached


def map_pixels(source: Path, cache: Optional[str], mean: float, std: float) -> Numbers:
    """Maps normalised images from a file with one image per line, ``L`` numbers from 0 to 255.

    Args:
        cache: the folder of the copy in bytes (default: the file's folder).
    """
    scale = partial(scale_pixels, mean=mean, std=std)
    return Numbers(cached(source, cache, write_pixels), partial(np.load, mmap_mode="r"), scale)


def scale_pixels(pixels: np.ndarray, mean: float, std: float) -> Tensor:
    """Returns ``(pixels / 255 - mean) / std``, of the same shape, in float32."""
    return (torch.from_numpy(pixels).float() / 255 - mean) / std


def write_pixels(source: Path, file: BinaryIO) -> None:
    """Copies the lines of ``source`` as an array of bytes, with one line at a time in memory."""
    with open(source, "rb") as lines:
        count = sum(1 for _ in lines)
    if count == 0:
        raise ValueError(f"{source} is empty, but must have one image per line")
    length = 0
    with open(source, "rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                image = bytes(map(int, line.split()))
            except ValueError:  # not an integer, or not from 0 to 255
                image = b""
            if not image:
                raise ValueError(
                    f"{source}, line {number} must be integers from 0 to 255, separated by "
                    f"spaces, but is {line.decode(errors='replace').strip()!r:.80}"
                )
            if not length:
                length = len(image)
                header = {"descr": "|u1", "fortran_order": False, "shape": (count, length)}
                np.lib.format.write_array_header_1_0(file, header)
            if len(image) != length:
                raise ValueError(
                    f"{source}, line {number} has {len(image)} pixels, but the lines before it "
                    f"have {length}: all images must have the same size"
                )
            file.write(image)
