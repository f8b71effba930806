"""Images as lines of text, the published layout, to an array of bytes."""

import io
import warnings
from pathlib import Path
from typing import BinaryIO, Optional

import numpy as np

from .arrays import MappedArray, cached

HEADER = 128  # bytes that numpy's header of a small array takes


def map_pixels(source: Path, cache: Optional[str]) -> MappedArray:
    """Images ``(n, L)`` of bytes: of a file of lines of ``L`` numbers from 0 to 255.

    Args:
        cache: the folder of the copy in bytes; None for that of the file.

    Raises:
        ValueError: at the first line that is no such image; names file and line.
    """
    return cached(source, cache, lambda file: write_pixels(source, file))


def write_pixels(source: Path, file: BinaryIO) -> None:
    """Copies the lines of ``source`` as an array, holding one at a time in memory."""
    file.write(bytes(HEADER))
    images, length = 0, None
    with open(source, "rb") as lines:
        for images, line in enumerate(lines, start=1):
            image = _read_line(line, f"{source}, line {images}", length)
            length = image.size
            file.write(image.tobytes())
    if not images:
        raise ValueError(f"{source} is empty: it must have an image a line")
    header = io.BytesIO()
    description = {"descr": "|u1", "fortran_order": False, "shape": (images, length)}
    np.lib.format.write_array_header_1_0(header, description)
    assert header.tell() == HEADER
    file.seek(0)
    file.write(header.getvalue())


def _read_line(line: bytes, where: str, length: Optional[int]) -> np.ndarray:
    """The pixels of one line, which must be ``length`` many, if that is given."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)  # how numpy reports what is no number
        try:
            words = line.strip()  # of nothing but blanks, numpy would make a number
            pixels = np.fromstring(words, dtype=np.int64, sep=" ") if words else np.empty(0)
        except (DeprecationWarning, ValueError) as error:
            raise ValueError(
                f"{where} has something else than whole numbers with blanks between them: "
                "pixels must be numbers from 0 to 255"
            ) from error
    if not pixels.size or (length is not None and pixels.size != length):
        raise ValueError(
            f"{where} has {pixels.size} pixels, but "
            + (f"those before have {length}" if length else "must have some")
            + ": all images must have the same size"
        )
    low, high = pixels.min(), pixels.max()
    if low < 0 or high > 255:
        raise ValueError(
            f"{where} has a pixel of {low if low < 0 else high}, but pixels must be numbers from 0 "
            "to 255"
        )
    return pixels.astype(np.uint8)
