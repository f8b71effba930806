"""Single-head attention with a positional bias (Mega, sections "Moving Average Equipped Gated
Attention" and "Laplace Attention Function"): ``naive`` as the paper has it, ``tiled`` fast."""

from .functions import ATTENTION_FUNCTIONS
from .tiled import tiled_attention, unchanged

__all__ = ["ATTENTION_FUNCTIONS", "tiled_attention", "unchanged"]
