"""Channels first, ``(D, B, L)``: the layout of FFTs along ``L`` and of products batched over ``D``.

Each way is one transposition of a matrix, and so is its gradient.
"""

import torch
from torch import Tensor


def channels_first(x: Tensor) -> Tensor:
    """``(B, L, D)`` to ``(D, B, L)``, contiguous. Without gradients."""
    batch, length, channels = x.shape
    return x.reshape(batch * length, channels).t().contiguous().view(channels, batch, length)


def channels_last(x: Tensor) -> Tensor:
    """``(D, B, L)`` to ``(B, L, D)``, contiguous. Without gradients."""
    channels, batch, length = x.shape
    rows = x.reshape(channels, batch * length).contiguous()
    return rows.t().contiguous().view(batch, length, channels)


class ToChannelsFirst(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return channels_first(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return channels_last(grad)


class ToChannelsLast(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return channels_last(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return channels_first(grad)
