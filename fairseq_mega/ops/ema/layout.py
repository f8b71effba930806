"""Channels first, ``(D, B, L)``: the layout of FFTs along ``L`` and of products batched over
``D``. Matrix transpositions are faster than ``contiguous()``, also for gradients."""

import torch
from torch import Tensor

FEW = 2**13  # values that need no fast transposition


def channels_first(x: Tensor) -> Tensor:
    """``(B, L, D)`` to ``(D, B, L)``."""
    if x.numel() < FEW:
        return x.permute(2, 0, 1)
    batch, length, channels = x.shape
    return _Transpose.apply(x.reshape(-1, channels)).view(channels, batch, length)


def channels_last(x: Tensor) -> Tensor:
    """``(D, B, L)`` to ``(B, L, D)``, contiguous: dropout masks depend on the order in memory."""
    if x.numel() < FEW:
        return x.permute(1, 2, 0).contiguous()
    channels, batch, length = x.shape
    return _Transpose.apply(x.reshape(channels, -1)).view(batch, length, channels)


class _Transpose(torch.autograd.Function):
    @staticmethod
    def forward(ctx, matrix: Tensor) -> Tensor:
        return matrix.t().contiguous()

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return grad.t().contiguous()
