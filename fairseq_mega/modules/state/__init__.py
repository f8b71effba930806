"""The state that decoding carries: layers take a ``LayerState``, which ops do not know."""

from .beam_cache import BeamKVCache
from .layer import HiddenState, LayerState, SourceCache
from .reordering import Reordering

__all__ = ["BeamKVCache", "HiddenState", "LayerState", "Reordering", "SourceCache"]
