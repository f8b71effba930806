"""Multi-dimensional damped EMA (Mega, section "Multi-dimensional Damped EMA").

    h_t[d,n] = p[d,n] beta[d,n] x_t[d] + q[d,n] h_{t-1}[d,n]        q = 1 - p a
    y_t[d]   = sum_n gamma[d,n] h_t[d,n] / sqrt(N)

``D`` is the number of channels, ``N`` the EMA dimensions of a channel. ``naive`` has this as it
stands; ``fft``, ``blocks``, ``fused`` and ``step`` compute the same faster. The functions here take
the fastest: ``ema`` of a whole sequence, ``ema_segment`` of one that goes on, ``ema_step_`` of one
position. Sequences are ``(B, L, D)``.
"""

from typing import List, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import operators
from .blocks import (
    block_matrices,
    ema_by_blocks,
    ema_in_one_block,
    ema_segment_by_blocks,
    within_block,
)
from .coefficients import (
    EMACoefficients,
    EMAParameters,
    ema_coefficients,
    half_lives,
    kernel_taps,
)
from .fft import fft_convolution
from .fused import fused_ema, fused_segment
from .step import StepCoefficients, ema_step_

__all__ = [
    "EMACoefficients",
    "EMAParameters",
    "StepCoefficients",
    "ema",
    "ema_coefficients",
    "ema_segment",
    "ema_step_",
    "half_lives",
]

# The rule: which form is fastest, forward and backward. On a GPU with Triton, the fused one, by the
# counts of examples/benchmark/COUNTS.md; else, as measured on two CPU cores, D 512, N 16:
# - one block: up to LONGEST_BLOCK positions, if the batch is large enough to pay for its matrix;
# - blocks: longer sequences, both ways from SHORTEST_BIDIRECTIONAL positions on;
# - FFTs: all else, truncated kernels above all, and compilers.
# Larger blocks take more products and keep fewer states: faster where the batch has many positions.
LONGEST_BLOCK = 64
SHORTEST_BIDIRECTIONAL = 1024
BLOCK, LARGE_BLOCK, MANY_POSITIONS = 32, 64, 8192


def ema(
    x: Tensor,
    parameters: EMAParameters,
    omega: Optional[Tensor] = None,
    truncation: Optional[int] = None,
    padding_mask: Optional[Tensor] = None,
) -> Tensor:
    """The EMA of a whole sequence, ``y_t (+ omega x_t)``.

    Args:
        x: ``(B, L, D)``.
        parameters: of the forward EMA, and of the backward EMA if bidirectional.
        omega: ``(D,)`` or None.
        truncation: taps of the kernels that are kept; None for all.
        padding_mask: ``(B, L)``, true at padding, of which the averages see nothing, or None.

    Returns:
        ``(B, L, D)``, in at least float32; the fused form's is in the type of ``x``, as it is all
        that form writes.
    """
    if x.numel() == 0:
        return x.clone()
    if operators.runs_kernels(x):
        return fused_ema(x, parameters, omega, truncation, padding_mask)
    directions = parameters.directions(x.size(2))
    x = x.to(directions[0].log_decay.dtype)
    omega = None if omega is None else omega.to(x.dtype)
    if padding_mask is None:
        return _fastest(x, directions, omega, truncation)
    y = _fastest(x.masked_fill(padding_mask.unsqueeze(-1), 0.0), directions, None, truncation)
    return y if omega is None else torch.addcmul(y, x, omega)


def ema_segment(x: Tensor, coefficients: EMACoefficients, h: Tensor) -> Tuple[Tensor, Tensor]:
    """The causal EMA of a sequence that goes on: ``naive.ema_recurrence``, never truncated.

    Args:
        x: ``(B, L, D)``, any number of positions.
        h: the state before them, ``(B, D, N)``.

    Returns:
        y ``(B, L, D)`` and the state after the last position ``(B, D, N)``.
    """
    if x.numel() == 0:
        return x.clone(), h
    if operators.runs_kernels(x) and not torch.is_grad_enabled():
        return fused_segment(x, coefficients, h)
    return ema_segment_by_blocks(x, coefficients, h, min(_block_size(x), x.size(1)))


def _fastest(
    x: Tensor,
    directions: List[EMACoefficients],
    omega: Optional[Tensor],
    truncation: Optional[int],
) -> Tensor:
    """``ema`` without padding, by all forms but the fused one."""
    batch, length, _ = x.shape
    taps = min(length, truncation or length)
    bidirectional = len(directions) > 1
    if length <= LONGEST_BLOCK and batch >= length // 4 and not torch.compiler.is_compiling():
        forward, backward = _kernels(directions, taps)
        return ema_in_one_block(x, within_block(forward, backward, length, omega))
    if _is_for_blocks(x, taps, bidirectional):
        return ema_by_blocks(x, block_matrices(directions, _block_size(x), omega), bidirectional)
    forward, backward = _kernels(directions, taps)
    if omega is not None:
        forward = forward + F.pad(omega.unsqueeze(1), (0, taps - 1))
    return fft_convolution(x, forward, backward)


def _is_for_blocks(x: Tensor, taps: int, bidirectional: bool) -> bool:
    length = x.size(1)
    whole = taps == length and not torch.compiler.is_compiling()
    return whole and (not bidirectional or length >= SHORTEST_BIDIRECTIONAL)


def _block_size(x: Tensor) -> int:
    return BLOCK if x.size(0) * x.size(1) < MANY_POSITIONS else LARGE_BLOCK


def _kernels(directions: List[EMACoefficients], taps: int) -> Tuple[Tensor, Optional[Tensor]]:
    """The forward kernel and the backward one or None, ``(D, taps)`` each."""
    kernels = [kernel_taps(direction, taps) for direction in directions]
    return kernels[0], kernels[1] if len(kernels) > 1 else None
