"""Single-head attention as the paper prints it. Tests compare ``tiled`` with it."""

import math
from typing import Optional, Tuple

import torch
from torch import Tensor


def visible_keys(
    batch: int,
    queries: int,
    keys: int,
    causal: bool = False,
    key_padding_mask: Optional[Tensor] = None,
    chunk_size: int = -1,
    chunks_before: int = 0,
) -> Tensor:
    """Which keys a query may see: ``(B, L, S)``, true where it may.

    Args:
        causal: the queries are the last ``L`` of the ``S`` positions, and see no later key.
        key_padding_mask: ``(B, S)``, true at keys that no query sees, or None.
        chunk_size: queries see the keys of their own chunk alone; -1: all.
        chunks_before: they also see those of so many chunks before theirs, and after it.
    """
    i = torch.arange(keys - queries, keys).unsqueeze(1)  # positions of the queries
    j = torch.arange(keys)
    visible = torch.ones(batch, queries, keys, dtype=torch.bool)
    if causal:
        visible = visible & (j <= i)
    if chunk_size > 0:
        distance = i // chunk_size - j // chunk_size
        visible = visible & (distance.abs() <= chunks_before)
    if key_padding_mask is not None:
        visible = visible & ~key_padding_mask.unsqueeze(1)
    return visible


def attention(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor, function: str, visible: Tensor
) -> Tuple[Tensor, Tensor]:
    """Attention of queries to the keys that they may see.

    Args:
        q: ``(B, L, Z)``.
        k: ``(B, S, Z)``.
        v: ``(B, S, H)``.
        bias: ``(L, S)``.
        function: ``softmax``, ``relu2`` or ``laplace``.
        visible: ``(B, L, S)``, true where a query may see a key.

    Returns:
        ``(B, L, H)`` and the weights ``(B, L, S)``, 0 where a key is not seen.
    """
    n = visible.sum(dim=-1, keepdim=True).clamp(min=1)
    scores = q @ k.transpose(1, 2)
    if function == "softmax":
        scores = scores / math.sqrt(q.size(-1)) + bias
        scores = scores.masked_fill(~visible, torch.finfo(scores.dtype).min)
        weights = torch.softmax(scores, dim=-1)
    elif function == "relu2":
        weights = torch.relu(scores / n + bias) ** 2
    else:
        mean, std = math.sqrt(1 / 2), math.sqrt(1 / (4 * math.pi))
        scores = scores / n + bias
        weights = (1 + torch.erf((scores - mean) / (std * math.sqrt(2)))) / 2
    weights = weights.masked_fill(~visible, 0.0)
    return weights @ v, weights
