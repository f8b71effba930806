"""Dropout with explicit masks, as fast as random numbers come."""

from typing import NamedTuple, Optional

import torch
import torch.nn.functional as F
from torch import Tensor

LANES = 4  # random numbers of 16 bits in one of 64


class DropoutMask(NamedTuple):
    """Which values are kept, drawn once: the forward and the backward pass use the same."""

    keep: Tensor  # true (on CPUs a uint8 of 1) where a value is kept; broadcasts to the values
    scale: float  # 1 / (1 - p)


def draw_mask(x: Tensor, p: float) -> DropoutMask:
    """A mask for values like ``x``, each dropped with probability ``p``.

    torch draws a float for each value on CPUs, one after the other, which takes longer than most
    matrix products of a small model, and keeps it for the backward pass. Here, 16 random bits
    decide, and a byte is kept: ``p`` and ``1 - p`` are rounded to multiples of 2^-16.
    """
    kept = round((1 - p) * 2**16)
    scale = 2**16 / max(kept, 1)
    if x.device.type != "cpu" or kept in (0, 2**16) or torch.compiler.is_compiling():
        kind = torch.uint8 if x.device.type == "cpu" else torch.bool
        return DropoutMask(torch.empty_like(x, dtype=kind).bernoulli_(kept / 2**16), scale)
    bits = torch.empty(-(-x.numel() // LANES), dtype=torch.int64)
    bits = bits.random_(-(2**63), None).view(torch.int16)[: x.numel()]
    return DropoutMask((bits < kept - 2**15).view(torch.uint8).view(x.shape), scale)


def apply_mask(x: Tensor, mask: Optional[DropoutMask]) -> Tensor:
    """``x`` with the dropped values zeroed and the others scaled; ``x`` itself if the mask is None.
    For the backward pass only the mask is kept."""
    if mask is None:
        return x
    if torch.compiler.is_compiling():
        return x * (mask.keep * mask.scale).to(x.dtype)
    return _ApplyMask.apply(x, mask.keep, mask.scale)


def dropout(x: Tensor, p: float) -> Tensor:
    """``x`` with each value zeroed with probability ``p``, the others divided by ``1 - p``."""
    if x.device.type != "cpu":
        return F.dropout(x, p)
    return apply_mask(x, draw_mask(x, p))


class _ApplyMask(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, keep: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(keep)
        ctx.scale = scale
        return _masked(x, keep, scale)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (keep,) = ctx.saved_tensors
        return _masked(grad, keep, ctx.scale), None, None


def _masked(x: Tensor, keep: Tensor, scale: float) -> Tensor:
    if keep.shape != x.shape:  # a mask of whole channels
        return x * (keep * scale).to(x.dtype)
    if keep.dtype == torch.bool:  # one launch for the whole formula
        return torch.ops.aten.native_dropout_backward(x, keep, scale)
    # A product of different types would cast the mask, too, and make another tensor.
    return keep.to(x.dtype).mul_(x).mul_(scale)
