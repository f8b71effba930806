"""The published learning-rate schedule."""

from .linear_decay import LinearDecaySchedule

__all__ = ["LinearDecaySchedule"]
