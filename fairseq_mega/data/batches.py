"""Batches that contain every sample."""

from typing import List

import numpy as np
from fairseq.data import FairseqDataset


class EveryBatch(FairseqDataset):
    """A dataset with one more batch for the samples that fairseq leaves out if their number is not
    a multiple of ``--required-batch-size-multiple``."""

    def batch_by_size(self, indices: np.ndarray, *limits, **more_limits) -> List[np.ndarray]:
        batches = super().batch_by_size(indices, *limits, **more_limits)
        left = indices[sum(map(len, batches)) :]
        return [*batches, left] if len(left) else batches
