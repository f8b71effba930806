"""The gated residual connection (Mega, section "Moving Average Equipped Gated Attention")."""

import torch
from torch import Tensor


def gated_residual(residual: Tensor, update: Tensor, gate: Tensor) -> Tensor:
    """``sigmoid(gate) update + (1 - sigmoid(gate)) residual``, all of one shape."""
    return residual + torch.sigmoid(gate) * (update - residual)
