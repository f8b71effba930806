"""Writes the predictions of a data set: one line for each sample, and a summary."""

import json
import logging
from pathlib import Path
from typing import Dict, List, Tuple

import numpy as np
from scipy.stats import binomtest
from torch import Tensor, distributed

from ..checkpoints.writing import replaced_file

logger = logging.getLogger(__name__)

Row = Tuple[int, int, List[float]]  # number of the sample, class, log-probabilities


class Predictions:
    """Collects the predictions of a data set, and writes them into ``--results-path``.

    ``predictions-SET.tsv`` has a line for each sample: its number in the set, counted from 0, the
    names of its class and of the predicted class, and the log-probability of each class.
    ``summary-SET.json`` has the values of ``summary``.
    """

    def __init__(self, folder: Path, split: str, names: List[str]):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OSError(
                f"--results-path is {folder}, which cannot be created ({error}): give another"
            ) from error
        self.folder, self.split, self.names = folder, split, names
        self.rows: List[Row] = []

    def add(self, ids: Tensor, target: Tensor, lprobs: Tensor) -> None:
        """Adds a batch: ``(B,)``, ``(B,)``, ``(B, classes)``."""
        self.rows += zip(ids.tolist(), target.tolist(), lprobs.tolist())

    def write(self) -> None:
        """Writes both files, with the predictions of all processes."""
        parts = [self.rows]
        if distributed.is_initialized():
            parts = [[]] * distributed.get_world_size()
            distributed.all_gather_object(parts, self.rows)
            if distributed.get_rank() != 0:
                return
        # fairseq's dummy batches repeat samples.
        rows = sorted({row[0]: row for part in parts for row in part}.values())
        lines = [["sample", "class", "predicted", *(f"log p({name})" for name in self.names)]]
        predicted = [int(np.argmax(lprobs)) for *_, lprobs in rows]
        for (number, target, lprobs), best in zip(rows, predicted):
            words = [str(number), self.names[target], self.names[best]]
            lines.append([*words, *(f"{lprob:.6f}" for lprob in lprobs)])
        path = self.folder / f"predictions-{self.split}.tsv"
        _write(path, "".join("\t".join(line) + "\n" for line in lines))
        outcome = summary([target for _, target, _ in rows], predicted, self.names)
        text = json.dumps(outcome, indent=2, ensure_ascii=False)
        _write(self.folder / f"summary-{self.split}.json", text + "\n")
        low, high = outcome["interval_95"]
        logger.info(
            f"{self.split}: accuracy {outcome['accuracy']:.2f} (95% interval {low:.2f} to "
            f"{high:.2f}) of {outcome['samples']} samples; predictions in {path}"
        )


def _write(path: Path, text: str) -> None:
    with replaced_file(path) as part:
        part.write_text(text, encoding="utf-8")


def summary(targets: List[int], predicted: List[int], names: List[str]) -> Dict:
    """Returns ``accuracy`` in percent, ``interval_95`` (Wilson, 1927), the numbers of ``samples``
    and of ``correct`` ones, ``classes``, and ``confusion``: how many samples of each class (rows)
    were predicted as each class (columns)."""
    confusion = np.zeros((len(names), len(names)), dtype=int)
    np.add.at(confusion, (targets, predicted), 1)
    correct = int(confusion.trace())
    interval = binomtest(correct, len(targets)).proportion_ci(0.95, method="wilson")
    return {
        "samples": len(targets),
        "correct": correct,
        "accuracy": 100 * correct / len(targets),
        "interval_95": [100 * float(bound) for bound in interval],
        "classes": names,
        "confusion": confusion.tolist(),
    }
