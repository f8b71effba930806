"""Multi-dimensional damped EMA (Mega, section "Multi-dimensional Damped EMA").

    h_t[d,n] = p[d,n] beta[d,n] x_t[d] + q[d,n] h_{t-1}[d,n]        q = 1 - p a
    y_t[d]   = sum_n gamma[d,n] h_t[d,n] / sqrt(N)

``D`` is the number of channels, ``N`` the EMA dimensions of a channel. ``naive`` has this as it
stands; ``fft``, ``blocks``, ``fused`` and ``step`` compute the same faster. The functions here take
the fastest: ``ema`` of a whole sequence, ``ema_segment`` of one that continues, ``ema_step_`` of
one position. Sequences are ``(B, L, D)``.
"""

from typing import Optional, Tuple

import torch
from torch import Tensor

from .. import operators
from .blocks import (
    block_matrices,
    ema_by_blocks,
    ema_in_one_block,
    ema_segment_by_blocks,
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

# The rule: which form is fastest, forward and backward. On a GPU with Triton, the fused one; else, as
# measured on two CPU cores, D 512, N 16:
# - one block: up to LONGEST_BLOCK positions, if the batch is large enough to pay for its matrix;
# - blocks: whole kernels from SHORTEST positions on, of one direction or of both;
# - FFTs: all else, truncated kernels above all.
# Larger blocks take more products and keep fewer states: faster where the batch has many positions.
LONGEST_BLOCK = 64
SHORTEST = {1: 512, 2: 1024}
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
    if torch.compiler.is_compiling():
        return compiled_ema(x, *parameters, omega, truncation, padding_mask)
    if x.numel() == 0:
        return x.clone()
    if operators.runs_kernels(x):
        return fused_ema(x, parameters, omega, truncation, padding_mask)
    dtype = torch.promote_types(parameters.gamma.dtype, torch.float32)
    x = x.to(dtype)
    omega = None if omega is None else omega.to(dtype)
    if padding_mask is None:
        return _fastest(x, parameters, omega, truncation)
    y = _fastest(x.masked_fill(padding_mask.unsqueeze(-1), 0.0), parameters, None, truncation)
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
    x: Tensor, parameters: EMAParameters, omega: Optional[Tensor], truncation: Optional[int]
) -> Tensor:
    """``ema`` without padding, by all forms but the fused one."""
    batch, length, channels = x.shape
    taps = min(length, truncation or length)
    directions = len(parameters.gamma) // channels
    if length <= LONGEST_BLOCK and batch >= length // 8:
        return ema_in_one_block(x, kernel_taps(parameters, taps), omega)
    if taps == length >= SHORTEST[directions]:
        matrices = block_matrices(parameters.directions(channels), _block_size(x), omega)
        return ema_by_blocks(x, matrices, bidirectional=directions > 1)
    return fft_convolution(x, kernel_taps(parameters, taps), omega)


def _block_size(x: Tensor) -> int:
    return BLOCK if x.size(0) * x.size(1) < MANY_POSITIONS else LARGE_BLOCK


# --- one operator of a compiled graph, which chooses its form when it runs ------------------------


def _forward(
    x: Tensor, delta: Tensor, alpha: Tensor, beta: Tensor, gamma: Tensor, omega: Tensor,
    truncation: Optional[int], padding_mask: Optional[Tensor],
) -> Tensor:  # fmt: skip
    y = ema(x, EMAParameters(delta, alpha, beta, gamma), omega, truncation, padding_mask)
    return y.contiguous()


def _forward_shapes(x, delta, *_):
    dtype = x.dtype if operators.runs_kernels(x) else torch.promote_types(delta.dtype, torch.float32)
    return torch.empty_like(x, dtype=dtype, memory_format=torch.contiguous_format)


def _backward(
    grad: Tensor, x: Tensor, delta: Tensor, alpha: Tensor, beta: Tensor, gamma: Tensor,
    omega: Tensor, truncation: Optional[int], padding_mask: Optional[Tensor],
) -> Tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Computes the average again."""
    with torch.enable_grad():
        leaves = [t.detach().requires_grad_() for t in (x, delta, alpha, beta, gamma, omega)]
        x, *parameters, omega = leaves
        y = ema(x, EMAParameters(*parameters), omega, truncation, padding_mask)
        grads = torch.autograd.grad(y, leaves, grad)
    dx, ddelta, dalpha, dbeta, dgamma, domega = (g.contiguous() for g in grads)
    return dx, ddelta, dalpha, dbeta, dgamma, domega


def _backward_shapes(grad, *inputs):
    return tuple(torch.empty_like(t, memory_format=torch.contiguous_format) for t in inputs[:6])


def _keep(ctx, inputs, output):
    *tensors, ctx.truncation, padding_mask = inputs
    ctx.save_for_backward(*tensors, padding_mask)


def _differentiate(ctx, grad):
    *tensors, padding_mask = ctx.saved_tensors
    return *compiled_ema_backward(grad, *tensors, ctx.truncation, padding_mask), None, None


compiled_ema = operators.operator("ema", _forward, _forward_shapes)
compiled_ema_backward = operators.operator("ema_backward", _backward, _backward_shapes)
torch.library.register_autograd("fairseq_mega::ema", _differentiate, setup_context=_keep)
