"""The EMA as the product with one Toeplitz matrix for each channel: for short sequences."""

from typing import Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ..toeplitz import diagonal_sums, toeplitz_matrix
from .layout import channels_first, channels_last


def convolve(x: Tensor, kernel: Tensor, omega: Optional[Tensor]) -> Tuple[Tensor, Sequence[Tensor]]:
    """``naive.ema_convolution`` of ``x (B, L, D)``, plus ``omega x``.

    Args:
        kernel: ``(D, T)`` with ``T <= L``; ``(2 D, T)`` with the taps of the backward EMA.
        omega: ``(D,)`` or None.

    Returns:
        y ``(B, L, D)``, and for ``gradients`` ``x (D, B, L)`` and the matrix ``(D, L, L)``, whose
        rows are inputs.
    """
    _, length, channels = x.shape
    within = toeplitz_matrix(block_diagonals(kernel, channels, length, omega), length)
    x = channels_first(x)
    return channels_last(torch.bmm(x, within)), (x, within)


def gradients(
    kept: Sequence[Tensor], grad_y: Tensor, taps: int, bidirectional: bool
) -> Tuple[Tensor, Tensor, Tensor]:
    """The gradients of ``x``, of the kernel and of ``omega``."""
    x, within = kept
    grad_y = channels_first(grad_y)
    grad_x = channels_last(torch.bmm(grad_y, within.transpose(1, 2)))
    grad = diagonal_sums(torch.bmm(x.transpose(1, 2), grad_y))
    zero = x.size(2) - 1
    grad_kernel = grad[:, zero : zero + taps]
    if bidirectional:
        grad_kernel = torch.cat([grad_kernel, grad[:, zero + 1 - taps : zero + 1].flip(-1)])
    return grad_x, grad_kernel, grad[:, zero]


def block_diagonals(kernel: Tensor, channels: int, size: int, omega: Optional[Tensor]) -> Tensor:
    """The diagonals ``(D, 2 C - 1)`` of the matrix of the convolution inside a block of ``C``."""
    rest = size - kernel.size(-1)
    diagonals = F.pad(kernel[:channels], (size - 1, rest))  # of an input at this position or before
    if len(kernel) > channels:
        diagonals = diagonals + F.pad(kernel[channels:].flip(-1), (rest, size - 1))
    if omega is not None:
        diagonals.select(1, size - 1).add_(omega)
    return diagonals
