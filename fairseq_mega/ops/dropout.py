"""Dropout. On a CPU, masks of large tensors come from 16 random bits a value."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

LANES = 4  # random numbers of 16 bits in one of 64
LEAST_FOR_BITS = 2**14  # values from which drawing bits is faster (2M: 4 ms, torch 19)


class DropoutMask(NamedTuple):
    """Which values are kept, drawn once."""

    keep: Tensor  # true where a value is kept; the shape of the values
    scale: float  # 1 / (1 - p)


def dropout(x: Tensor, p: float) -> Tensor:
    """``x`` with each value zeroed with probability ``p``, the others divided by ``1 - p``."""
    if p == 0 or x.numel() == 0:
        return x
    if torch.compiler.is_compiling() or not _draws_bits(x):
        return torch.native_dropout(x, p, True)[0]
    return _ApplyMask.apply(x, *draw_mask(x, p))


def draw_mask(x: Tensor, p: float) -> DropoutMask:
    """A mask for values like ``x``, each dropped with probability ``p``, which 16 random bits round
    to a multiple of 2^-16."""
    if p == 1:
        return DropoutMask(torch.zeros_like(x, dtype=torch.bool), 1.0)
    if not _draws_bits(x):
        keep = torch.empty_like(x, dtype=torch.bool).bernoulli_(1 - p)
        return DropoutMask(keep, 1 / (1 - p))
    kept = min(max(round((1 - p) * 2**16), 1), 2**16 - 1)
    bits = torch.empty(-(-x.numel() // LANES), dtype=torch.int64, device=x.device)
    bits = bits.random_(-(2**63), None).view(torch.int16)[: x.numel()]
    return DropoutMask((bits < kept - 2**15).view(x.shape), 2**16 / kept)


def apply_mask(x: Tensor, mask: DropoutMask) -> Tensor:
    """``x`` with the dropped values zeroed and the others scaled."""
    return _ApplyMask.apply(x, *mask)


def _draws_bits(x: Tensor) -> bool:
    return x.is_cpu and x.numel() >= LEAST_FOR_BITS


class _ApplyMask(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, keep: Tensor, scale: float) -> Tensor:
        ctx.save_for_backward(keep)
        ctx.scale = scale
        return _masked(x, keep, scale)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad: Tensor):
        (keep,) = ctx.saved_tensors
        return _masked(grad, keep, ctx.scale), None, None


def _masked(x: Tensor, keep: Tensor, scale: float) -> Tensor:
    if not x.is_cpu:
        return torch.ops.aten.native_dropout_backward(x, keep, scale)  # one kernel
    # On a CPU, products of bytes and floats take three times as long.
    return keep.view(torch.uint8).to(x.dtype).mul_(x).mul_(scale)
