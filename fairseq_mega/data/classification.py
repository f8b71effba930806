"""Datasets of sequences with a class each: texts, or rows of numbers; one or two to a sample."""

from typing import Dict, List, Optional, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from .arrays import MappedArray
from .batches import EveryBatch

POOL = 64  # batches among which samples are sorted by length


class Texts:
    """Symbols of texts, cut to the first ``longest``.

    Args:
        texts: dataset of symbols, with ``sizes``.
        longest: how many symbols are read; None for all.
        first: a symbol that is put before each text, or None.
    """

    def __init__(self, texts, longest: Optional[int], first: Optional[int]):
        self.texts, self.longest, self.first = texts, longest, first
        self.sizes = np.asarray(texts.sizes) + (first is not None)
        if longest is not None:
            self.sizes = np.minimum(self.sizes, longest)

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, row: int) -> Tensor:
        """``(L,)``."""
        return read_text(self.texts[row], self.longest, self.first)


def read_text(text: Tensor, longest: Optional[int], first: Optional[int]) -> Tensor:
    """The symbols of a text ``(T,)`` that a model reads, ``(L,)``; arguments as of ``Texts``."""
    text = text.long()
    if first is not None:
        text = torch.cat([text.new_tensor([first]), text])
    return text[:longest]


class Numbers:
    """Rows of numbers ``x`` as ``(x / unit - mean) / std``, in float32.

    Args:
        rows: an array ``(n, L)`` of any type of numbers.
    """

    def __init__(self, rows: MappedArray, unit: float = 1.0, mean: float = 0.0, std: float = 1.0):
        self.rows = rows
        self.unit, self.mean, self.std = unit, mean, std
        self.sizes = np.full(len(rows), rows.array.shape[1], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, row: int) -> Tensor:
        """``(L,)``."""
        return scaled(np.array(self.rows[row]), self.unit, self.mean, self.std)


def scaled(x: np.ndarray, unit: float = 1.0, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """``(x / unit - mean) / std`` in float32, of the same shape."""
    return (torch.from_numpy(x).float() / unit - mean) / std


def as_numbers(document, what: str) -> np.ndarray:
    """An array or nested lists of numbers as one row ``(L,)``.

    Raises:
        ValueError: where it is something else; calls it ``what``.
    """
    try:
        row = np.array(document).reshape(-1)
    except ValueError:  # rows of different lengths
        row = np.array(None)
    if row.dtype.kind not in "buif":
        raise ValueError(f"{what} must be an array of numbers, but is {document!r:.80}")
    return row


class ClassificationDataset(EveryBatch):
    """Samples of one or two sequences and a class.

    In the order ``anew``, for training, samples are put together in batches anew in every epoch:
    fairseq's seed and the epoch decide how, so that all processes agree, and a training that was
    stopped goes on with the batches that it would have had. Samples of a batch are of similar
    lengths, but not always the same: they are sorted within pools of ``POOL`` batches drawn at
    random.

    Args:
        documents: ``Texts`` or ``Numbers``, one or two, of which the same rows belong together.
        classes: ``(n,)``, the class of each row.
        rows: which rows are samples.
        order: ``anew``, ``by_length``, or ``by_row``: how samples are put together in batches.
        pad: what sequences are filled up with.
    """

    def __init__(
        self,
        documents: Sequence,
        classes: np.ndarray,
        rows: np.ndarray,
        order: str = "by_length",
        pad: int = 0,
    ):
        super().__init__()
        self.documents = documents
        self.classes = classes
        self.rows = rows
        self.order, self.pad = order, pad
        sizes = np.stack([each.sizes[self.rows] for each in documents])  # (documents, samples)
        self.sizes, self._tokens = sizes.max(axis=0), sizes.sum(axis=0)

    @property
    def can_reuse_epoch_itr_across_epochs(self) -> bool:
        return self.order != "anew"

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Dict:
        row = self.rows[index]
        return {
            "id": int(row),
            "documents": [each[row] for each in self.documents],
            "target": int(self.classes[row]),
        }

    def collater(self, samples: List[Dict]) -> Dict:
        """A batch: ``id``, ``target`` ``(B,)``; ``net_input``, for pairs also ``net_input1``, each
        of ``src_tokens`` ``(B, L)``, padded on the right, and ``src_lengths`` ``(B,)``;
        ``nsentences``; ``ntokens``, of both sequences of a pair."""
        if not samples:  # in the last batch of some workers
            return {}
        inputs = collate([sample["documents"] for sample in samples], self.pad)
        return {
            "id": torch.tensor([s["id"] for s in samples]),
            **inputs,
            "target": torch.tensor([s["target"] for s in samples]),
            "nsentences": len(samples),
            "ntokens": int(sum(each["src_lengths"].sum() for each in inputs.values())),
        }

    def size(self, index: int) -> int:
        return self.sizes[index]

    def num_tokens(self, index: int) -> int:
        return self._tokens[index]

    def num_tokens_vec(self, indices: np.ndarray) -> np.ndarray:
        return self._tokens[indices]

    def ordered_indices(self) -> np.ndarray:
        if self.order == "anew":
            return np.random.permutation(len(self))  # fairseq has seeded numpy for the epoch
        by_length = self.order == "by_length"
        return np.argsort(self.sizes, kind="stable") if by_length else np.arange(len(self))

    def batch_by_size(
        self, indices, max_tokens=None, max_sentences=None, required_batch_size_multiple=1
    ):
        """As fairseq's, but without leaving any sample out.

        Raises:
            ValueError: where the two texts of a pair, of which fairseq has seen the longer one, are
                too long together.
        """
        longest = int(self._tokens[indices].max(initial=0))
        if max_tokens is not None and longest > max_tokens:
            raise ValueError(
                f"--max-tokens is {max_tokens}, but a pair has {longest} symbols in its two texts: "
                "raise it, or give --batch-size in its place"
            )
        if self.order == "anew" and len(indices):
            indices = self._sort_in_pools(indices, max_tokens, max_sentences)
        return super().batch_by_size(
            indices, max_tokens, max_sentences, required_batch_size_multiple
        )

    def _sort_in_pools(self, indices, max_tokens, max_sentences) -> np.ndarray:
        size = max_sentences or max(1, max_tokens // int(self._tokens.mean()))
        pools = np.split(indices, range(POOL * size, len(indices), POOL * size))
        # Up and down in turn, so that a batch of two pools has similar lengths too.
        order = [pool[np.argsort(self.sizes[pool], kind="stable")] for pool in pools]
        return np.concatenate([pool[:: -1 if i % 2 else 1] for i, pool in enumerate(order)])


def collate(samples: List[List[Tensor]], pad: int) -> Dict[str, Dict[str, Tensor]]:
    """What the model reads: ``net_input``, for pairs also ``net_input1``, each of ``src_tokens``
    ``(B, L)``, padded on the right, and ``src_lengths`` ``(B,)``.

    Args:
        samples: the one or two sequences ``(L,)`` of each sample.
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
    """Which rows are held out: ``(n,)``, true at the ``fraction`` of each class that a generator of
    its own draws, the same whatever the training's seed."""
    held_out = np.zeros(len(classes), dtype=bool)
    generator = np.random.default_rng(0)
    for each in np.unique(classes):
        rows = generator.permutation(np.flatnonzero(classes == each))
        held_out[rows[: int(fraction * len(rows))]] = True
    return held_out
