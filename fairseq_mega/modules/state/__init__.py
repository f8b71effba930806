"""What decoding carries from step to step. Layers take a ``LayerState``; ops know of none."""

from .beam_cache import BeamKVCache
from .layer import EMAState, LayerState, SourceCache
from .reordering import Reordering

__all__ = ["BeamKVCache", "EMAState", "LayerState", "Reordering", "SourceCache"]
