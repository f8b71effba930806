"""The published learning-rate schedule, and fairseq's Adam with fused operations."""

from .adam import FairseqAdam
from .linear_decay import LinearDecaySchedule

__all__ = ["FairseqAdam", "LinearDecaySchedule"]
