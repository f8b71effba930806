"""The classes of samples, from the published layouts, and whether they fit the samples."""

from pathlib import Path
from typing import List

import numpy as np


def read_labels(path: Path) -> np.ndarray:
    """Classes ``(n,)`` from a file of a whole number a line.

    Raises:
        ValueError: at the first line that is none; names file and line.
    """
    classes = []
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        word = line.strip()
        if not word.isdecimal():
            raise ValueError(
                f"{path}, line {number} is {word!r}, but must be the number of a class, from 0 on"
            )
        classes.append(int(word))
    return np.array(classes, dtype=np.int64)


def symbol_classes(labels, specials: int, path: Path) -> np.ndarray:
    """Classes ``(n,)`` of a binarised file of labels: their places in the dictionary.

    Args:
        labels: a dataset of lines of a label each, which end in the end-of-sentence symbol.
        specials: how many special symbols the dictionary begins with.

    Raises:
        ValueError: at a line of no label, of several, or of one that the dictionary lacks.
    """
    sizes = np.asarray(labels.sizes)
    if (sizes != 2).any():
        line = int(np.flatnonzero(sizes != 2)[0])
        raise ValueError(
            f"{path}, line {line + 1} has {sizes[line] - 1} labels, but must have one: give a "
            "label a line to fairseq-preprocess --only-source"
        )
    classes = np.array([int(labels[i][0]) for i in range(len(labels))], dtype=np.int64) - specials
    if (classes < 0).any():
        line = int(np.flatnonzero(classes < 0)[0])
        raise ValueError(
            f"{path}, line {line + 1} has a label that is not in its dict.txt: make it again with "
            "the dictionary of all labels (fairseq-preprocess --srcdict)"
        )
    return classes


def check_labels(classes: np.ndarray, count: int, names: List[str], path, samples) -> None:
    """Checks the classes of a set.

    Args:
        classes: ``(n,)``.
        count: how many samples there are.
        names: those of the model's classes.
        path, samples: where classes and samples were read, for messages.

    Raises:
        ValueError: names the file or the option, the value and what to do.
    """
    if len(classes) != count:
        raise ValueError(
            f"{path} has {len(classes)} labels, but {samples} has {count} samples: there must be a "
            "label for each sample, in the same order"
        )
    if count == 0:
        raise ValueError(f"{samples} has no samples")
    if classes.max() >= len(names):
        row = int(classes.argmax())
        raise ValueError(
            f"{path}, line {row + 1} has class {classes[row]} (counted from 0), but "
            f"--sentence-class-num is {len(names)}: raise it to {classes.max() + 1}"
        )


def check_all_present(classes: np.ndarray, names: List[str], path) -> None:
    """
    Raises:
        ValueError: where a class has no sample to learn from.
    """
    present = np.bincount(classes, minlength=len(names)) > 0
    if not present.all():
        missing = ", ".join(name for name, there in zip(names, present) if not there)
        raise ValueError(
            f"--sentence-class-num is {len(names)}, but {path} has no sample of class {missing}: "
            f"lower it to the number of classes that have samples ({present.sum()}), or add some"
        )
