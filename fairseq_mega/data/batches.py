"""Batches that contain every sample."""

from typing import List

import numpy as np
from fairseq.data import FairseqDataset


class EveryBatch(FairseqDataset):
    """A dataset whose samples that fairseq would leave out, to fill the last batches to a multiple
    of ``--required-batch-size-multiple``, form a last batch."""

    def batch_by_size(self, indices: np.ndarray, *limits, **more_limits) -> List[np.ndarray]:
        batches = super().batch_by_size(indices, *limits, **more_limits)
        left = indices[sum(map(len, batches)) :]
        return [*batches, left] if len(left) else batches
