"""The gates of both kinds of attention (Mega, section "Moving Average Equipped Gated Attention").

For the backward pass they keep what they are given, and nothing that they make of it.
"""

from typing import Callable, Dict, Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from .linear import Linear
from .recompute import recompute


def gated_linear(
    x: Tensor, gate: Tensor, linear: Linear, incremental_state: Optional[Dict] = None
) -> Tensor:
    """``linear(silu(gate) x)``: ``(..., H)`` both, to ``(..., D)``."""
    return recompute(lambda x, gate: linear(F.silu(gate) * x, incremental_state), x, gate)


def gated_update(
    residual: Tensor, h: Tensor, gate: Tensor, activation: Callable, dropout: Callable
) -> Tensor:
    """``residual`` with ``dropout(activation(h))`` in its place as far as ``sigmoid(gate)`` is
    open: ``(..., D)`` each."""

    def update(residual: Tensor, h: Tensor, gate: Tensor) -> Tensor:
        dtype = residual.dtype  # autocast leaves others
        new = dropout(activation(h)).to(dtype)
        return torch.lerp(residual, new, torch.sigmoid(gate).to(dtype))

    return recompute(update, residual, h, gate, draws=True)
