"""Relative positional biases (Mega, appendix "Relative Positional Bias") as vectors of the offsets
``j - i``, which ``toeplitz`` makes matrices of."""

from functools import lru_cache

import torch
from torch import Tensor


def rotary_bias(alpha: Tensor, beta: Tensor, first: int, last: int) -> Tensor:
    """``<R_i alpha, R_j beta>`` of ``alpha, beta (1, Z)`` for the offsets ``first .. last`` of
    ``j - i``: ``(last - first + 1,)``.

    ``R_m`` turns the pairs ``(x_k, x_{k + Z/2})`` by the angles ``m 10000^(-2k/Z)``, so that with
    the halves ``a1, a2`` and ``b1, b2`` of alpha and beta

        <R_i alpha, R_j beta> = <alpha, R_{j-i} beta> = <a1 b1, cos> - <a1 b2, sin>
                                                      + <a2 b1, sin> + <a2 b2, cos>
    """
    half = alpha.numel() // 2
    products = alpha.view(2, 1, half) * beta.view(1, 2, half)
    if torch.compiler.is_compiling():
        table = _rotations(first, last, half, alpha.dtype, alpha.device)
    else:  # one table serves many steps of generation, whose range grows
        reach = 1 << max(-first, last, 1).bit_length()
        table = _kept_rotations(-reach, reach, half, alpha.dtype, alpha.device)
        table = table[reach + first : reach + last + 1]
    return table @ products.flatten()


def _rotations(
    first: int, last: int, half: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """``cos, -sin, sin, cos`` of the angles of ``first .. last``: ``(M, 2 Z)``. Large offsets need
    float64."""
    offsets = torch.arange(first, last + 1, dtype=torch.float64, device=device)
    exponent = torch.arange(half, dtype=torch.float64, device=device) / half
    angle = offsets.unsqueeze(1) * 10000.0**-exponent
    cos, sin = angle.cos(), angle.sin()
    return torch.cat([cos, -sin, sin, cos], dim=1).to(dtype)


# Outside of inference mode, because training may use it later.
_kept_rotations = lru_cache(maxsize=8)(torch.inference_mode(False)(_rotations))
