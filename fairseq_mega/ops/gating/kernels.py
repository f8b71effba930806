"""Triton kernels of ``naive``, with their backward passes.

A program has a tile of ``R`` positions and ``C`` columns of tensors ``(B, L, D)``, with ``rows = B
L``. ``x_b``, ``x_l`` and ``x_d`` are strides of ``x``, by default those of a contiguous tensor.
Programs compute in ``T`` and round once.
"""

import triton
import triton.language as tl

from ..kernel_memory import read, write

VARYING = ["rows", "length"]  # from batch to batch


@triton.jit
def _tile(rows, length, dim, R: tl.constexpr, C: tl.constexpr):
    """Sequence, position ``(R, 1)`` and column ``(1, C)`` of each value; its place in a contiguous
    tensor; and whether it exists."""
    row = (tl.program_id(0) * R + tl.arange(0, R))[:, None]
    column = (tl.program_id(1) * C + tl.arange(0, C))[None, :]
    b, i = (row // length).to(tl.int64), (row % length).to(tl.int64)
    return b, i, column, row.to(tl.int64) * dim + column, (row < rows) & (column < dim)


@triton.jit
def _silu(x):
    return x * tl.sigmoid(x)


@triton.jit
def _silu_slope(x):
    s = tl.sigmoid(x)
    return s * (1.0 + x * (1.0 - s))


@triton.jit
def _dropped(values, keep, place, inside, SCALE: tl.constexpr):
    """``values`` after dropout; ``SCALE`` is 1 without dropout."""
    if SCALE != 1.0:
        values *= tl.load(keep + place, inside, 0).to(values.dtype) * SCALE
    return values


@triton.jit(do_not_specialize=VARYING)
def activated(
    x, keep, y, rows, length, dim, x_b, x_l,
    SCALE: tl.constexpr, T: tl.constexpr, R: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    b, i, column, place, inside = _tile(rows, length, dim, R, C)
    x = read(x, b * x_b + i * x_l + column, inside, T)
    write(y, place, _dropped(_silu(x), keep, place, inside, SCALE), inside)


@triton.jit(do_not_specialize=VARYING)
def activated_backward(
    x, grad, keep, grad_x, rows, length, dim, x_b, x_l, grad_b, grad_l, grad_d,
    SCALE: tl.constexpr, T: tl.constexpr, R: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    b, i, column, place, inside = _tile(rows, length, dim, R, C)
    x = read(x, b * x_b + i * x_l + column, inside, T)
    grad = read(grad, b * grad_b + i * grad_l + column * grad_d, inside, T)
    grad = _dropped(grad, keep, place, inside, SCALE)
    write(grad_x, place, grad * _silu_slope(x), inside)


@triton.jit(do_not_specialize=VARYING)
def reset_gated(
    o, r, y, rows, length, dim, o_b, o_l, r_b, r_l,
    T: tl.constexpr, R: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    b, i, column, place, inside = _tile(rows, length, dim, R, C)
    o = read(o, b * o_b + i * o_l + column, inside, T)
    r = read(r, b * r_b + i * r_l + column, inside, T)
    write(y, place, _silu(r) * o, inside)


@triton.jit(do_not_specialize=VARYING)
def reset_gated_backward(
    o, r, grad, grad_o, grad_r, rows, length, dim, o_b, o_l, r_b, r_l, grad_b, grad_l, grad_d,
    T: tl.constexpr, R: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    b, i, column, place, inside = _tile(rows, length, dim, R, C)
    o = read(o, b * o_b + i * o_l + column, inside, T)
    r = read(r, b * r_b + i * r_l + column, inside, T)
    grad = read(grad, b * grad_b + i * grad_l + column * grad_d, inside, T)
    write(grad_o, place, grad * _silu(r), inside)
    write(grad_r, place, grad * o * _silu_slope(r), inside)


@triton.jit(do_not_specialize=VARYING)
def gated_update(
    residual, hx, h, u, keep, y, rows, length, dim,
    residual_b, residual_l, hx_b, hx_l, h_b, h_l, u_b, u_l,
    ADD: tl.constexpr, SCALE: tl.constexpr, T: tl.constexpr, R: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    b, i, column, place, inside = _tile(rows, length, dim, R, C)
    residual = read(residual, b * residual_b + i * residual_l + column, inside, T)
    h = read(h, b * h_b + i * h_l + column, inside, T)
    if ADD:
        h += read(hx, b * hx_b + i * hx_l + column, inside, T)
    u = tl.sigmoid(read(u, b * u_b + i * u_l + column, inside, T))
    new = _dropped(_silu(h), keep, place, inside, SCALE)
    write(y, place, residual + u * (new - residual), inside)


@triton.jit(do_not_specialize=VARYING)
def gated_update_backward(
    residual, hx, h, u, grad, keep, grad_residual, grad_h, grad_u, rows, length, dim,
    residual_b, residual_l, hx_b, hx_l, h_b, h_l, u_b, u_l, grad_b, grad_l, grad_d,
    ADD: tl.constexpr, SCALE: tl.constexpr, T: tl.constexpr, R: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    b, i, column, place, inside = _tile(rows, length, dim, R, C)
    residual = read(residual, b * residual_b + i * residual_l + column, inside, T)
    h = read(h, b * h_b + i * h_l + column, inside, T)
    if ADD:
        h += read(hx, b * hx_b + i * hx_l + column, inside, T)
    u = tl.sigmoid(read(u, b * u_b + i * u_l + column, inside, T))
    grad = read(grad, b * grad_b + i * grad_l + column * grad_d, inside, T)
    new = _dropped(_silu(h), keep, place, inside, SCALE)
    grad_new = _dropped(grad * u, keep, place, inside, SCALE)
    write(grad_residual, place, grad * (1.0 - u), inside)
    write(grad_h, place, grad_new * _silu_slope(h), inside)
    write(grad_u, place, grad * (new - residual) * u * (1.0 - u), inside)


@triton.jit
def _parameter(pointer, i, dim, T: tl.constexpr, C: tl.constexpr):
    """Row ``i`` of a parameter ``(2, dim)``: ``(1, C)``."""
    column = (tl.program_id(1) * C + tl.arange(0, C))[None, :]
    return read(pointer, i * dim + column, column < dim, T)


@triton.jit(do_not_specialize=VARYING)
def queries_and_keys(
    z, gamma, beta, q, k, rows, length, dim, z_b, z_l,
    T: tl.constexpr, R: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    b, i, column, place, inside = _tile(rows, length, dim, R, C)
    z = _silu(read(z, b * z_b + i * z_l + column, inside, T))
    for j in tl.static_range(2):
        out = _parameter(gamma, j, dim, T, C) * z + _parameter(beta, j, dim, T, C)
        write(q if j == 0 else k, place, out, inside)


@triton.jit(do_not_specialize=VARYING)
def queries_and_keys_backward(
    z, grad_q, grad_k, gamma, grad_z, sums, rows, length, dim, z_b, z_l,
    grad_q_b, grad_q_l, grad_q_d, grad_k_b, grad_k_l, grad_k_d,
    T: tl.constexpr, R: tl.constexpr, C: tl.constexpr,
):  # fmt: skip
    """``sums (programs, 4, dim)`` are gradients of ``gamma`` and ``beta``."""
    b, i, column, place, inside = _tile(rows, length, dim, R, C)
    raw = read(z, b * z_b + i * z_l + column, inside, T)
    z = _silu(raw)
    grad_q = read(grad_q, b * grad_q_b + i * grad_q_l + column * grad_q_d, inside, T)
    grad_k = read(grad_k, b * grad_k_b + i * grad_k_l + column * grad_k_d, inside, T)
    grad = grad_q * _parameter(gamma, 0, dim, T, C) + grad_k * _parameter(gamma, 1, dim, T, C)
    write(grad_z, place, grad * _silu_slope(raw), inside)
    column = tl.program_id(1) * C + tl.arange(0, C)
    sums += tl.program_id(0).to(tl.int64) * 4 * dim + column
    tl.store(sums, tl.sum(grad_q * z, 0), column < dim)
    tl.store(sums + dim, tl.sum(grad_k * z, 0), column < dim)
    tl.store(sums + 2 * dim, tl.sum(grad_q, 0), column < dim)
    tl.store(sums + 3 * dim, tl.sum(grad_k, 0), column < dim)
