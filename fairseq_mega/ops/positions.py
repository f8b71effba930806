"""Relative positional biases (Mega, appendix "Relative Positional Bias") as vectors of offsets.

The bias of query ``i`` and key ``j`` depends on the offset ``j - i`` alone, so a vector holds a
whole matrix, which ``toeplitz`` lays out.
"""

from functools import lru_cache

import torch
from torch import Tensor
from torch._guards import detect_fake_mode
from torch.autograd.function import once_differentiable
from torch.utils._python_dispatch import _get_current_dispatch_mode

from . import operators
from .operators import launch, operator, power_of_two, type_within

KERNELS = f"{__package__}.position_kernels"


def rotary_bias(alpha: Tensor, beta: Tensor, first: int, last: int) -> Tensor:
    """``<R_i alpha, R_j beta>`` for the offsets ``j - i`` from ``first`` to ``last``.

    ``R_m`` turns the pairs ``(x_k, x_{k + Z/2})`` by the angles ``m 10000^(-2k/Z)``, so that
    ``<R_i alpha, R_j beta> = <alpha, R_{j-i} beta>``.

    Args:
        alpha, beta: ``(1, Z)``.

    Returns:
        ``(last - first + 1,)``.
    """
    rotations = _rotations(first, last, alpha.numel() // 2, alpha.dtype, alpha.device)
    fused = operators.runs_kernels(alpha) and not torch.compiler.is_compiling()
    products = _RotaryProducts.apply if fused else rotary_products
    return rotations @ products(alpha.squeeze(0), beta.squeeze(0))


def rotary_products(alpha: Tensor, beta: Tensor) -> Tensor:
    """What the cosines, then the sines are multiplied by, ``(Z,)``: as complex numbers ``x_k + i
    x_{k + Z/2}``, the real and the imaginary part of ``alpha conj(beta)``."""
    a1, a2 = alpha.chunk(2)
    b1, b2 = beta.chunk(2)
    return torch.cat([a1 * b1 + a2 * b2, a2 * b1 - a1 * b2])


class _RotaryProducts(torch.autograd.Function):
    """``rotary_products`` in three launches for both passes in place of 22: a GPU takes longer for
    each than to compute so few numbers."""

    @staticmethod
    def forward(ctx, alpha, beta):
        ctx.save_for_backward(alpha, beta)
        return _product(alpha, beta, True)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        alpha, beta = ctx.saved_tensors
        # With p = alpha conj(beta): the gradient of alpha is grad beta, of beta conj(grad) alpha.
        return _product(grad, beta, False), _product(alpha, grad, True)


@operator("complex")
def _product(x: Tensor, y: Tensor, conjugate: bool) -> Tensor:
    """``x y``, or ``x conj(y)``, of complex numbers ``(Z,)``: real parts, then imaginary ones."""
    out, half, x, y = torch.empty_like(x), x.numel() // 2, x.contiguous(), y.contiguous()
    if not x.is_meta:
        sizes = dict(T=type_within(x), C=power_of_two(half))
        launch(KERNELS, "complex_product", x, (1,), x, y, out, half, conjugate, **sizes)
    return out


def _rotations(
    first: int, last: int, half: int, dtype: torch.dtype, device: torch.device
) -> Tensor:
    """Cosines and sines of the angles of ``first .. last``, ``(M, Z)``.

    They depend on no weights. In generation the range grows with every step, so a table for many
    steps is kept.
    """
    if torch.compiler.is_compiling() or _is_fake():
        return _rotation_table(first, last, half, dtype, device)  # a tensor that is not to be kept
    reach = 1 << max(-first, last, 1).bit_length()
    return _kept_rotation_table(-reach, reach, half, dtype, device)[
        reach + first : reach + last + 1
    ]


def _is_fake() -> bool:
    """Whether tensors are made that have no numbers, and cannot be used later."""
    return _get_current_dispatch_mode() is not None and detect_fake_mode() is not None


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
