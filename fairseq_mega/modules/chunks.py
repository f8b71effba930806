"""Sequences as batches of chunks (Mega, section "Mega-chunk"), and of windows of chunks."""

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable


def to_chunks(x: Tensor, size: int) -> Tensor:
    """``(B, L, Z)``, padded with zeros to a multiple of ``size``, to ``(B chunks, size, Z)``."""
    excess = -x.size(1) % size
    if torch.compiler.is_compiling() or excess:  # else F.pad copies; one graph for both
        x = F.pad(x, (0, 0, 0, excess))
    return x.reshape(-1, size, x.size(2))


def to_windows(x: Tensor, size: int, before: int, causal: bool) -> Tensor:
    """``(B, L, Z)`` to windows: each chunk with ``before`` chunks before it and, unless ``causal``,
    as many after it. They are overlapping views ``(B chunks, W, Z)``, with ``W`` from
    ``chunks_in_window``.

    Rows of the batch follow each other without a gap, so one stride leads from window to window.
    Windows at the ends of a row reach into neighbouring rows, which ``window_mask`` hides.
    """
    chunks = to_chunks(x, size)
    return _Windows.apply(chunks, before, 0 if causal else before) if before else chunks


def chunks_in_window(before: int, causal: bool) -> int:
    return 1 + before * (1 if causal else 2)


class _Windows(torch.autograd.Function):
    """torch's backward pass of ``unfold`` takes longer."""

    @staticmethod
    def forward(ctx, chunks: Tensor, before: int, after: int) -> Tensor:
        ctx.neighbours, size = (before, after), chunks.size(1)
        rows = F.pad(chunks, (0, 0, 0, 0, before, after)).flatten(0, 1)
        return rows.unfold(0, (before + 1 + after) * size, size).transpose(1, 2)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        before, after = ctx.neighbours
        parts = grad.chunk(before + 1 + after, dim=1)  # (B chunks, size, Z) each
        total = parts[before].clone()
        for i in range(1, before + 1):  # a chunk is the i-th before that of a later window
            total[:-i] += parts[before - i][i:]
        for i in range(1, after + 1):
            total[i:] += parts[before + i][:-i]
        return total, None, None


def window_mask(
    padding_mask: Optional[Tensor], like: Tensor, size: int, before: int, causal: bool
) -> Optional[Tensor]:
    """The key padding mask ``(B chunks, W)`` of the windows of ``like (B, L, Z)``, which also hides
    positions outside the sequence; None if a causal mask hides all that is to hide."""
    batch, length, _ = like.shape
    excess = -length % size
    if padding_mask is None:
        if not before and (causal or not excess):
            return None
        padding_mask = torch.zeros(batch, length, dtype=torch.bool, device=like.device)
    width = chunks_in_window(before, causal) * size
    mask = F.pad(padding_mask, (before * size, excess + width - (before + 1) * size), value=True)
    return mask.unfold(1, width, size).reshape(-1, width)


def band(weights: Tensor, batch: int, length: int, before: int) -> Tensor:
    """Weights of windows ``(B chunks, C, W)`` as weights of the sequence ``(B, L, L)``."""
    size, width = weights.shape[1:]
    windows = weights.unflatten(0, (batch, -1))  # (B, chunks, C, W)
    chunks = windows.size(1)
    whole = weights.new_zeros(batch, chunks, size, (chunks - 1) * size + width)
    for i in range(chunks):
        whole[:, i, :, i * size : i * size + width] = windows[:, i]
    return whole.flatten(1, 2)[:, :length, before * size : before * size + length]


def join_weights(first: Tensor, rest: Tensor, keys: int) -> Tensor:
    """Weights ``(B, l, S1)`` to the first keys and ``(B, L - l, S2)`` to the last ones as weights
    to all: ``(B, L, keys)``."""
    above = F.pad(first, (0, keys - first.size(2)))
    below = F.pad(rest, (keys - rest.size(2), 0))
    return torch.cat([above, below], dim=1)
