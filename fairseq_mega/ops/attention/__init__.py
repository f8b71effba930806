"""Single-head attention with a positional bias (Mega, section "Laplace Attention Function")."""

from .functions import ATTENTION_FUNCTIONS
from .tiled import tiled_attention, unchanged

__all__ = ["ATTENTION_FUNCTIONS", "tiled_attention", "unchanged"]
