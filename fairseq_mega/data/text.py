"""Datasets of a text cut into samples, redrawn for each epoch, or into long streams."""

from typing import Optional, Tuple

import numpy as np
from fairseq.data import BaseWrapperDataset, FairseqDataset, MonolingualDataset, TokenBlockDataset
from fairseq.data.plasma_utils import PlasmaArray

from .batches import EveryBatch
from .cutting import cut_into_samples, line_ends, most_samples


class TextSlices(TokenBlockDataset):
    """fairseq's ``TokenBlockDataset`` with given slices of the text.

    Args:
        lines: dataset of the text's lines.
        slices: ``(samples, 2)``, the offsets in the text at which each sample starts and ends.
    """

    def __init__(self, lines: FairseqDataset, slices: np.ndarray, pad: int, eos: int):
        FairseqDataset.__init__(self)
        self.dataset, self.pad, self.eos, self.include_targets = lines, pad, eos, True
        starts, stops = slices.T
        ends = np.cumsum(lines.sizes, dtype=np.int64)
        first = ends.searchsorted(starts, side="right")
        last = ends.searchsorted(stops)
        offsets = starts - (ends[first] - np.asarray(lines.sizes)[first])
        self._slice_indices = PlasmaArray(slices)
        self._sizes = PlasmaArray(stops - starts)
        self._block_to_dataset_index = PlasmaArray(np.stack([first, offsets, last], axis=1))


class CutText(EveryBatch, BaseWrapperDataset):
    """fairseq's dataset for language modeling, cut in other places."""

    def __init__(self, dataset: MonolingualDataset):
        super().__init__(dataset)
        self.lines = dataset.dataset.dataset
        self.ends = line_ends(self.lines.sizes)

    def cut(self, slices: np.ndarray) -> None:
        before = self.dataset.dataset
        self.dataset.dataset = TextSlices(self.lines, slices, before.pad, before.eos)
        self.dataset.sizes = self.dataset.dataset.sizes


class EpochSamples(CutText):
    """Samples whose lengths are redrawn for each epoch from the seed and the epoch.

    Args:
        unit, multiples: lengths are ``unit`` times a number from the first of ``multiples`` to the
            second.
        break_mode: see ``cut_into_samples``.
    """

    can_reuse_epoch_itr_across_epochs = False  # fairseq then makes batches for each epoch

    def __init__(
        self,
        dataset: MonolingualDataset,
        unit: int,
        multiples: Tuple[int, int],
        break_mode: str,
        seed: int,
        epoch: int,
    ):
        super().__init__(dataset)
        self.unit, self.multiples = unit, multiples
        self.break_mode, self.seed = break_mode, seed
        self.epoch: Optional[int] = None
        self.set_epoch(epoch)

    def set_epoch(self, epoch: int) -> None:
        super().set_epoch(epoch)
        if epoch == self.epoch:
            return
        self.epoch, (low, high) = epoch, self.multiples
        count = most_samples(self.ends, self.unit * low, self.break_mode)
        generator = np.random.default_rng([self.seed, epoch])
        lengths = self.unit * generator.integers(low, high, count, endpoint=True)
        self.cut(cut_into_samples(self.ends, lengths, self.break_mode))


class Streams(BaseWrapperDataset):
    """Samples of any length, of which the model reads ``segment_length`` tokens at a time.

    Args:
        **net_input: more inputs of the model.
    """

    def __init__(self, dataset: FairseqDataset, segment_length: int, **net_input):
        super().__init__(dataset)
        self.segment_length = segment_length
        self.net_input = net_input

    def collater(self, samples):
        if not samples:  # in the last batch of some workers
            return {}
        batch = self.dataset.collater(samples)
        batch["net_input"].update(self.net_input)
        return batch

    def batch_by_size(
        self, indices, max_tokens=None, max_sentences=None, required_batch_size_multiple=1
    ):
        """Puts as many samples in a batch as fit with a segment each, at least one."""
        rows = [max_sentences] if max_sentences else []
        if max_tokens is not None:
            rows.append(max(1, max_tokens // self.segment_length))
        return self.dataset.batch_by_size(
            indices,
            max_tokens=None,
            max_sentences=min(rows, default=None),
            required_batch_size_multiple=1,
        )
