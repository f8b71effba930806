"""Dropout, as fast as random numbers come."""

import torch
import torch.nn.functional as F
from torch import Tensor

LANES = 4  # random numbers of 16 bits in one of 64


def dropout(x: Tensor, p: float) -> Tensor:
    """``x`` with each value zeroed with probability ``p``, the others divided by ``1 - p``."""
    if x.device.type != "cpu":
        return F.dropout(x, p)
    return DropoutMask(x, p)(x)


def keep(x: Tensor) -> Tensor:
    """No dropout."""
    return x


class DropoutMask:
    """Drops the same values of ``x``, which were drawn once, in every call.

    torch draws a float for each value on CPUs, one after the other, which takes longer than most
    matrix products of a small model, and keeps it for the backward pass. Here, 16 random bits
    decide, and a byte is kept: ``p`` and ``1 - p`` are rounded to multiples of 2^-16.
    """

    def __init__(self, x: Tensor, p: float):
        kept = round((1 - p) * 2**16)
        self.scale = 2**16 / max(kept, 1)
        if x.device.type != "cpu" or kept in (0, 2**16):
            self.mask = torch.empty_like(x, dtype=torch.uint8).bernoulli_(kept / 2**16)
            return
        bits = torch.empty(-(-x.numel() // LANES), dtype=torch.int64)
        bits = bits.random_(-(2**63), None).view(torch.int16)[: x.numel()]
        self.mask = (bits < kept - 2**15).view(torch.uint8).view(x.shape)  # faster than bool

    def __call__(self, x: Tensor) -> Tensor:
        return _Drop.apply(x, self.mask, self.scale)


class _Drop(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, mask: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(mask)
        ctx.scale = scale
        return _scaled(x, mask, scale)

    @staticmethod
    def backward(ctx, grad: Tensor):
        (mask,) = ctx.saved_tensors
        return _scaled(grad, mask, ctx.scale), None, None


def _scaled(x: Tensor, mask: Tensor, scale: float) -> Tensor:
    # A product of different types would cast the mask, too, and make another tensor.
    return mask.to(x.dtype).mul_(x).mul_(scale)
