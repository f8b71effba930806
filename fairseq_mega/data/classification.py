"""Samples of one or two sequences and a class, in batches."""

from typing import Dict, List, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from .batches import EveryBatch

SPREAD = 0.1  # how far lengths in a training batch may differ, relative to the length


class ClassificationDataset(EveryBatch):
    """Samples of one or two sequences and a class.

    In the order ``random``, batches contain samples of similar lengths, and are redrawn for each
    epoch from fairseq's seed and the epoch. All processes and resumed trainings draw the same ones.

    Args:
        documents: one or two sets of sequences with ``sizes``, either texts or ``Numbers``.
        classes: ``(n,)``, the class of each row.
        rows: the rows that are samples.
        order: ``random``, ``by_length`` or ``by_row``.
        pad: the padding value.
    """

    def __init__(
        self, documents: Sequence, classes: np.ndarray, rows: np.ndarray, order: str, pad: int
    ):
        super().__init__()
        self.documents, self.classes, self.rows = documents, classes, rows
        self.order, self.pad = order, pad
        sizes = np.stack([each.sizes[rows] for each in documents])  # (documents, samples)
        self.sizes, self._tokens = sizes.max(axis=0), sizes.sum(axis=0)

    @property
    def can_reuse_epoch_itr_across_epochs(self) -> bool:
        return self.order != "random"

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Dict:
        row = self.rows[index]
        documents = [each[row] for each in self.documents]
        return {"id": int(row), "documents": documents, "target": int(self.classes[row])}

    def collater(self, samples: List[Dict]) -> Dict:
        """Returns a batch: ``id``, ``target`` ``(B,)``, the inputs (see ``collate``),
        ``nsentences``, and ``ntokens``, which counts both sequences of a pair."""
        if not samples:  # in the last batch of some workers
            return {}
        inputs = collate([sample["documents"] for sample in samples], self.pad)
        return {
            "id": torch.tensor([each["id"] for each in samples]),
            **inputs,
            "target": torch.tensor([each["target"] for each in samples]),
            "nsentences": len(samples),
            "ntokens": int(sum(each["src_lengths"].sum() for each in inputs.values())),
        }

    def size(self, index: int) -> int:
        return self.sizes[index]

    def num_tokens(self, index: int) -> int:
        return self._tokens[index]

    def ordered_indices(self) -> np.ndarray:
        if self.order == "by_row":
            return np.arange(len(self))
        lengths = self.sizes
        if self.order == "random":  # fairseq has seeded numpy for the epoch
            lengths = lengths * np.random.uniform(1 - SPREAD / 2, 1 + SPREAD / 2, len(self))
        return np.argsort(lengths, kind="stable")


def collate(samples: List[List[Tensor]], pad: int) -> Dict[str, Dict[str, Tensor]]:
    """Pads the one or two sequences ``(L,)`` of each sample on the right.

    Returns:
        ``net_input``, and for pairs ``net_input1``, each with ``src_tokens (B, L)`` and
        ``src_lengths (B,)``.
    """
    inputs = [
        {
            "src_tokens": pad_sequence(list(column), batch_first=True, padding_value=pad),
            "src_lengths": torch.tensor([len(each) for each in column]),
        }
        for column in zip(*samples)
    ]
    return dict(zip(("net_input", "net_input1"), inputs))


def held_out_rows(classes: np.ndarray, fraction: float) -> np.ndarray:
    """Marks a random ``fraction`` of each class, ``(n,)``, the same for every training's seed."""
    held_out = np.zeros(len(classes), dtype=bool)
    generator = np.random.default_rng(0)
    for each in np.unique(classes):
        rows = generator.permutation(np.flatnonzero(classes == each))
        held_out[rows[: int(fraction * len(rows))]] = True
    return held_out
