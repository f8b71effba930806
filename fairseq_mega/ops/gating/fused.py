"""``naive`` on a GPU: a kernel for each formula, and one for its backward pass, which computes the
activation again. Functions take the arguments of the formula. Where nothing is dropped, ``silu`` is
torch's, which is that already."""

from typing import Any, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .. import operators
from ..dropout import DropoutMask
from ..operators import (
    as_bytes,
    ceil,
    channels_together,
    launch,
    operator,
    power_of_two,
    type_within,
)

KERNELS = f"{__package__}.kernels"
# Numbers of a tile, and columns of it at most.
TILE, COLUMNS = 2048, 1024


def is_available(*args: Any) -> bool:
    """Whether there are kernels for a formula of these arguments: on a GPU, of tensors ``(B, L,
    D)``, for ``silu`` and dropout of single values. Not in a step of generation, of one position
    without gradients: the host launches torch's few kernels sooner than one of Triton's."""
    x = next(arg for arg in args if isinstance(arg, Tensor))
    if not operators.runs_kernels(x) or x.dim() != 3 or torch.compiler.is_compiling():
        return False
    if x.size(1) == 1 and not torch.is_grad_enabled():
        return False
    masks = (arg for arg in args if isinstance(arg, DropoutMask))
    activations = (arg for arg in args if callable(arg))
    return all(f is F.silu for f in activations) and all(m.keep.shape == x.shape for m in masks)


def activated(x: Tensor, activation: Any, mask: Optional[DropoutMask]) -> Tensor:
    if mask is None:
        return F.silu(x)
    return _Activated.apply(channels_together(x), x.dtype, *_parts(mask))


def ema_output(y: Tensor, dtype: torch.dtype, mask: Optional[DropoutMask]) -> Tensor:
    if mask is None and y.dtype == dtype:
        return F.silu(y)
    return _Activated.apply(channels_together(y), dtype, *_parts(mask))


def queries_and_keys(z: Tensor, gamma: Tensor, beta: Tensor) -> Tuple[Tensor, Tensor]:
    return _QueriesAndKeys.apply(channels_together(z), gamma, beta)


def reset_gated(o: Tensor, r: Tensor) -> Tensor:
    return _ResetGated.apply(channels_together(o), channels_together(r))


def gated_update(
    residual: Tensor,
    hx: Optional[Tensor],
    h: Tensor,
    u: Tensor,
    activation: Any,
    mask: Optional[DropoutMask],
) -> Tensor:
    residual, h, u = (channels_together(t) for t in (residual, h, u))
    hx = None if hx is None else channels_together(hx)
    return _GatedUpdate.apply(residual, hx, h, u, *_parts(mask))


def _parts(mask: Optional[DropoutMask]) -> Tuple[Optional[Tensor], float]:
    return (None, 1.0) if mask is None else (mask.keep.contiguous(), mask.scale)


class _Activated(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, dtype, keep, scale):
        ctx.save_for_backward(x, keep)
        ctx.scale = scale
        return _activated(x, keep, scale, dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        grad_x = _activated_backward(*ctx.saved_tensors, ctx.scale, grad)
        return grad_x, None, None, None


class _ResetGated(torch.autograd.Function):
    @staticmethod
    def forward(ctx, o, r):
        ctx.save_for_backward(o, r)
        return _reset_gated(o, r)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        return _reset_gated_backward(*ctx.saved_tensors, grad)


class _GatedUpdate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, residual, hx, h, u, keep, scale):
        ctx.save_for_backward(residual, hx, h, u, keep)
        ctx.scale = scale
        return _gated_update(residual, hx, h, u, keep, scale)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        residual, hx, h, u, keep = ctx.saved_tensors
        grads = _gated_update_backward(residual, hx, h, u, keep, ctx.scale, grad)
        grad_residual, grad_h, grad_u = grads
        grad_hx = None if hx is None else grad_h.to(hx.dtype)
        return grad_residual, grad_hx, grad_h, grad_u, None, None


class _QueriesAndKeys(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z, gamma, beta):
        gamma, beta = gamma.contiguous(), beta.contiguous()
        ctx.save_for_backward(z, gamma)
        return _queries_and_keys(z, gamma, beta)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_q, grad_k):
        z, gamma = ctx.saved_tensors
        grad_z, sums = _queries_and_keys_backward(z, gamma, grad_q, grad_k)
        grad_gamma, grad_beta = sums.sum(0).to(gamma.dtype).split(2)
        return grad_z, grad_gamma, grad_beta


