"""Images with classes, in grey: CIFAR-10, the arena's Pathfinder, generated ones, and folders."""

import io
import warnings
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import List, Optional, Tuple

import numpy as np
from PIL import Image as Picture

from examples.classification import pathfinder
from examples.classification.cifar import CIFAR10, CIFAR_TEST, CIFAR_TRAIN, read_batch
from examples.classification.layouts import (
    SPLITS,
    Image,
    class_folders,
    divided,
    files_in,
    stratified,
    write_images,
)
from examples.download import extract, fetch
from examples.steps import PreparationError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")
SPLIT_SEED = 42  # of the published data
Size = Tuple[int, int]  # width, height


def grey(pixels: np.ndarray) -> np.ndarray:
    """``(height, width, 3)`` to ``(height, width)``, as Pillow weighs the colours."""
    return np.asarray(Picture.fromarray(pixels, "RGB").convert("L"))


def read_picture(source, where: Path, size: Optional[Size] = None) -> np.ndarray:
    """A picture in grey ``(height, width)``, scaled to `size` if that is given.

    Raises:
        PreparationError: where it is no picture, is cut off, or is larger than any reasonable one.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error", Picture.DecompressionBombWarning)
        try:
            with Picture.open(source) as picture:
                picture = picture.convert("L")
        except (OSError, SyntaxError, ValueError, Warning, Picture.DecompressionBombError) as error:
            raise PreparationError(
                f"{where} is no picture that can be read ({error}): replace it, or leave it out"
            ) from error
    return np.asarray(picture.resize(size) if size else picture)


# --- CIFAR-10 -----------------------------------------------------------------------------------


def downloaded_cifar(downloads: Path, held_out: int, out: Path) -> None:
    """CIFAR-10 from its own archive."""
    archive = fetch(CIFAR10, downloads)
    names = [*CIFAR_TRAIN, CIFAR_TEST]
    files = extract(archive, names, out)
    cifar(out, held_out, out)
    for file in files:
        file.unlink()


def cifar(folder: Path, held_out: int, out: Path) -> None:
    """The five training batches, `held_out` images of which validate, and the test batch."""
    batches = [read_batch(folder / name) for name in CIFAR_TRAIN]
    colours = np.concatenate([pixels for pixels, _ in batches])
    classes = np.concatenate([labels for _, labels in batches])
    if not 0 < held_out < len(classes):
        raise PreparationError(
            f"--held-out is {held_out}, but must be above 0 and below the {len(classes)} images"
        )
    sizes = [len(classes) - held_out, held_out]
    for split, rows in zip(SPLITS, divided(len(classes), sizes, SPLIT_SEED)):
        write_images(out, split, ((int(classes[i]), grey(colours[i])) for i in rows))
    colours, classes = read_batch(folder / CIFAR_TEST)
    write_images(out, "test", ((int(k), grey(pixels)) for k, pixels in zip(classes, colours)))


# --- Pathfinder ---------------------------------------------------------------------------------


def generated_pathfinder(size: int, sizes: Tuple[int, int, int], seed: int, out: Path) -> None:
    """Sets of so many images of `size` x `size` pixels."""
    source = pathfinder.generate(size, seed)
    for split, count in zip(SPLITS, sizes):
        write_images(out, split, islice(source, count))


def arena_pathfinder(folder: Path, out: Path) -> None:
    """The arena's: pictures, and in metadata/*.npy lines with folder, file, and (fourth) class; 80%
    to train on, 10% each to validate and to test, drawn as the published ones."""
    listed = pathfinder_list(folder)
    sizes = [int(0.8 * len(listed)), int(0.1 * len(listed))]
    sizes.append(len(listed) - sum(sizes))
    shape = None
    for split, rows in zip(SPLITS, divided(len(listed), sizes, SPLIT_SEED)):

        def images(rows: List[int] = rows) -> Iterator[Image]:
            nonlocal shape
            for i in rows:
                path, label = listed[i]
                pixels = read_picture(path, path)
                shape = same_shape(pixels, shape, path)
                yield label, pixels

        write_images(out, split, images())


def pathfinder_list(folder: Path) -> List[Tuple[Path, int]]:
    """Pictures and their classes, in the order of the numbers of the metadata files."""
    files = list((folder / "metadata").glob("*.npy")) if folder.is_dir() else []
    if not files:
        raise PreparationError(
            f"{folder} has no metadata/*.npy: --from must be a folder such as "
            "pathfinder32/curv_contour_length_14"
        )
    listed = []
    for path in sorted(files, key=lambda each: (len(each.stem), each.stem)):
        for number, row in enumerate(metadata_rows(path), start=1):
            if len(row) < 4 or row[3] not in ("0", "1", "0.0", "1.0"):
                raise PreparationError(
                    f"{path}, line {number} is {' '.join(row)!r}, but must have a folder, a file, "
                    "a number and the class, 0 or 1: get the file again"
                )
            if ".." in Path(*row[:2]).parts or Path(*row[:2]).is_absolute():
                raise PreparationError(f"{path}, line {number} leads out of {folder}")
            listed.append((folder / row[0] / row[1], int(row[3][0])))
    return listed


def metadata_rows(path: Path) -> List[List[str]]:
    """Lines of words: the file is text, or an array of strings that numpy saved without pickle."""
    content = path.read_bytes()
    try:
        if not content.startswith(b"\x93NUMPY"):
            return [line.split() for line in content.decode().splitlines() if line.strip()]
        array = np.atleast_2d(np.load(io.BytesIO(content), allow_pickle=False))
        return [[str(word) for word in row] for row in array]
    except ValueError as error:
        raise PreparationError(
            f"{path} is neither text nor an array without code ({error}): get it again"
        ) from error


def same_shape(pixels: np.ndarray, shape: Optional[Size], path: Path) -> Size:
    if shape is not None and pixels.shape != shape:
        (height, width), (rows, columns) = pixels.shape, shape
        raise PreparationError(
            f"{path} has {width} x {height} pixels, but those before have {columns} x {rows}: all "
            "must have the same size (scale pictures of your own by --size WIDTH HEIGHT)"
        )
    return pixels.shape


# --- people's own -------------------------------------------------------------------------------


def folders(
    folder: Path, classes: List[str], size: Optional[Size], held_out: float, out: Path
) -> None:
    """A folder of pictures for each class, whose number is its place by name or in `classes`."""
    found = class_folders(folder, classes)
    files = [
        (number, path) for number, each in enumerate(found) for path in files_in(each, SUFFIXES)
    ]
    names = [f"{path.parent.name}/{path.name}" for _, path in files]
    sets = stratified(names, [number for number, _ in files], held_out, seed=1)
    shape = None
    for split in SPLITS:

        def images(rows: List[int] = sets[split]) -> Iterator[Image]:
            nonlocal shape
            for i in rows:
                number, path = files[i]
                pixels = read_picture(path, path, size)
                shape = same_shape(pixels, shape, path)
                yield number, pixels

        write_images(out, split, images())
    (out / "classes.txt").write_text("".join(f"{each.name}\n" for each in found), encoding="utf-8")
