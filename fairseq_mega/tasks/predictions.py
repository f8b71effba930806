"""Predictions of a set in files: each sample's, and what they come to."""

import json
import logging
from pathlib import Path
from tempfile import TemporaryFile
from typing import Dict, List, Tuple

import torch
from scipy.stats import binomtest
from torch import Tensor, distributed

from ..checkpoints.writing import replaced_file

logger = logging.getLogger(__name__)

Row = Tuple[int, int, List[float]]  # number of the sample, class, log-probabilities


class Predictions:
    """Collects predictions of a set, and writes them into a folder.

    ``predictions-SET.tsv`` has a line for each sample: its number in the file of the set, from 0
    on, the names of its class and of the predicted one, and the log-probability of each class.
    ``summary-SET.json`` has what ``summary`` returns.

    Args:
        folder: ``--results-path``, made if it is not there.
        split: name of the set.
        names: those of the classes.

    Raises:
        OSError: where nothing can be written there, before there is anything to write.
    """

    def __init__(self, folder: Path, split: str, names: List[str]):
        if _writes():
            _check_folder(folder)
        self.folder, self.split, self.names = folder, split, names
        self.rows: List[Row] = []

    def add(self, ids: Tensor, target: Tensor, lprobs: Tensor) -> None:
        """A batch: ``(B,)``, ``(B,)``, ``(B, classes)``."""
        self.rows += zip(ids.tolist(), target.tolist(), lprobs.tolist())

    def write(self) -> None:
        """Writes both files, with the predictions of all processes."""
        rows = sorted({row[0]: row for row in self._gather()}.values())
        if not _writes():
            return
        header = ["sample", "class", "predicted", *(f"log p({name})" for name in self.names)]
        lines = ["\t".join(header)]
        for number, target, lprobs in rows:
            words = [str(number), self.names[target], self.names[argmax(lprobs)]]
            lines.append("\t".join([*words, *(f"{lprob:.6f}" for lprob in lprobs)]))
        path = self.folder / f"predictions-{self.split}.tsv"
        _write(path, "\n".join(lines) + "\n")
        outcome = summary([(target, argmax(lprobs)) for _, target, lprobs in rows], self.names)
        text = json.dumps(outcome, indent=2, ensure_ascii=False)
        _write(self.folder / f"summary-{self.split}.json", text + "\n")
        low, high = outcome["interval_95"]
        logger.info(
            f"{self.split}: accuracy {outcome['accuracy']:.2f} (95% interval {low:.2f} to "
            f"{high:.2f}) of {outcome['samples']} samples; predictions in {path}"
        )

    def _gather(self) -> List[Row]:
        if not distributed.is_initialized():
            return self.rows
        parts: List[List[Row]] = [[]] * distributed.get_world_size()
        distributed.all_gather_object(parts, self.rows)
        return sum(parts, [])


def _writes() -> bool:
    """Whether this process is the one that writes."""
    return not distributed.is_initialized() or distributed.get_rank() == 0


def _check_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"--results-path is {folder}, which cannot be written ({error})") from error


def _write(path: Path, text: str) -> None:
    with replaced_file(path) as part:
        part.write_text(text, encoding="utf-8")


def argmax(values: List[float]) -> int:
    return int(torch.tensor(values).argmax())


def summary(pairs: List[Tuple[int, int]], names: List[str]) -> Dict:
    """Accuracy in percent, with its 95% interval, and the confusion matrix.

    Args:
        pairs: class and predicted class of each sample.
        names: those of the classes.

    Returns:
        ``samples``, ``correct``, ``accuracy``, ``interval_95``, ``classes``, and ``confusion``: how
        many samples of each class (rows) were predicted as each (columns).
    """
    confusion = torch.zeros(len(names), len(names), dtype=torch.long)
    for target, predicted in pairs:
        confusion[target, predicted] += 1
    correct = int(confusion.diagonal().sum())
    interval = binomtest(correct, len(pairs)).proportion_ci(0.95, method="wilson")
    return {
        "samples": len(pairs),
        "correct": correct,
        "accuracy": 100 * correct / len(pairs),
        "interval_95": [100 * interval.low, 100 * interval.high],
        "classes": names,
        "confusion": confusion.tolist(),
    }