# --- the operators: each is one launch ------------------------------------------------------------


@operator("gating")
def _activated(x: Tensor, keep: Optional[Tensor], scale: float, dtype: torch.dtype) -> Tensor:
    y = _like(x, dtype)
    _launch("activated", (x,), (), (as_bytes(keep, x), y), SCALE=scale)
    return y


@operator("gating")
def _activated_backward(x: Tensor, keep: Optional[Tensor], scale: float, grad: Tensor) -> Tensor:
    grad_x = _like(x)
    _launch("activated_backward", (x,), (grad,), (as_bytes(keep, x), grad_x), SCALE=scale)
    return grad_x


@operator("gating")
def _reset_gated(o: Tensor, r: Tensor) -> Tensor:
    y = _like(o, torch.promote_types(o.dtype, r.dtype))
    _launch("reset_gated", (o, r), (), (y,))
    return y


@operator("gating")
def _reset_gated_backward(o: Tensor, r: Tensor, grad: Tensor) -> Tuple[Tensor, Tensor]:
    grads = _like(o), _like(r)
    _launch("reset_gated_backward", (o, r), (grad,), grads)
    return grads


@operator("gating")
def _gated_update(
    residual: Tensor, hx: Optional[Tensor], h: Tensor, u: Tensor,
    keep: Optional[Tensor], scale: float,
) -> Tensor:  # fmt: skip
    y, add = _like(residual), hx is not None
    inputs = residual, h if hx is None else hx, h, u
    _launch("gated_update", inputs, (), (as_bytes(keep, h), y), ADD=add, SCALE=scale)
    return y


@operator("gating")
def _gated_update_backward(
    residual: Tensor, hx: Optional[Tensor], h: Tensor, u: Tensor,
    keep: Optional[Tensor], scale: float, grad: Tensor,
) -> Tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Of ``residual``, of ``h`` and ``hx``, and of ``u``."""
    grads, add = (_like(residual), _like(h), _like(u)), hx is not None
    inputs, others = (residual, h if hx is None else hx, h, u), (as_bytes(keep, h), *grads)
    _launch("gated_update_backward", inputs, (grad,), others, ADD=add, SCALE=scale)
    return grads


@operator("gating")
def _queries_and_keys(z: Tensor, gamma: Tensor, beta: Tensor) -> Tuple[Tensor, Tensor]:
    dtype = torch.promote_types(z.dtype, gamma.dtype)
    q, k = _like(z, dtype), _like(z, dtype)
    _launch("queries_and_keys", (z,), (), (gamma, beta, q, k))
    return q, k


@operator("gating")
def _queries_and_keys_backward(
    z: Tensor, gamma: Tensor, grad_q: Tensor, grad_k: Tensor
) -> Tuple[Tensor, Tensor]:
    """Of ``z``, and of ``gamma`` and ``beta`` by the rows of each program: ``(programs, 4, Z)``."""
    grad_z, dim = _like(z), z.size(-1)
    programs = ceil(z.numel() // dim, _tile(dim)[0])
    sums = z.new_empty(programs, 4, dim, dtype=torch.promote_types(z.dtype, torch.float32))
    _launch("queries_and_keys_backward", (z,), (grad_q, grad_k), (gamma, grad_z, sums))
    return grad_z, sums


def _launch(
    kernel: str, inputs: Sequence[Tensor], grads: Sequence[Tensor], others: Sequence[Tensor],
    **constants,
):  # fmt: skip
    """Positions of ``inputs`` and ``grads`` are at any distance in memory, of ``grads`` channels,
    too; ``others`` are contiguous."""
    x = inputs[0]
    if x.is_meta:
        return
    batch, length, dim = x.shape
    strides = [n for t in inputs for n in t.stride()[:2]]
    strides += [n for t in grads for n in t.stride()]
    r, c = _tile(dim)
    grid, sizes = (ceil(batch * length, r), ceil(dim, c)), (batch * length, length, dim)
    constants.update(T=type_within(*inputs), R=r, C=c)
    launch(KERNELS, kernel, x, grid, *inputs, *grads, *others, *sizes, *strides, **constants)


def _tile(dim: int) -> Tuple[int, int]:
    """Positions and columns of a tile."""
    columns = min(power_of_two(dim), COLUMNS)
    return TILE // columns, columns


def _like(x: Tensor, dtype: Optional[torch.dtype] = None) -> Tensor:
    return torch.empty_like(x, dtype=dtype, memory_format=torch.contiguous_format)
