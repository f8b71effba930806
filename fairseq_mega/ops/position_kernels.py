"""The Triton kernel of ``positions``."""

import triton
import triton.language as tl

from .kernel_memory import read, write


@triton.jit
def complex_product(
    x, y, out, half, CONJUGATE: tl.constexpr, T: tl.constexpr, C: tl.constexpr
):  # fmt: skip
    """``x y`` or ``x conj(y)`` of ``half`` complex numbers: real parts, then imaginary ones."""
    k = tl.arange(0, C)
    inside = k < half
    x1, x2 = read(x, k, inside, T), read(x, half + k, inside, T)
    y1, y2 = read(y, k, inside, T), read(y, half + k, inside, T)
    if CONJUGATE:
        y2 = -y2
    write(out, k, x1 * y1 - x2 * y2, inside)
    write(out, half + k, x2 * y1 + x1 * y2, inside)
