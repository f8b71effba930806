"""``naive`` on a GPU: a kernel for each formula, and one for its backward pass, which computes the
activation again. Functions take the arguments of the formula: tensors ``(B, L, D)``, ``silu`` as
the activation, and a dropout module whose ``mask`` draws which values are kept.
"""

from typing import Any, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..operators import (
    as_bytes,
    ceil,
    channels_together,
    launch,
    power_of_two,
    type_within,
)
from . import naive

KERNELS = f"{__package__}.kernels"
# Numbers of a tile, and columns of it at most.
TILE, COLUMNS = 2048, 1024


def activated(x: Tensor, activation: Any, dropout: Any) -> Tensor:
    return ema_output(x, x.dtype, dropout)


def ema_output(y: Tensor, dtype: torch.dtype, dropout: Any) -> Tensor:
    keep, scale = _mask(y, dropout)
    if keep is None and y.dtype == dtype:  # torch's silu keeps its argument alone, too
        return F.silu(y)
    return _Activated.apply(channels_together(y), dtype, keep, scale)


split = naive.split


def queries_and_keys(z: Tensor, gamma: Tensor, beta: Tensor) -> Tuple[Tensor, Tensor]:
    return _QueriesAndKeys.apply(channels_together(z), gamma, beta)


def reset_gated(o: Tensor, r: Tensor) -> Tensor:
    return _ResetGated.apply(channels_together(o), channels_together(r))


def gated_update(
    residual: Tensor, hx: Optional[Tensor], h: Tensor, u: Tensor, activation: Any, dropout: Any
) -> Tensor:
    residual, h, u = (channels_together(t) for t in (residual, h, u))
    hx = None if hx is None else channels_together(hx)
    return _GatedUpdate.apply(residual, hx, h, u, *_mask(h, dropout))


def _mask(x: Tensor, dropout: Any) -> Tuple[Optional[Tensor], float]:
    """Which values are kept, as one piece of memory, and their scale."""
    mask = dropout.mask(x)
    return (None, 1.0) if mask is None else (mask.keep.contiguous(), mask.scale)


class _Activated(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, dtype, keep, scale):
        ctx.save_for_backward(x, keep)
        ctx.scale, y = scale, _like(x, dtype)
        _launch("activated", (x,), (), (as_bytes(keep, x), y), SCALE=scale)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, keep = ctx.saved_tensors
        grad_x = _like(x)
        others = as_bytes(keep, x), grad_x
        _launch("activated_backward", (x,), (grad,), others, SCALE=ctx.scale)
        return grad_x, None, None, None


class _ResetGated(torch.autograd.Function):
    @staticmethod
    def forward(ctx, o, r):
        ctx.save_for_backward(o, r)
        y = _like(o, torch.promote_types(o.dtype, r.dtype))
        _launch("reset_gated", (o, r), (), (y,))
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        o, r = ctx.saved_tensors
        grads = _like(o), _like(r)
        _launch("reset_gated_backward", (o, r), (grad,), grads)
        return grads


class _GatedUpdate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, residual, hx, h, u, keep, scale):
        ctx.save_for_backward(residual, hx, h, u, keep)
        ctx.options, y = dict(ADD=hx is not None, SCALE=scale), _like(residual)
        inputs = residual, h if hx is None else hx, h, u
        _launch("gated_update", inputs, (), (as_bytes(keep, h), y), **ctx.options)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        residual, hx, h, u, keep = ctx.saved_tensors
        grad_residual, grad_h, grad_u = grads = _like(residual), _like(h), _like(u)
        inputs = residual, h if hx is None else hx, h, u
        others = as_bytes(keep, h), *grads
        _launch("gated_update_backward", inputs, (grad,), others, **ctx.options)
        grad_hx = None if hx is None else grad_h.to(hx.dtype)
        return grad_residual, grad_hx, grad_h, grad_u, None, None


class _QueriesAndKeys(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z, gamma, beta):
        gamma, beta = gamma.contiguous(), beta.contiguous()
        ctx.save_for_backward(z, gamma)
        dtype = torch.promote_types(z.dtype, gamma.dtype)
        q, k = _like(z, dtype), _like(z, dtype)
        _launch("queries_and_keys", (z,), (), (gamma, beta, q, k))
        return q, k

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_q, grad_k):
        z, gamma = ctx.saved_tensors
        grad_z, dim = _like(z), z.size(-1)
        programs = ceil(z.numel() // dim, _tile(dim)[0])
        # The gradients of gamma and beta, by the rows of each program.
        sums = z.new_empty(programs, 4, dim, dtype=torch.promote_types(z.dtype, torch.float32))
        _launch("queries_and_keys_backward", (z,), (grad_q, grad_k), (gamma, grad_z, sums))
        grad_gamma, grad_beta = sums.sum(0).to(gamma.dtype).split(2)
        return grad_z, grad_gamma, grad_beta


def _launch(
    kernel: str, inputs: Sequence[Tensor], grads: Sequence[Tensor], others: Sequence[Tensor],
    **constants,
):  # fmt: skip
    """Positions of ``inputs`` and ``grads`` are at any distance in memory, of ``grads`` channels,
    too; ``others`` are contiguous."""
    x = inputs[0]
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
