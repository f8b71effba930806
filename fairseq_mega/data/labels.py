"""The classes of samples, from the published layouts, and whether they fit the samples."""

from pathlib import Path
from typing import List

import numpy as np
from fairseq.data import Dictionary


def read_labels(path: Path) -> np.ndarray:
    """Classes ``(n,)`` from a file of a whole number a line.

    Raises:
        ValueError: at the first other line; names file and line.
    """
    labels = [line.strip() for line in path.read_text().splitlines()]
    for number, label in enumerate(labels, start=1):
        if not label.isdecimal():
            raise ValueError(
                f"{path}, line {number} is {label!r}, but must be the number of a class, from 0 on"
            )
    return np.array(labels, dtype=np.int64)


def symbol_classes(labels, dictionary: Dictionary, path: Path) -> np.ndarray:
    """Classes ``(n,)`` of a binarised file of labels: their places in the dictionary.

    Args:
        labels: a dataset of lines of a label each, which end in the end-of-sentence symbol.

    Raises:
        ValueError: at the first other line; names file and line.
    """
    classes = np.empty(len(labels), dtype=np.int64)
    for row in range(len(labels)):
        line = labels[row]
        classes[row] = int(line[0]) - dictionary.nspecial
        if len(line) != 2 or classes[row] < 0:
            raise ValueError(
                f"{path}, line {row + 1} is {dictionary.string(line)!r}, but must be one label of "
                "its dict.txt: make it again from a label a line, with the dictionary of all "
                "labels (fairseq-preprocess --only-source --srcdict)"
            )
    return classes


def check_labels(classes: np.ndarray, count: int, names: List[str], path, samples) -> None:
    """Checks the classes ``(n,)`` of a set.

    Args:
        count: how many samples there are.
        names: the names of the model's classes.
        path, samples: where classes and samples were read, for messages.

    Raises:
        ValueError: names the file or the option, the value and what to do.
    """
    if len(classes) != count or not count:
        raise ValueError(
            f"{path} has {len(classes)} labels, but {samples} has {count} samples: there must be a "
            "label for each sample, in the same order, and at least one"
        )
    if classes.max() >= len(names):
        row = int(classes.argmax())
        raise ValueError(
            f"{path}, line {row + 1} has class {classes[row]} (counted from 0), but "
            f"--sentence-class-num is {len(names)}: raise it to {classes.max() + 1}"
        )


def check_all_present(classes: np.ndarray, names: List[str], path) -> None:
    """Raises a ValueError if a class has no sample to learn from."""
    counts = np.bincount(classes, minlength=len(names))
    missing = [name for name, count in zip(names, counts) if count == 0]
    if missing:
        raise ValueError(
            f"--sentence-class-num is {len(names)}, but {path} has no sample of class "
            f"{', '.join(missing)}: lower it to the number of classes that have samples "
            f"({len(names) - len(missing)}), or add some"
        )
