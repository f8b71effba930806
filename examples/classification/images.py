"""Images with classes, in grey: CIFAR-10, and folders of pictures."""

import argparse
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import List, Optional, Tuple

import numpy as np

from examples.classification.layouts import (
    class_folders,
    files_in,
    stratified,
    write_samples,
)
from examples.download import Remote, extract, fetch
from examples.steps import PreparationError, require

CIFAR10 = Remote("LRA_CIFAR10", "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz")
CIFAR_TRAIN = [f"data_batch_{i}.bin" for i in range(1, 6)]
CIFAR_TEST = "test_batch.bin"
CIFAR_SHAPE = (3, 32, 32)
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp", ".pgm", ".ppm")


def pixel_line(pixels: np.ndarray) -> str:
    return " ".join(map(str, pixels.reshape(-1).tolist()))


# --- CIFAR-10 -----------------------------------------------------------------------------------


def cifar(args: argparse.Namespace, out: Path) -> None:
    """The five training batches, --held-out images of which validate, and the test batch."""
    import torch  # takes a second

    with TemporaryDirectory(dir=out) as upstream:
        folder = args.source or Path(upstream)
        if not args.source:
            archive = fetch(CIFAR10, args.workdir / "downloads")
            extract(archive, [*CIFAR_TRAIN, CIFAR_TEST], folder)
        train = [sample for name in CIFAR_TRAIN for sample in read_batch(folder / name)]
        test = read_batch(folder / CIFAR_TEST)
    if not 0 < args.held_out < len(train):
        raise PreparationError(
            f"--held-out is {args.held_out}, but must be above 0 and below the {len(train)} images"
        )
    # As torch's random_split does it, with the seed of the published data.
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(42)).tolist()
    write_samples(out, "train", (train[i] for i in order[: -args.held_out]))
    write_samples(out, "valid", (train[i] for i in order[-args.held_out :]))
    write_samples(out, "test", test)


def read_batch(path: Path) -> List[Tuple[int, str]]:
    """Class and grey pixels of each image in a file of CIFAR-10's binary version, whose records are
    a byte for the class and 32 x 32 bytes for each colour."""
    if not path.is_file():
        raise PreparationError(f"{path} is not there: --from must be the folder of the batches")
    content = np.fromfile(path, dtype=np.uint8)
    size = 1 + int(np.prod(CIFAR_SHAPE))
    if len(content) % size or (content[::size] > 9).any():
        raise PreparationError(
            f"{path} is not a batch of CIFAR-10's binary version: delete it, and get it again"
        )
    return [(int(row[0]), pixel_line(grey(row[1:]))) for row in content.reshape(-1, size)]


def grey(colours: np.ndarray) -> np.ndarray:
    """Brightness ``(n,)`` of bytes ``(3 n,)``, all of red before all of green and blue: 0.299 R +
    0.587 G + 0.114 B in units of 2^-16, rounded, as Pillow computes it."""
    weights = np.array([19595, 38470, 7471])
    return (weights @ colours.reshape(3, -1).astype(np.int64) + (1 << 15)) >> 16


# --- pictures -----------------------------------------------------------------------------------


def read_picture(path: Path, size: Optional[List[int]] = None) -> np.ndarray:
    """A picture in grey ``(height, width)``, scaled to `size`, width and height, if given."""
    from PIL import Image  # an optional package

    try:
        with Image.open(path) as picture:
            picture = picture.convert("L")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise PreparationError(
            f"{path} is not a picture that can be read ({error}): replace it, or leave it out"
        ) from error
    return np.asarray(picture.resize(size) if size else picture)


def folders(args: argparse.Namespace, out: Path) -> None:
    """A folder of pictures for each class, whose number is its place by name or in --classes."""
    require("classification", "PIL")
    found = class_folders(args.source, args.classes)
    files = [(i, path) for i, each in enumerate(found) for path in files_in(each, *SUFFIXES)]
    names = [f"{path.parent.name}/{path.name}" for _, path in files]
    sets = stratified(names, [number for number, _ in files], args.held_out, seed=1)
    first = files[0][1]
    shape = read_picture(first, args.size).shape

    def sample(row: int) -> Tuple[int, str]:
        label, path = files[row]
        pixels = read_picture(path, args.size)
        if pixels.shape != shape:
            raise PreparationError(
                f"{path} has {pixels.shape[1]} x {pixels.shape[0]} pixels, but {first} has "
                f"{shape[1]} x {shape[0]}: scale all to one size by --size WIDTH HEIGHT"
            )
        return label, pixel_line(pixels)

    for split, rows in sets.items():
        write_samples(out, split, map(sample, rows))
    (out / "classes.txt").write_text("".join(f"{each.name}\n" for each in found), encoding="utf-8")
