"""``naive`` on a GPU: two kernels for each formula, whose backward pass recomputes the activation.

The arguments are those of ``naive``, with ``silu`` as the activation, and a dropout module whose
``mask`` draws which values are kept.
"""

from typing import Any, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..operators import as_bytes, ceil, channels_together, launch, like, power_of_two, type_within
from . import naive

KERNELS = f"{__package__}.kernels"
TILE, COLUMNS = 2048, 1024  # values of a tile, and its columns at most


def activated(x: Tensor, activation: Any, dropout: Any) -> Tensor:
    return ema_output(x, x.dtype, dropout)


def ema_output(y: Tensor, dtype: torch.dtype, dropout: Any) -> Tensor:
    keep, scale = _mask(y, dropout)
    if keep is None and y.dtype == dtype:  # torch's silu keeps its argument alone, too
        return F.silu(y)
    y = channels_together(y)
    return _Formula.apply("activated", dtype, (as_bytes(keep, y),), dict(SCALE=scale), y)


split = naive.split


def queries_and_keys(z: Tensor, gamma: Tensor, beta: Tensor) -> Tuple[Tensor, Tensor]:
    return _QueriesAndKeys.apply(channels_together(z), gamma, beta)


def reset_gated(o: Tensor, r: Tensor) -> Tensor:
    dtype = torch.promote_types(o.dtype, r.dtype)
    return _Formula.apply("reset_gated", dtype, (), {}, channels_together(o), channels_together(r))


def gated_update(
    residual: Tensor, hx: Optional[Tensor], h: Tensor, u: Tensor, activation: Any, dropout: Any
) -> Tensor:
    residual, h, u = (channels_together(t) for t in (residual, h, u))
    hx = None if hx is None else channels_together(hx)
    return _GatedUpdate.apply(residual, hx, h, u, *_mask(h, dropout))


def _mask(x: Tensor, dropout: Any) -> Tuple[Optional[Tensor], float]:
    """Which values are kept, contiguous, and their scale."""
    mask = dropout.mask(x)
    return (None, 1.0) if mask is None else (mask.keep.contiguous(), mask.scale)


class _Formula(torch.autograd.Function):
    """A kernel with one output, and ``{kernel}_backward``, which writes all inputs' gradients."""

    @staticmethod
    def forward(ctx, kernel, dtype, mask, constants, *inputs):
        ctx.save_for_backward(*inputs, *mask)
        ctx.kernel, ctx.constants, ctx.inputs = kernel, constants, len(inputs)
        y = like(inputs[0], dtype)
        _launch(kernel, inputs, (), (*mask, y), **constants)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        saved = ctx.saved_tensors  # read once: activation checkpointing recomputes them only once
        inputs, mask = saved[: ctx.inputs], saved[ctx.inputs :]
        grads = [like(x) for x in inputs]
        _launch(f"{ctx.kernel}_backward", inputs, (grad,), (*mask, *grads), **ctx.constants)
        return None, None, None, None, *grads


class _GatedUpdate(torch.autograd.Function):
    @staticmethod
    def forward(ctx, residual, hx, h, u, keep, scale):
        ctx.save_for_backward(residual, hx, h, u, keep)
        ctx.options, y = dict(ADD=hx is not None, SCALE=scale), like(residual)
        inputs = residual, h if hx is None else hx, h, u
        _launch("gated_update", inputs, (), (as_bytes(keep, h), y), **ctx.options)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        residual, hx, h, u, keep = ctx.saved_tensors
        grad_residual, grad_h, grad_u = grads = like(residual), like(h), like(u)
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
        q, k = like(z, dtype), like(z, dtype)
        _launch("queries_and_keys", (z,), (), (gamma, beta, q, k))
        return q, k

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_q, grad_k):
        z, gamma = ctx.saved_tensors
        grad_z, dim = like(z), z.size(-1)
        programs = ceil(z.numel() // dim, _tile(dim)[0])
        # Gradients of gamma and beta from each program's positions.
        sums = z.new_empty(programs, 4, dim, dtype=torch.promote_types(z.dtype, torch.float32))
        _launch("queries_and_keys_backward", (z,), (grad_q, grad_k), (gamma, grad_z, sums))
        grad_gamma, grad_beta = sums.sum(0).to(gamma.dtype).split(2)
        return grad_z, grad_gamma, grad_beta


def _launch(
    kernel: str, inputs: Sequence[Tensor], grads: Sequence[Tensor], others: Sequence[Tensor],
    **constants,
):  # fmt: skip
    """``grads`` have any strides, ``inputs`` contiguous channels; ``others`` are contiguous."""
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
