"""What the fast forms need of the parameters, and the taps of the kernel."""

import math
from typing import List, NamedTuple

import torch
from torch import Tensor

FEW_TAPS = 64  # of so many, each has its own exponential

class EMAParameters(NamedTuple):
    """What is learned: of ``K`` channels, ``D``, or ``2 D`` if bidirectional, the forward EMA's
    first."""

    delta: Tensor  # (K, N, 1)
    alpha: Tensor  # (K, N, 1)
    beta: Tensor  # (K, N, 1)
    gamma: Tensor  # (K, N)

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
    """Coefficients in at least float32 from ``delta, alpha, beta: (D, N, 1)``, ``gamma: (D, N)``.

    ``log q = log1p(-p a)`` keeps the digits of a ``q`` near 1, which is a long memory; of one near
    0, those that can be seen in ``q h_{t-1} + p beta x_t``.
    """
    dtype = torch.promote_types(delta.dtype, torch.float32)
    delta, alpha, beta = (t.squeeze(-1).to(dtype) for t in (delta, alpha, beta))
    p = torch.sigmoid(delta)
    damping = (p * torch.sigmoid(alpha)).clamp(max=1 - torch.finfo(dtype).eps)
    scale = gamma.size(-1) ** -0.5
    return EMACoefficients(torch.log1p(-damping), p * beta, gamma.to(dtype) * scale)


def half_lives(log_decay: Tensor) -> Tensor:
    """After how many positions half of what went into an EMA is left, ``ln 2 / -ln q``.

    Args:
        log_decay: ``log q``, of any shape; where it is 0 but for rounding, the result is finite.
    """
    return math.log(2) / (-log_decay).clamp(min=torch.finfo(log_decay.dtype).tiny)


def kernel_taps(coefficients: EMACoefficients, taps: int) -> Tensor:
    """The first taps ``k[d, tau] = sum_n weight[d, n] q[d, n]^tau`` of the kernel: ``(D, taps)``.

    With ``tau = j m + i`` and ``m`` about ``sqrt(taps)``, ``q^tau = q^(j m) q^i``: a product of a
    ``(taps/m, N)`` and an ``(N, m)`` matrix for each channel takes ``2 sqrt(taps)`` exponentials
    where the definition takes ``taps``, and no ``(D, N, taps)`` tensor.
    """
    log_decay, input_weight, output_weight = coefficients
    weight = (input_weight * output_weight).unsqueeze(1)  # (D, 1, N)
    m = taps if taps <= FEW_TAPS else math.isqrt(taps - 1) + 1
    rows = -(-taps // m)
    step = torch.arange(max(m, rows), dtype=log_decay.dtype, device=log_decay.device)
    fine = torch.exp(log_decay.unsqueeze(2) * step[:m])  # (D, N, m)
    if rows > 1:
        coarse = torch.exp(log_decay.unsqueeze(1) * (m * step[:rows]).unsqueeze(1))
        weight = coarse * weight  # (D, rows, N)
    return torch.bmm(weight, fine).flatten(1)[:, :taps]
