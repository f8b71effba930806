"""Pathfinder-like images from a definition: two dashed contours and two dots on their ends.

The class is 1 where both dots lie on one contour, and 0 where each lies on another. (The published
images were made by another generator, with more contours.) Contours keep ``APART`` pixels from
each other and from themselves, and gaps between dashes are at most 2 pixels wide, so that the class
can be seen without doubt.
"""

from collections.abc import Iterator
from typing import Optional, Tuple

import numpy as np

from examples.steps import PreparationError

STEP = 0.5  # pixels from a point of a contour to the next
DASH, GAP = 6, 4  # points
APART = 7  # pixels, along either axis, between the contours
MARGIN = 2  # pixels that stay empty at each edge
LINE, DOT = 150, 255  # grey levels
TURN = 0.12  # standard deviation of the change of direction at a point, in radians
SMALLEST = 24  # pixels on a side, below which two contours do not fit
ATTEMPTS = 10_000


def contour(size: int, length: int, draw: np.random.Generator) -> Optional[np.ndarray]:
    """A smooth random curve ``(points, 2)`` inside the image; None where it left it or met itself.

    Args:
        size: pixels on a side.
        length: pixels along the curve.
    """
    points = int(length / STEP)
    heading = draw.uniform(0, 2 * np.pi) + np.cumsum(draw.normal(0, TURN, points))
    path = np.cumsum(STEP * np.stack([np.cos(heading), np.sin(heading)], axis=1), axis=0)
    low, extent = path.min(axis=0), np.ptp(path, axis=0)
    room = size - 1 - 2 * MARGIN - extent
    if (room < 0).any():
        return None
    path += MARGIN - low + draw.uniform(0, room)
    near = distances(path, path) < APART
    order = np.arange(points)
    along = np.abs(order[:, None] - order[None, :]) * STEP
    return None if (near & (along > 2.5 * APART)).any() else path


def distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """The larger distance along an axis ``(n, m)`` of points ``(n, 2)`` and ``(m, 2)``."""
    return np.abs(first[:, None] - second[None, :]).max(axis=2)


def two_contours(size: int, draw: np.random.Generator) -> Tuple[np.ndarray, np.ndarray]:
    """Two curves ``(points, 2)`` that are ``APART``, at random."""
    length = int(0.8 * size)
    for _ in range(ATTEMPTS):
        first, second = contour(size, length, draw), contour(size, length, draw)
        if first is None or second is None or distances(first, second).min() < APART:
            continue
        return first, second
    raise PreparationError(f"--size {size}: two contours hardly fit; give a larger one")


def image(size: int, connected: bool, draw: np.random.Generator) -> np.ndarray:
    """An image ``(size, size)`` of bytes, in which the dots are on one contour, or on two."""
    pixels = np.zeros((size, size), dtype=np.uint8)
    first, second = two_contours(size, draw)
    for path in (first, second):
        on = np.arange(len(path)) % (DASH + GAP) < DASH
        on[-DASH:] = True  # a contour ends with a dash
        rows, columns = np.rint(path[on]).astype(int).T
        pixels[rows, columns] = LINE
    for end in (first[0], first[-1] if connected else second[draw.choice([0, -1])]):
        row, column = np.rint(end).astype(int)
        pixels[row - 1 : row + 2, column - 1 : column + 2] = DOT
    return pixels


def generate(size: int, seed: int) -> Iterator[Tuple[int, np.ndarray]]:
    """Class and image ``(size, size)``, for ever; always the same of a seed; half of each class.

    Raises:
        PreparationError: at a size that is too small.
    """
    if size < SMALLEST:
        raise PreparationError(f"--size is {size}, but must be at least {SMALLEST}")
    draw = np.random.default_rng(seed)
    while True:
        for label in draw.permutation([0, 1]):
            yield int(label), image(size, bool(label), draw)
