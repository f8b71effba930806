"""Relative positional biases (Mega, appendix "Relative Positional Bias") as vectors of offsets.

The bias of query ``i`` and key ``j`` depends on the offset ``j - i`` alone, so a vector holds a
whole matrix, which ``toeplitz`` lays out.
"""

from functools import lru_cache

import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode


def rotary_bias(alpha: Tensor, beta: Tensor, first: int, last: int) -> Tensor:
    """``<R_i alpha, R_j beta>`` for the offsets ``j - i`` from ``first`` to ``last``.

    ``R_m`` turns the pairs ``(x_k, x_{k + Z/2})`` by the angles ``m 10000^(-2k/Z)``, so that
    ``<R_i alpha, R_j beta> = <alpha, R_{j-i} beta>``.

    Args:
        alpha, beta: ``(1, Z)``.

    Returns:
        ``(last - first + 1,)``.
    """
    a1, a2 = alpha.squeeze(0).chunk(2)
    b1, b2 = beta.squeeze(0).chunk(2)
    turned = torch.cat([a1 * b1 + a2 * b2, a2 * b1 - a1 * b2])  # (Z,)
    return _rotations(first, last, a1.numel(), alpha.dtype, alpha.device) @ turned


def _rotations(
    first: int, last: int, half: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Cosines and sines of the angles of ``first .. last``, ``(M, Z)``.

    They depend on no weights. In generation the range grows with every step, so a table for many
    steps is kept.
    """
    if torch.compiler.is_compiling() or _get_current_dispatch_mode() is not None:
        return _rotation_table(first, last, half, dtype, device)  # tensors that are not to be kept
    reach = 1 << max(-first, last, 1).bit_length()
    return _kept_rotation_table(-reach, reach, half, dtype, device)[
        reach + first : reach + last + 1
    ]


def _rotation_table(
    first: int, last: int, half: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """In float64 until the end, for offsets that are large."""
    offsets = torch.arange(first, last + 1, dtype=torch.float64, device=device)
    exponent = torch.arange(half, dtype=torch.float64, device=device) / half
    angle = offsets.unsqueeze(1) * 10000.0**-exponent
    return torch.cat([angle.cos(), angle.sin()], dim=1).to(dtype)


# Made outside of inference mode, as it may be used for training later.
_kept_rotation_table = lru_cache(maxsize=8)(torch.inference_mode(False)(_rotation_table))
