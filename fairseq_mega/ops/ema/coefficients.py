"""What the fast forms need of the parameters, and the taps of the kernel."""

import math
from typing import List, NamedTuple, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

FEW_TAPS = 64  # of so many, each has its own exponential

class EMAParameters(NamedTuple):
    """What is learned: of ``K`` channels, ``D``, or ``2 D`` if bidirectional, the forward EMA's
    first."""

    delta: Tensor  # (K, N, 1)
    alpha: Tensor  # (K, N, 1)
    beta: Tensor  # (K, N, 1)
    gamma: Tensor  # (K, N)

    def precise(self) -> "EMAParameters":
        """In at least float32."""
        dtype = torch.promote_types(self.gamma.dtype, torch.float32)
        return self if dtype == self.gamma.dtype else EMAParameters(*(t.to(dtype) for t in self))

    def directions(self, channels: int) -> "List[EMACoefficients]":
        """Coefficients ``(D, N)`` of the forward EMA, and of the backward EMA if there is one."""
        both = ema_coefficients(*self)
        if len(self.gamma) == channels:
            return [both]
        return [EMACoefficients(*each) for each in zip(*(c.split(channels) for c in both))]


class EMACoefficients(NamedTuple):
    """``(D, N)`` each."""

    log_decay: Tensor  # log q
    input_weight: Tensor  # p beta
    output_weight: Tensor  # gamma / sqrt(N)


def ema_coefficients(delta: Tensor, alpha: Tensor, beta: Tensor, gamma: Tensor) -> EMACoefficients:
    """Coefficients in at least float32 from ``delta, alpha, beta: (D, N, 1)``, ``gamma: (D, N)``."""
    delta, alpha, beta, gamma = EMAParameters(delta, alpha, beta, gamma).precise()
    p, _, change = _damping(delta, alpha)
    log_decay, input_weight = torch.log1p(change).squeeze(2), (p * beta).squeeze(2)
    return EMACoefficients(log_decay, input_weight, gamma * gamma.size(-1) ** -0.5)


def _damping(delta: Tensor, alpha: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
    """``p``, ``a`` and ``q - 1 = -p a``, in the shape of ``delta``.

    ``log1p(q - 1)`` keeps the digits of a ``q`` near 1, which is a long memory; of one near 0, those
    that can be seen in ``q h_{t-1} + p beta x_t``. A ``q`` of 0 becomes the rounding error of 1.
    """
    p, a = torch.sigmoid(delta), torch.sigmoid(alpha)
    return p, a, p * a * (torch.finfo(p.dtype).eps - 1)


def half_lives(log_decay: Tensor) -> Tensor:
    """After how many positions half of what went into an EMA is left, ``ln 2 / -ln q``.

    Args:
        log_decay: ``log q``, of any shape; where it is 0 but for rounding, the result is finite.
    """
    return math.log(2) / (-log_decay).clamp(min=torch.finfo(log_decay.dtype).tiny)


def kernel_taps(parameters: EMAParameters, taps: int) -> Tensor:
    """The first taps ``k[d, tau] = sum_n w[d, n] q[d, n]^tau`` of the kernel: ``(K, taps)``.

    ``w`` is ``p beta gamma / sqrt(N)``. With ``tau = j m + i`` and ``m`` about ``sqrt(taps)``,
    ``q^tau = q^(j m) q^i``: a product of a ``(taps/m, N)`` and an ``(N, m)`` matrix for each channel
    takes ``2 sqrt(taps)`` exponentials where the definition takes ``taps``, and no ``(K, N, taps)``
    tensor.
    """
    return _KernelTaps.apply(*parameters.precise(), taps)


class _KernelTaps(torch.autograd.Function):
    """For a gradient ``g`` of the taps, that of ``w`` is ``sum g q^tau``, and that of ``log q`` is
    ``w sum tau g q^tau``."""

    @staticmethod
    def forward(ctx, delta, alpha, beta, gamma, taps):
        p, a, change = _damping(delta, alpha)  # (K, N, 1), as all that follows
        log_decay, input_weight = torch.log1p(change), p * beta
        output_weight = gamma.unsqueeze(2) * gamma.size(1) ** -0.5
        weight = input_weight * output_weight
        m = taps if taps <= FEW_TAPS else math.isqrt(taps - 1) + 1
        rows = -(-taps // m)
        tau = torch.arange(max(m, rows), dtype=p.dtype, device=p.device)
        fine, coarse, factor = torch.exp(log_decay * tau[:m]), None, weight  # fine: (K, N, m)
        if rows > 1:
            coarse = torch.exp(log_decay * (m * tau[:rows]))  # (K, N, rows)
            factor = coarse * weight
        ctx.save_for_backward(
            p, a, change, beta, input_weight, output_weight, weight, fine, coarse
        )
        return torch.bmm(factor.transpose(1, 2), fine).flatten(1)[:, :taps]

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        p, a, change, beta, input_weight, output_weight, weight, fine, coarse = ctx.saved_tensors
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
        return grad_delta, grad_alpha, grad_input * p, grad_gamma, None
