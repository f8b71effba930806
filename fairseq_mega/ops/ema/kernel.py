"""The EMA as a convolution with its kernel: for short sequences, and for truncated kernels.

    k[d, tau] = sum_n w[d, n] q[d, n]^tau        w = p beta gamma / sqrt(N)

A form of the convolution is a module, ``fft`` or ``one_block``, with the functions

- ``convolve(x, kernel, omega)``, which returns y and what its gradients need;
- ``gradients(kept, grad_y, taps, bidirectional)``, which returns those of ``x``, of the kernel and
  of ``omega``.
"""

from types import ModuleType
from typing import Any, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import fft, one_block
from .coefficients import EMAParameters, damping

FINE = 64  # taps whose powers of q have an exponential each
LONGEST_BLOCK = 64  # positions

Kept = Sequence[Any]  # tensors, and None where there is none


def ema_by_kernel(
    x: Tensor, parameters: EMAParameters, omega: Optional[Tensor], taps: int, form: ModuleType
) -> Tensor:
    """``naive.ema_convolution`` with a kernel of ``taps``, plus ``omega x``; both ways if the
    parameters are of both.

    Args:
        x: ``(B, L, D)``, of the type of the parameters.
        omega: ``(D,)`` or None.
        taps: at most ``L``.
        form: ``fft`` or ``one_block``.

    Returns:
        ``(B, L, D)``.
    """
    return _KernelEMA.apply(x, *parameters, omega, taps, form)


def fastest_form(batch: int, length: int) -> ModuleType:
    """Returns ``one_block`` where the batch is large enough to pay for its matrices, else ``fft``:
    as measured on two CPU cores with D 512 and N 16."""
    return one_block if length <= LONGEST_BLOCK and batch >= length // 8 else fft


class _KernelEMA(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, delta, alpha, beta, gamma, omega, taps, form):
        kernel, kept = kernel_taps(EMAParameters(delta, alpha, beta, gamma), taps)
        y, kept_of_form = form.convolve(x, kernel, omega)
        ctx.save_for_backward(*kept, *kept_of_form)
        ctx.form, ctx.split, ctx.taps, ctx.omega = form, len(kept), taps, omega is not None
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_y):
        kept, kept_of_form = ctx.saved_tensors[: ctx.split], ctx.saved_tensors[ctx.split :]
        bidirectional = len(kept[0]) > grad_y.size(2)
        grads = ctx.form.gradients(kept_of_form, grad_y, ctx.taps, bidirectional)
        grad_x, grad_kernel, grad_omega = grads
        grads = grad_x, *kernel_gradients(kept, grad_kernel), grad_omega if ctx.omega else None
        return *grads, None, None


def kernel_taps(parameters: EMAParameters, taps: int) -> Tuple[Tensor, Kept]:
    """The kernel ``(K, taps)``, and what ``kernel_gradients`` needs.

    With ``tau = j FINE + i``, ``q^tau = q^(j FINE) q^i``: a product of a ``(taps/FINE, N)`` and an
    ``(N, FINE)`` matrix for each channel takes far fewer exponentials than the definition, and no
    ``(K, N, taps)`` tensor.
    """
    delta, alpha, beta, gamma = parameters
    p, a, change = damping(delta, alpha)  # (K, N, 1), as all that follows
    log_decay, input_weight = torch.log1p(change), p * beta
    output_weight = gamma.unsqueeze(2) * gamma.size(1) ** -0.5
    weight = input_weight * output_weight
    compiling = torch.compiler.is_compiling()
    m = FINE if compiling else min(taps, FINE)
    rows = -(-taps // m)
    tau = torch.arange(m, dtype=p.dtype, device=p.device)
    fine, coarse, factor = torch.exp(log_decay * tau), None, weight  # fine: (K, N, m)
    if compiling or rows > 1:  # one graph for any length
        first = m * torch.arange(rows, dtype=p.dtype, device=p.device)
        coarse = torch.exp(log_decay * first)  # (K, N, rows)
        factor = coarse * weight
    kernel = torch.bmm(factor.transpose(1, 2), fine).flatten(1)[:, :taps]
    return kernel, (p, a, change, beta, input_weight, output_weight, weight, fine, coarse)


def kernel_gradients(kept: Kept, grad: Tensor) -> Tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradients of ``delta, alpha, beta, gamma`` for a gradient ``g`` of the kernel ``(K, T)``.

    That of ``w`` is ``sum g q^tau``, that of ``log q`` is ``w sum tau g q^tau``.
    """
    p, a, change, beta, input_weight, output_weight, weight, fine, coarse = kept
    taps = grad.size(1)
    tau = torch.arange(taps, dtype=p.dtype, device=p.device)
    both = torch.stack([grad, grad * tau], dim=1)  # (K, 2, taps)
    if coarse is None:
        sums = torch.bmm(fine, both.transpose(1, 2))  # (K, N, 2)
    else:
        rows, m = coarse.size(2), fine.size(2)
        both = F.pad(both, (0, rows * m - taps)).view(-1, 2 * rows, m)
        sums = torch.bmm(fine, both.transpose(1, 2)).unflatten(2, (2, rows))
        sums = (sums * coarse.unsqueeze(2)).sum(3)
    grad_weight, grad_log_decay = sums[:, :, :1], sums[:, :, 1:] * weight

    grad_input = grad_weight * output_weight
    grad_gamma = (grad_weight * input_weight).squeeze(2) * output_weight.size(1) ** -0.5
    grad_product = grad_log_decay / (-1 - change)  # of p a
    grad_p = torch.addcmul(grad_input * beta, grad_product, a)
    grad_delta = torch.ops.aten.sigmoid_backward(grad_p, p)
    grad_alpha = torch.ops.aten.sigmoid_backward(grad_product * p, a)
    return grad_delta, grad_alpha, grad_input * p, grad_gamma
