"""Batches that hold every sample."""

from typing import List

import numpy as np
from fairseq.data import FairseqDataset


class EveryBatch(FairseqDataset):
    """A dataset that loses no samples where their number is no multiple of
    ``--required-batch-size-multiple``, 8 by default: what fairseq leaves out is a last batch."""

    def batch_by_size(self, indices: np.ndarray, *limits, **more_limits) -> List[np.ndarray]:
        batches = super().batch_by_size(indices, *limits, **more_limits)
        left = indices[sum(map(len, batches)) :]
        return [*batches, left] if len(left) else batches
