"""The damped EMA as the paper prints it. Tests compare the fast forms with it.

The paper's alpha is sigmoid(delta) here, its delta is sigmoid(alpha), and eta is gamma / sqrt(N).
Parameters are ``delta, alpha, beta: (D, N, 1)`` and ``gamma: (D, N)``; sequences ``(B, L, D)``.
"""

import math
from typing import Optional, Tuple

import torch
from torch import Tensor


def damping(delta: Tensor, alpha: Tensor) -> Tuple[Tensor, Tensor]:
    """``p = sigmoid(delta)`` and ``q = 1 - p sigmoid(alpha)``, ``(D, N)`` each."""
    p, a = torch.sigmoid(delta.squeeze(-1)), torch.sigmoid(alpha.squeeze(-1))
    return p, 1 - p * a


def ema_recurrence(
    x: Tensor, delta: Tensor, alpha: Tensor, beta: Tensor, gamma: Tensor, h: Optional[Tensor] = None
) -> Tuple[Tensor, Tensor]:
    """The recurrence, position after position.

        h_t = p beta x_t + q h_{t-1}
        y_t = sum_n gamma h_t / sqrt(N)

    Args:
        x: ``(B, L, D)``.
        h: the hidden state before the first position, ``(B, D, N)``; zero if None.

    Returns:
        y ``(B, L, D)`` and the hidden state after the last position ``(B, D, N)``.
    """
    p, q = damping(delta, alpha)
    n = gamma.size(-1)
    if h is None:
        h = x.new_zeros(x.size(0), *p.shape)
    y = [x[:, :0]]
    for x_t in x.split(1, dim=1):  # (B, 1, D)
        h = p * beta.squeeze(-1) * x_t.transpose(1, 2) + q * h
        y.append((gamma * h).sum(-1).unsqueeze(1) / math.sqrt(n))
    return torch.cat(y, dim=1), h


def ema_kernel(delta: Tensor, alpha: Tensor, beta: Tensor, gamma: Tensor, taps: int) -> Tensor:
    """``k[d, tau] = sum_n p beta gamma q^tau / sqrt(N)`` for ``tau < taps``: ``(D, taps)``."""
    p, q = damping(delta, alpha)
    weight = p * beta.squeeze(-1) * gamma / math.sqrt(gamma.size(-1))
    kernel = [(weight * q**tau).sum(-1) for tau in range(taps)]
    return torch.stack(kernel, dim=-1)


def ema_convolution(x: Tensor, kernel: Tensor, backward_kernel: Optional[Tensor] = None) -> Tensor:
    """``y_t = sum_tau k[tau] x_{t-tau} (+ sum_tau k_b[tau] x_{t+tau})``, tap after tap.

    Args:
        x: ``(B, L, D)``.
        kernel, backward_kernel: ``(D, T)``; both sums include ``tau = 0``. Kernel truncation is a
            ``T`` below ``L``.

    Returns:
        ``(B, L, D)``.
    """
    if backward_kernel is not None:
        return ema_convolution(x, kernel) + ema_convolution(x.flip(1), backward_kernel).flip(1)
    y = torch.zeros_like(x)
    for tau, tap in enumerate(kernel.unbind(-1)[: x.size(1)]):
        shifted = torch.zeros_like(x)
        shifted[:, tau:] = tap * x[:, : x.size(1) - tau]
        y = y + shifted
    return y
