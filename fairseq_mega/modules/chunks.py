"""Sequences as batches of chunks (Mega, section "Mega-chunk")."""

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor


def to_chunks(x: Tensor, size: int) -> Tensor:
    """``(B, L, Z)``, padded with zeros to a multiple of ``size``, to ``(B chunks, size, Z)``."""
    excess = -x.size(1) % size
    if torch.compiler.is_compiling() or excess:  # else F.pad copies; one graph for both
        x = F.pad(x, (0, 0, 0, excess))
    return x.reshape(-1, size, x.size(2))


def chunk_mask(
    padding_mask: Optional[Tensor], like: Tensor, size: int, bidirectional: bool
) -> Optional[Tensor]:
    """The key padding mask ``(B chunks, size)`` of a sequence ``like (B, L, Z)`` in chunks, which
    also hides the zeros after it; None if there is nothing to hide but what a causal mask hides."""
    batch, length, _ = like.shape
    excess = -length % size
    if padding_mask is None:
        if not (bidirectional and excess):
            return None
        padding_mask = torch.zeros(batch, length, dtype=torch.bool, device=like.device)
    return F.pad(padding_mask, (0, excess), value=True).reshape(-1, size)


def block_diagonal(weights: Tensor, batch: int, length: int) -> Tensor:
    """Weights inside chunks ``(B chunks, C, C)`` as weights of the sequence ``(B, L, L)``."""
    size = weights.size(1)
    chunks = weights.view(batch, -1, size, size)
    whole = torch.stack([torch.block_diag(*c) for c in chunks])
    return whole[:, :length, :length]


def join_weights(first: Tensor, rest: Tensor) -> Tensor:
    """Weights ``(B, l, S)`` of the positions that fill a chunk and ``(B, L - l, L - l)`` of those
    after it as weights of all: ``(B, L, S + L - l)``."""
    above = F.pad(first, (0, rest.size(2)))
    below = F.pad(rest, (first.size(2), 0))
    return torch.cat([above, below], dim=1)
