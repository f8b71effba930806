"""The three attention functions and their scores (Mega, section "Laplace Attention Function")."""

import math
from typing import Optional

import torch
from torch import Tensor

LAPLACE_MEAN = math.sqrt(0.5)
LAPLACE_STD = math.sqrt(0.25 / math.pi)


def softmax(scores: Tensor) -> Tensor:
    """``exp(s) / sum exp(s)`` over the keys."""
    return torch.softmax(scores, dim=-1)


def relu2(scores: Tensor) -> Tensor:
    """``max(0, s)^2``."""
    return torch.relu(scores).square()


def laplace(scores: Tensor) -> Tensor:
    """``(1 + erf((s - mean) / (std sqrt(2)))) / 2``: relu2's smooth and bounded approximation."""
    z = (scores - LAPLACE_MEAN) * (1 / (LAPLACE_STD * math.sqrt(2.0)))
    return torch.erf(z).add(1.0).mul(0.5)


ATTENTION_FUNCTIONS = {"softmax": softmax, "relu2": relu2, "laplace": laplace}
"""Each turns scores ``(B, L, S)`` into weights ``(B, L, S)``."""


def attention_scale(
    function: str, q: Tensor, keys: int, causal: bool, key_padding_mask: Optional[Tensor]
) -> float | Tensor:
    """The factor of ``q k^T``: ``1 / sqrt(Z)`` for softmax, else ``1 / n (1 or B, L, 1)`` with
    ``n`` the number of keys that a query sees. Arguments: see ``tiled_attention``; ``keys`` is
    ``S``."""
    if function == "softmax":
        return q.size(-1) ** -0.5
    queries = q.size(1)
    if key_padding_mask is not None:
        seen = (~key_padding_mask).cumsum(dim=1)
        n = seen[:, keys - queries :] if causal else seen[:, -1:]
    elif causal:
        n = torch.arange(keys - queries + 1, keys + 1, device=q.device).unsqueeze(0)
    else:
        return 1 / max(keys, 1)
    dtype = torch.promote_types(q.dtype, torch.float32)
    return n.clamp(min=1).to(dtype).reciprocal().unsqueeze(-1)


def attention_scores(
    q: Tensor, k: Tensor, bias: Tensor, function: str, scale: float, mask: Optional[Tensor]
) -> Tensor:
    """``scale q k^T + bias``, masked, ``(B, L, S)``, of ``q (B, L, Z)``, ``k (B, S, Z)``, ``bias``
    ``(L, S)`` or ``(B, L, S)`` with the causal mask, and the key padding mask ``(B, S)``."""
    scores = torch.baddbmm(bias, q, k.transpose(1, 2), alpha=scale)
    if mask is None:
        return scores
    # A softmax over padding only must stay finite.
    hidden = torch.finfo(scores.dtype).min if function == "softmax" else -math.inf
    return scores.masked_fill(mask.unsqueeze(1), hidden)
