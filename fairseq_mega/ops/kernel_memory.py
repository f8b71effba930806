"""Memory access of Triton kernels, which compute in another type than that of the memory."""

import triton
import triton.language as tl


@triton.jit
def read(pointer, place, inside, T: tl.constexpr):
    """Values as ``T``, zero outside."""
    return tl.load(pointer + place, inside, 0.0).to(T)


@triton.jit
def write(pointer, place, values, inside):
    """Stores values in the type of the memory."""
    tl.store(pointer + place, values.to(pointer.dtype.element_ty), inside)
