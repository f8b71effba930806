"""Multi-dimensional damped EMA (Mega, section "Multi-dimensional Damped EMA").

    h_t[d,n] = p[d,n] beta[d,n] x_t[d] + q[d,n] h_{t-1}[d,n]        q = 1 - p a
    y_t[d]   = sum_n gamma[d,n] h_t[d,n] / sqrt(N)

``D`` is the number of channels, ``N`` the EMA dimensions of a channel, ``h`` the hidden state.
The functions here take the fastest form: ``ema`` for a full sequence, ``ema_segment`` for one that
continues, ``ema_step_`` for one position. Sequences are ``(B, L, D)``.
"""

from typing import Optional, Tuple

import torch
from torch import Tensor

from .. import operators
from .blocks import block_matrices, ema_by_blocks, ema_segment_by_blocks
from .coefficients import EMACoefficients, EMAParameters, ema_coefficients, half_lives
from .compiled import compiled_convolution, compiled_ema
from .convolution import convolve_by_fft, convolve_by_matrix, kernel_taps
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

# The fastest forms on two CPU cores with D 512 and N 16: a matrix up to LONGEST_MATRIX positions if
# the batch is large; blocks from SHORTEST[directions] positions on, large blocks if the batch has
# MANY_POSITIONS; FFTs otherwise and for truncated kernels.
LONGEST_MATRIX, SHORTEST = 64, {1: 512, 2: 1024}
BLOCK, LARGE_BLOCK, MANY_POSITIONS = 32, 64, 8192


def ema(
    x: Tensor,
    parameters: EMAParameters,
    omega: Optional[Tensor] = None,
    truncation: Optional[int] = None,
    padding_mask: Optional[Tensor] = None,
) -> Tensor:
    """The EMA of a full sequence, ``y_t (+ omega x_t)``: ``(B, L, D)`` in at least float32, or from
    the fused form in the type of ``x``.

    Args:
        x: ``(B, L, D)``.
        parameters: of the forward EMA, and of the backward EMA if bidirectional.
        omega: ``(D,)`` or None.
        truncation: taps of the kernels that are kept; None for all.
        padding_mask: ``(B, L)``, true at padding, which averages read as zero, or None.
    """
    if operators.runs_kernels(x):
        if torch.compiler.is_compiling():
            return compiled_ema(x, *parameters, omega, padding_mask, truncation)
        return fused_ema(x, parameters, omega, truncation, padding_mask)
    if x.numel() == 0:
        return x.clone()
    parameters = parameters.precise()
    dtype = parameters.gamma.dtype
    x, omega = x.to(dtype), None if omega is None else omega.to(dtype)
    if padding_mask is None:
        return _fastest(x, parameters, omega, truncation)
    y = _fastest(x.masked_fill(padding_mask.unsqueeze(-1), 0.0), parameters, None, truncation)
    return y if omega is None else torch.addcmul(y, x, omega)


def ema_segment(x: Tensor, coefficients: EMACoefficients, h: Tensor) -> Tuple[Tensor, Tensor]:
    """``naive.ema_recurrence`` of ``x (B, L, D)`` from the hidden state ``h (B, D, N)`` on: y and
    the new hidden state."""
    if x.numel() == 0:
        return x.clone(), h
    if operators.runs_kernels(x) and not torch.is_grad_enabled():
        return fused_segment(x, coefficients, h)
    return ema_segment_by_blocks(x, coefficients, h, min(_block_size(x), x.size(1)))


def _fastest(
    x: Tensor, parameters: EMAParameters, omega: Optional[Tensor], truncation: Optional[int]
) -> Tensor:
    """``ema`` without padding and without the fused form."""
    batch, length, channels = x.shape
    taps, directions = min(length, truncation or length), len(parameters.gamma) // channels
    compiling = torch.compiler.is_compiling()
    if taps == length >= SHORTEST[directions] and not compiling:
        matrices = block_matrices(parameters.directions(channels), _block_size(x), omega)
        return ema_by_blocks(x, matrices, bidirectional=directions > 1)
    kernel = kernel_taps(parameters, taps)
    if length <= LONGEST_MATRIX and (compiling or batch >= length // 8):
        return convolve_by_matrix(x, kernel, omega)
    if not compiling:
        return convolve_by_fft(x, kernel, omega)
    y = compiled_convolution(x, kernel)
    return y if omega is None else torch.addcmul(y, x, omega)


def _block_size(x: Tensor) -> int:
    return BLOCK if x.size(0) * x.size(1) < MANY_POSITIONS else LARGE_BLOCK
