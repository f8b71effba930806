"""Relative positional biases (Mega, appendix "Relative Positional Bias") as vectors of offsets.

The bias of query ``i`` and key ``j`` depends on the offset ``j - i`` alone, so a vector holds a
whole matrix, which ``toeplitz`` lays out.
"""

import torch
from torch import Tensor


def rotary_bias(alpha: Tensor, beta: Tensor, offsets: Tensor) -> Tensor:
    """``<R_i alpha, R_j beta>`` for each offset ``j - i``.

    ``R_m`` turns the pairs ``(x_k, x_{k + Z/2})`` by the angles ``m 10000^(-2k/Z)``, so that
    ``<R_i alpha, R_j beta> = <alpha, R_{j-i} beta>``.

    Args:
        alpha, beta: ``(1, Z)``.
        offsets: ``(M,)``.

    Returns:
        ``(M,)``.
    """
    a1, a2 = alpha.squeeze(0).chunk(2)
    b1, b2 = beta.squeeze(0).chunk(2)
    cos, sin = _rotations(offsets, a1.numel(), alpha.dtype)
    return cos @ (a1 * b1 + a2 * b2) + sin @ (a2 * b1 - a1 * b2)


def _rotations(offsets: Tensor, half: int, dtype: torch.dtype):
    """Cosines and sines of the angles, ``(M, Z/2)``; in float64, for offsets that are large."""
    exponent = torch.arange(half, dtype=torch.float64, device=offsets.device) / half
    angle = offsets.to(torch.float64).unsqueeze(1) * 10000.0**-exponent
    return angle.cos().to(dtype), angle.sin().to(dtype)
