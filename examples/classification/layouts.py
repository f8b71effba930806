"""Writes the layouts that the tasks read, and splits samples by class."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Dict, List, Tuple

import numpy as np

from examples.steps import SPLITS, PreparationError, write_lines


def write_samples(folder: Path, split: str, samples: Iterable[Tuple[object, str]]) -> None:
    """Writes the labels of samples to SPLIT.label, and their symbols or pixels to SPLIT.src."""

    def checked() -> Iterator[Tuple[object, str]]:
        for count, sample in enumerate(samples, 1):
            if not sample[1]:
                raise PreparationError(f"{split}: sample {count} is empty: leave it out")
            yield sample

    write_lines(folder, split, ("label", "src"), checked())


def stratified(
    names: Sequence[str], classes: Sequence[int], held_out: float, seed: int
) -> Dict[str, List[int]]:
    """The samples of each set: `held_out` of each class to validate with, as many to test with.

    It depends on the samples' names, all different, not on the order in which they are given.
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


def class_folders(folder: Path, chosen: Sequence[str] = ()) -> List[Path]:
    """The folders in `folder`, each the samples of a class: `chosen` in this order, or all that do
    not begin with _ or a dot, by name."""
    if not folder.is_dir():
        raise PreparationError(f"{folder} is not a folder: give one with a folder for each class")
    names = sorted(each.name for each in folder.iterdir() if each.is_dir())
    names = list(chosen) or [name for name in names if name[0] not in "._"]
    missing = [name for name in names if not (folder / name).is_dir()]
    if missing:
        raise PreparationError(f"{folder} has no folder {', '.join(missing)}: look at --classes")
    if len(names) < 2:
        raise PreparationError(
            f"{folder} has {len(names)} folders of classes, but must have at least 2, with the "
            "samples of a class in each"
        )
    return [folder / name for name in names]


def files_in(folder: Path, *suffixes: str) -> List[Path]:
    """The files with these suffixes, by name; raises PreparationError where there are none."""
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in suffixes)
    if not files:
        raise PreparationError(
            f"{folder} has no samples ({', '.join(suffixes)}): add some, or leave the class out"
        )
    return files
