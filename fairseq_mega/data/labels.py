"""Reads the classes of samples in the published layouts, and checks them against the model."""

from pathlib import Path
from typing import List

import numpy as np
from fairseq.data import Dictionary


def read_labels(path: Path) -> np.ndarray:
    """Reads classes ``(n,)`` from a file with one number per line."""
    labels = [line.strip() for line in path.read_text().splitlines()]
    for number, label in enumerate(labels, start=1):
        if not label.isdecimal():
            raise ValueError(
                f"{path}, line {number} is {label!r}, but must be a class number, counted from 0"
            )
    return np.array(labels, dtype=np.int64)


def symbol_classes(labels, dictionary: Dictionary, path: Path) -> np.ndarray:
    """Returns classes ``(n,)``, the places in the dictionary, from a dataset with one label and
    the end-of-sentence symbol per line."""
    classes = np.empty(len(labels), dtype=np.int64)
    for row in range(len(labels)):
        line = labels[row]
        classes[row] = int(line[0]) - dictionary.nspecial
        if len(line) != 2 or classes[row] < 0:
            raise ValueError(
                f"{path}, line {row + 1} is {dictionary.string(line)!r}, but must be one label of "
                "its dict.txt: binarise it again, with one label per line and a dictionary of all "
                "labels (fairseq-preprocess --only-source --srcdict)"
            )
    return classes


def check_labels(classes: np.ndarray, count: int, names: List[str], path, samples) -> None:
    """Checks that classes ``(n,)``, read at ``path``, fit the ``count`` samples and the model's
    classes ``names``."""
    if len(classes) != count or not count:
        raise ValueError(
            f"{path} has {len(classes)} labels, but {samples} has {count} samples: give one label "
            "for each sample, in the same order, and at least one"
        )
    if classes.max() >= len(names):
        row = int(classes.argmax())
        raise ValueError(
            f"{path}, line {row + 1} has class {classes[row]} (counted from 0), but "
            f"--sentence-class-num is {len(names)}: raise it to {classes.max() + 1}"
        )


def check_all_present(classes: np.ndarray, names: List[str], path) -> None:
    """Checks that each class has a training sample."""
    counts = np.bincount(classes, minlength=len(names))
    missing = [name for name, count in zip(names, counts) if count == 0]
    if missing:
        raise ValueError(
            f"--sentence-class-num is {len(names)}, but {path} has no sample of class "
            f"{', '.join(missing)}: lower it to the number of classes that have samples "
            f"({len(names) - len(missing)}), or add samples"
        )
