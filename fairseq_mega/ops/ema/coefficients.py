"""Coefficients of the EMA for the fast forms."""

import math
from typing import List, NamedTuple, Tuple

import torch
from torch import Tensor


class EMAParameters(NamedTuple):
    """The parameters of ``K = D`` channels, or of ``2 D``, the forward EMA's first, if
    bidirectional."""

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
    """Coefficients ``(D, N)``, in at least float32, from the parameters."""
    delta, alpha, beta, gamma = EMAParameters(delta, alpha, beta, gamma).precise()
    p, change = damping(delta, alpha)
    log_decay, input_weight = torch.log1p(change).squeeze(2), (p * beta).squeeze(2)
    return EMACoefficients(log_decay, input_weight, gamma * gamma.size(-1) ** -0.5)


def damping(delta: Tensor, alpha: Tensor) -> Tuple[Tensor, Tensor]:
    """``p`` and ``q - 1 = -p a``, in the shape of ``delta``.

    ``log1p(q - 1)`` keeps the digits of a ``q`` near 1, a long memory. A ``q`` of 0 becomes the
    rounding error of 1.
    """
    p = torch.sigmoid(delta)
    return p, p * torch.sigmoid(alpha) * (torch.finfo(p.dtype).eps - 1)


def half_lives(log_decay: Tensor) -> Tensor:
    """Positions after which half of an input is left, ``ln 2 / -ln q``, from ``log q``; finite."""
    return math.log(2) / (-log_decay).clamp(min=torch.finfo(log_decay.dtype).tiny)
