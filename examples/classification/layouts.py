"""Writes the layouts that the tasks read, and divides samples into sets."""

import itertools
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Dict, List, Tuple

import numpy as np

from examples.steps import PreparationError

SPLITS = ("train", "valid", "test")
Text = Tuple[str, Tuple[str, ...]]  # a label, and the symbols of one text or of two
Image = Tuple[int, np.ndarray]  # a class, and pixels from 0 to 255


def write_texts(folder: Path, split: str, samples: Iterable[Text]) -> None:
    """Writes SPLIT.src, for pairs also SPLIT.src1, and SPLIT.label, a sample a line.

    Raises:
        PreparationError: where there is no sample, or one without symbols.
    """
    samples = iter(samples)
    first = next(samples, None)
    if first is None:
        raise PreparationError(f"there are no samples for {split}: look at where they come from")
    names = [*("src", "src1")[: len(first[1])], "label"]
    count = 0
    with ExitStack() as stack:
        files = [
            stack.enter_context(
                (folder / f"{split}.{name}").open("w", encoding="utf-8", newline="\n")
            )
            for name in names
        ]
        for count, (label, texts) in enumerate(itertools.chain([first], samples), start=1):
            for file, line in zip(files, (*texts, label)):
                if not line:
                    raise PreparationError(f"{split}: sample {count} is empty: leave it out")
                file.write(f"{line}\n")
    print(f"{split}: {count:,} samples", flush=True)


def write_images(folder: Path, split: str, samples: Iterable[Image]) -> None:
    """Writes SPLIT.src, the pixels of an image a line, and SPLIT.label, the number of its class.

    Raises:
        PreparationError: where there is no image.
    """
    count = 0
    with (
        (folder / f"{split}.src").open("w", newline="\n") as images,
        (folder / f"{split}.label").open("w", newline="\n") as labels,
    ):
        for label, pixels in samples:
            count += 1
            images.write(" ".join(map(str, pixels.reshape(-1).tolist())) + "\n")
            labels.write(f"{label}\n")
    if not count:
        raise PreparationError(f"there are no images for {split}: look at where they come from")
    print(f"{split}: {count:,} images", flush=True)


def stratified(
    names: Sequence[str], classes: Sequence[int], held_out: float, seed: int
) -> Dict[str, List[int]]:
    """The samples of each set: `held_out` of each class to validate with, as many to test with.

    It depends on the names, not on the order in which they are given.

    Args:
        names: a name for each sample, all different.
        classes: the number of its class.
        held_out: a fraction above 0 and below a half.

    Raises:
        PreparationError: at a class of fewer than 3 samples, one for each set.
    """
    if not 0 < held_out < 0.5:
        raise PreparationError(f"--held-out is {held_out}, but must be above 0 and below 0.5")
    draw = np.random.default_rng(seed)
    sets: Dict[str, List[int]] = {split: [] for split in SPLITS}
    order = sorted(range(len(names)), key=lambda i: names[i])
    for number in sorted(set(classes)):
        rows = [i for i in order if classes[i] == number]
        if len(rows) < 3:
            raise PreparationError(
                f"class {number} has {len(rows)} samples, such as {names[rows[0]]}, but needs 3, "
                "one for each set: add some, or leave the class out"
            )
        rows = [rows[i] for i in draw.permutation(len(rows))]
        count = max(1, int(held_out * len(rows)))
        sets["valid"] += rows[:count]
        sets["test"] += rows[count : 2 * count]
        sets["train"] += rows[2 * count :]
    return {split: sorted(rows, key=lambda i: names[i]) for split, rows in sets.items()}


def divided(count: int, sizes: Sequence[int], seed: int) -> List[List[int]]:
    """The numbers below `count` in sets of these sizes, drawn as torch's random_split does."""
    import torch  # takes a second

    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    ends = itertools.accumulate(sizes, initial=0)
    return [order[start:end] for start, end in itertools.pairwise(ends)]


def class_folders(folder: Path, chosen: Sequence[str] = ()) -> List[Path]:
    """The folders in `folder`, each the samples of a class: `chosen` in this order, or all that do
    not begin with _ or a dot, by name.

    Raises:
        PreparationError: where there are fewer than 2, or a chosen one is missing.
    """
    if not folder.is_dir():
        raise PreparationError(f"{folder} is no folder: give one that has a folder for each class")
    found = {
        each.name: each for each in folder.iterdir() if each.is_dir() and each.name[0] not in "._"
    }
    missing = [name for name in chosen if name not in found]
    if missing:
        raise PreparationError(f"{folder} has no folder {', '.join(missing)}: look at --classes")
    names = list(chosen) or sorted(found)
    if len(names) < 2:
        raise PreparationError(
            f"{folder} has {len(names)} folders of classes, but must have at least 2, with the "
            "samples of a class in each"
        )
    return [found[name] for name in names]


def files_in(folder: Path, suffixes: Sequence[str]) -> List[Path]:
    """The files that end so, by name.

    Raises:
        PreparationError: where there are none.
    """
    files = sorted(
        path for path in folder.iterdir() if path.is_file() and path.suffix.lower() in suffixes
    )
    if not files:
        raise PreparationError(
            f"{folder} has no samples ({', '.join(suffixes)}): add some, or leave the class out"
        )
    return files
