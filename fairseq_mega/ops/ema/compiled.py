"""The EMA for a compiler.

On a GPU the whole EMA is one operator, which the compiler leaves alone. Elsewhere the compiler
fuses the formulas of the kernel; the convolution is in the graph for short sequences, and an
operator for long ones. An operator chooses how to compute when it runs, whatever the shapes; its
backward pass computes again what the forward pass would have kept.
"""

from typing import Optional, Tuple

import torch
from torch import Tensor

from ..operators import operator
from ..toeplitz import toeplitz
from .coefficients import EMAParameters
from .fused import Scan, fused_backward, fused_forward
from .kernel import LONGEST_BLOCK, fastest_form
from .one_block import block_diagonals


def _like(*tensors: Tensor) -> Tuple[Tensor, ...]:
    return tuple(torch.empty_like(t, memory_format=torch.contiguous_format) for t in tensors)


# --- the whole EMA, on a GPU ----------------------------------------------------------------------


def operator_ema(
    x: Tensor,
    parameters: EMAParameters,
    omega: Optional[Tensor],
    truncation: Optional[int],
    padding_mask: Optional[Tensor],
) -> Tensor:
    """``fused_ema``, with an ``omega``."""
    return _ema(x, *parameters, omega, truncation, padding_mask)


def _ema_forward(
    x: Tensor, delta: Tensor, alpha: Tensor, beta: Tensor, gamma: Tensor, omega: Tensor,
    truncation: Optional[int], padding_mask: Optional[Tensor],
) -> Tensor:  # fmt: skip
    scan, parameters = Scan.of(x, truncation), EMAParameters(delta, alpha, beta, gamma)
    return fused_forward(x, parameters, omega, padding_mask, scan)[0].contiguous()


def _ema_backward(
    grad: Tensor, x: Tensor, delta: Tensor, alpha: Tensor, beta: Tensor, gamma: Tensor,
    omega: Tensor, truncation: Optional[int], padding_mask: Optional[Tensor],
) -> Tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    scan, parameters = Scan.of(x, truncation), EMAParameters(delta, alpha, beta, gamma)
    _, kept = fused_forward(x, parameters, omega, padding_mask, scan)
    a, b, c, d, e, f = fused_backward(kept, grad, scan)
    return a.contiguous(), b, c, d, e, f


def _keep_ema(ctx, inputs, output):
    *tensors, ctx.truncation, padding_mask = inputs
    ctx.save_for_backward(*tensors, padding_mask)


def _differentiate_ema(ctx, grad):
    *tensors, padding_mask = ctx.saved_tensors
    return *_ema_gradients(grad, *tensors, ctx.truncation, padding_mask), None, None


_ema = operator("ema", _ema_forward, lambda x, *_: _like(x)[0])
_ema_gradients = operator("ema_backward", _ema_backward, lambda grad, *rest: _like(*rest[:6]))
torch.library.register_autograd("fairseq_mega::ema", _differentiate_ema, setup_context=_keep_ema)


# --- the convolution with a kernel ----------------------------------------------------------------


def compiled_convolution(x: Tensor, kernel: Tensor, omega: Optional[Tensor]) -> Tensor:
    """``naive.ema_convolution`` of ``x (B, L, D)`` with ``kernel (K, T)``, plus ``omega x``."""
    _, length, channels = x.shape
    if length > LONGEST_BLOCK:
        return _convolution(x, kernel, omega)
    within = toeplitz(block_diagonals(kernel, channels, length, omega), length, length)
    return torch.bmm(x.permute(2, 0, 1), within).permute(1, 2, 0)


def _convolve(x: Tensor, kernel: Tensor, omega: Optional[Tensor]) -> Tensor:
    return fastest_form(x.size(0), x.size(1)).convolve(x, kernel, omega)[0]


def _convolution_backward(
    grad: Tensor, x: Tensor, kernel: Tensor, omega: Optional[Tensor]
) -> Tuple[Tensor, Tensor, Tensor]:
    form, taps = fastest_form(x.size(0), x.size(1)), kernel.size(1)
    _, kept = form.convolve(x, kernel, omega)
    grads = form.gradients(kept, grad, taps, bidirectional=len(kernel) > x.size(2))
    grad_x, grad_kernel, grad_omega = (g.contiguous() for g in grads)
    return grad_x, grad_kernel, grad_omega


def _keep_convolution(ctx, inputs, output):
    ctx.save_for_backward(*inputs)


def _differentiate_convolution(ctx, grad):
    x, kernel, omega = ctx.saved_tensors
    grads = _convolution_gradients(grad, x, kernel, omega)
    return grads if omega is not None else (*grads[:2], None)


_convolution = operator("convolution", _convolve, lambda x, *_: _like(x)[0])
_convolution_gradients = operator(
    "convolution_backward",
    _convolution_backward,
    lambda grad, x, kernel, omega: (*_like(x, kernel), x.new_empty(x.size(2))),
)
torch.library.register_autograd(
    "fairseq_mega::convolution", _differentiate_convolution, setup_context=_keep_convolution
)
