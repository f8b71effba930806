"""The layers of Mega: ``nn.Module``s that hold the parameters and call ``fairseq_mega.ops``.

Sequences are batch first, ``(B, L, D)``; padding masks are ``(B, L)``, true at padding.
"""

from .cross_attention import GatedCrossAttention
from .ema import MultiHeadEMA
from .feed_forward import NormalizedFeedForwardNetwork
from .gated_attention import MovingAverageGatedAttention
from .norm import SequenceNorm

__all__ = [
    "GatedCrossAttention",
    "MovingAverageGatedAttention",
    "MultiHeadEMA",
    "NormalizedFeedForwardNetwork",
    "SequenceNorm",
]
