"""Triton kernels of ``naive.ema_recurrence``, with the hidden states in registers.

A program has ``CHANNELS`` channels of one sequence, a thread each, with their ``N`` hidden states:
a power of two of at least ``ndim``. So that no thread needs another's states, coefficients and
states are ``(N, D)`` in memory, and ``dim`` is not specialised: if the compiler knew it to be a
multiple of 16, a thread would load several channels at once, and several threads would have the
states of one.
Nor are sizes that change from batch to batch: each that it knew would be compiled anew.
A program walks over one block of the positions, ``ROWS`` of which are read at once, so that it
waits for memory once for all of them. Positions count in the direction of the scan: the backward
EMA is the forward one with ``reverse``. A truncated kernel of ``T`` taps is the whole EMA of
``x_t - q^T x_{t-T}``: with ``DELAYED``, inputs are also read ``T`` (``delay``) positions before.
Padding is hidden as it is read: an average sees zeros there.

``u_t = sum_tau q^tau x_{t-tau}`` and ``v_t = sum_tau tau q^tau x_{t-tau}``, its derivative by
``log q``, are states without weights; with ``0 <= tau < T`` where that is not the whole EMA. What
is multiplied by ``q`` is ``u + (q - 1) u``: long memories have a ``q`` that float32 rounds to 1.

The first axis of a grid counts tiles of channels, and with them sequences; where an EMA is
bidirectional all sequences twice: first for the forward EMA, then for the backward one, whose
coefficients and states come second. The second axis counts blocks.
"""

import triton
import triton.language as tl

from ..kernel_memory import read, write

# Of the series for log q: with s <= 1/3, what is left out is below 2^-53 of the sum.
TERMS = tl.constexpr(17)


@triton.jit
def _program(dim, CHANNELS: tl.constexpr):
    """Channels ``(CHANNELS,)`` and sequence of a program."""
    tiles = tl.cdiv(dim, CHANNELS)
    return tl.program_id(0) % tiles * CHANNELS + tl.arange(0, CHANNELS), tl.program_id(0) // tiles


@triton.jit
def _row(
    x, padding, i, d, length, dim, stride, reverse, dtype: tl.constexpr, PADDED: tl.constexpr
):  # fmt: skip
    """``x`` at the position ``i`` of the scan, ``(CHANNELS,)``; zero beyond it and at padding."""
    position = tl.where(d < dim, i, -1)
    inside = (position >= 0) & (position < length)
    row = position + reverse * (length - 1 - 2 * position)
    if PADDED:
        inside = inside & (tl.load(padding + row, inside, 1) == 0)
    return tl.load(x + row.to(tl.int64) * stride + d, inside, 0.0).to(dtype)


@triton.jit
def _rows(
    x, padding, i, d, length, dim, stride, reverse,
    dtype: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """``x`` at the positions from ``i`` on: ``ROWS`` of ``(CHANNELS,)``."""
    rows = ()
    for j in tl.static_range(ROWS):
        row = _row(x, padding, i + j, d, length, dim, stride, reverse, dtype, PADDED)
        rows += (row,)  # type: ignore[assignment]
    return rows


@triton.jit
def _weights(pointer, d, dim, ndim, N: tl.constexpr):
    """These channels of an ``(N, D)`` tensor."""
    n = tl.arange(0, N)
    inside = (d < dim)[None, :] & (n < ndim)[:, None]
    return tl.load(pointer + n[:, None] * dim + d[None, :], inside, 0.0)


@triton.jit
def _store_weights(pointer, values, d, dim, ndim, N: tl.constexpr):
    n = tl.arange(0, N)
    inside = (d < dim)[None, :] & (n < ndim)[:, None]
    tl.store(pointer + n[:, None] * dim + d[None, :], values, inside)


@triton.jit
def _next_states(u, v, new, old, decay, q_delay, delay, DELAYED: tl.constexpr):
    """``u`` and ``v`` one position later, with ``decay`` for ``q - 1``."""
    v += u
    v += decay * v
    u += decay * u + new[None, :]
    if DELAYED:
        u -= q_delay * old[None, :]
        v -= q_delay * (delay * old)[None, :]
    return u, v


# --- coefficients ---------------------------------------------------------------------------------


@triton.jit
def _p_and_a(delta, alpha):
    """``p`` and ``a``, and what each lacks of 1."""
    return tl.sigmoid(delta), tl.sigmoid(alpha), tl.sigmoid(-delta), tl.sigmoid(-alpha)


@triton.jit
def _log_decay(p, a, not_p, not_a, TINY: tl.constexpr):
    """``log q`` of ``q = 1 - p a``, as ``coefficients.ema_coefficients``. Near 1, where ``q`` would
    be rounded, it is ``log(1 - x) = -2 artanh(x / (2 - x))``, by its series: Triton has no
    ``log1p``."""
    damping = p * a
    s = damping / (2.0 - damping)
    series = tl.zeros_like(s)
    for k in tl.static_range(TERMS):
        series = series * s * s + 1.0 / (2 * (TERMS - 1 - k) + 1)
    near_zero = tl.log(tl.maximum(not_p + p * not_a, TINY))
    return tl.where(damping < 0.5, -2.0 * s * series, near_zero)


@triton.jit(do_not_specialize=["dim"])
def coefficients(
    delta, alpha, beta, gamma, log_decay, decay, weight, dim, ndim,
    TINY: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    """``log q``, ``q - 1`` and ``p beta gamma / sqrt(ndim)``, ``(N, D)`` each, for each direction;
    of parameters ``(D, N)``. The second axis of the grid counts dimensions, the third directions.
    """
    d, n, direction = (
        tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS),
        tl.program_id(1),
        tl.program_id(2),
    )
    inside = d < dim
    dtype = weight.dtype.element_ty
    place = (direction * dim + d) * ndim + n
    delta, alpha = read(delta, place, inside, dtype), read(alpha, place, inside, dtype)
    beta, gamma = read(beta, place, inside, dtype), read(gamma, place, inside, dtype)
    p, a, not_p, not_a = _p_and_a(delta, alpha)
    root = tl.sqrt(tl.zeros((CHANNELS,), dtype) + ndim)
    place = (direction * ndim + n) * dim + d
    write(log_decay, place, _log_decay(p, a, not_p, not_a, TINY), inside)
    write(decay, place, -p * a, inside)
    write(weight, place, p * beta * gamma / root, inside)


@triton.jit
def _lines(x, i, d, lines, dim, stride, ROWS: tl.constexpr):
    """``ROWS`` of so many ``lines``, ``(CHANNELS,)`` each, from the ``i``-th on, which ``x``
    points to; zero beyond the last."""
    found = ()
    for j in tl.static_range(ROWS):
        inside = tl.where(i + j < lines, d, dim) < dim
        found += (tl.load(x + j * stride, inside, 0.0),)  # type: ignore[assignment]
    return found


@triton.jit
def _sum_lines(x, d, lines, dim, stride, CHANNELS: tl.constexpr, ROWS: tl.constexpr):
    """The sum of so many ``lines``, ``ROWS`` of which are read at once."""
    x += d
    total = tl.zeros((CHANNELS,), x.dtype.element_ty)
    for i in range(0, lines, ROWS):
        found = _lines(x, i, d, lines, dim, stride, ROWS)
        for j in tl.static_range(ROWS):
            total += found[j]
        x += ROWS * stride
    return total


@triton.jit(do_not_specialize=["dim", "rows"])
def coefficient_gradients(
    delta, alpha, beta, gamma, sum_u, sum_v, sum_x,
    grad_delta, grad_alpha, grad_beta, grad_gamma, grad_omega, rows, dim, ndim,
    TINY: tl.constexpr, OMEGA: tl.constexpr, CHANNELS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Gradients of the parameters, from what ``gradients`` has summed by sequence and block:
    ``rows`` for each direction. The grid is that of ``coefficients``."""
    d, n, direction = (
        tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS),
        tl.program_id(1),
        tl.program_id(2),
    )
    inside = d < dim
    dtype = sum_u.dtype.element_ty
    first, stride = direction.to(tl.int64) * rows * ndim * dim + n * dim, ndim * dim
    # Gradients of the weight, and of log q divided by the weight.
    by_weight = _sum_lines(sum_u + first, d, rows, dim, stride, CHANNELS, ROWS)
    by_log = _sum_lines(sum_v + first, d, rows, dim, stride, CHANNELS, ROWS)
    place = (direction * dim + d) * ndim + n
    delta, alpha = read(delta, place, inside, dtype), read(alpha, place, inside, dtype)
    root = tl.sqrt(tl.zeros((CHANNELS,), dtype) + ndim)
    beta = read(beta, place, inside, dtype) / root
    gamma = read(gamma, place, inside, dtype)
    p, a, not_p, not_a = _p_and_a(delta, alpha)
    weight = beta * gamma  # times p
    # dL/d(p a) = -(dL/d log q) / q;  dL/dp = dL/d(p a) a + dL/d(weight) beta gamma / root
    by_damping = -weight * p * by_log / tl.maximum(not_p + p * not_a, TINY)
    by_p = by_damping * a + by_weight * weight
    write(grad_delta, place, by_p * p * not_p, inside)
    write(grad_alpha, place, by_damping * p * a * not_a, inside)
    write(grad_beta, place, by_weight * p * gamma / root, inside)
    write(grad_gamma, place, by_weight * p * beta, inside)
    if OMEGA:  # noqa: SIM102 - known to the compiler, the other when it runs
        if n + direction == 0:
            write(grad_omega, d, _sum_lines(sum_x, d, rows, dim, dim, CHANNELS, ROWS), inside)


# --- the recurrence -------------------------------------------------------------------------------


@triton.jit(do_not_specialize=["dim", "batch", "length", "block", "reverse"])
def block_states(
    x, padding, log_decay, decay, u_out, v_out,
    batch, length, dim, ndim, block, delay, reverse, stride_b, stride_l,
    PADDED: tl.constexpr, DELAYED: tl.constexpr,
    CHANNELS: tl.constexpr, N: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """``u`` and ``v (B, blocks, N, D)`` at the end of each block, of its own inputs alone."""
    d, sequence = _program(dim, CHANNELS)
    s, row, direction = tl.program_id(1), sequence % batch, sequence // batch
    place = direction * dim * ndim
    q_delay = tl.exp(delay * _weights(log_decay + place, d, dim, ndim, N))
    decay = _weights(decay + place, d, dim, ndim, N)
    x += row.to(tl.int64) * stride_b
    padding += row.to(tl.int64) * length
    reverse = reverse ^ direction
    u, v = tl.zeros_like(decay), tl.zeros_like(decay)
    stop = tl.minimum((s + 1) * block, length)
    whole = stop - (stop - s * block) % ROWS
    for start in range(s * block, whole, ROWS):
        new = _rows(x, padding, start, d, length, dim, stride_l, reverse, decay.dtype, PADDED, ROWS)
        old = new
        if DELAYED:
            old = _rows(
                x, padding, start - delay, d, length, dim, stride_l, reverse, decay.dtype, PADDED,
                ROWS,
            )  # fmt: skip
        for j in tl.static_range(ROWS):
            u, v = _next_states(u, v, new[j], old[j], decay, q_delay, delay, DELAYED)
    # Positions past the end would decay the state; scan and gradients do not need it then.
    for i in range(whole, stop):
        last = _row(x, padding, i, d, length, dim, stride_l, reverse, decay.dtype, PADDED)
        first = last
        if DELAYED:
            first = _row(
                x, padding, i - delay, d, length, dim, stride_l, reverse, decay.dtype, PADDED
            )
        u, v = _next_states(u, v, last, first, decay, q_delay, delay, DELAYED)
    place = (sequence.to(tl.int64) * tl.num_programs(1) + s) * dim * ndim
    _store_weights(u_out + place, u, d, dim, ndim, N)
    _store_weights(v_out + place, v, d, dim, ndim, N)


@triton.jit(do_not_specialize=["dim", "batch", "blocks", "block", "length"])
def join_blocks(
    u_end, v_end, log_decay, u_start, v_start, batch, blocks, block, length, dim, ndim,
    CHANNELS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """The recurrence between blocks: ``u`` and ``v (B, blocks + 1, N, D)`` before each, and at the
    end. The second axis of the grid counts dimensions, and ``ROWS`` blocks are read at once."""
    d, sequence = _program(dim, CHANNELS)
    inside, stride = d < dim, ndim * dim
    place = tl.program_id(1) * dim + d
    log_q = tl.load(log_decay + sequence // batch * stride + place, inside, 0.0)
    end = place + sequence.to(tl.int64) * blocks * stride
    start = place + sequence.to(tl.int64) * (blocks + 1) * stride
    u, v = tl.zeros_like(log_q), tl.zeros_like(log_q)
    tl.store(u_start + start, u, inside)
    tl.store(v_start + start, v, inside)
    for first in range(0, blocks, ROWS):
        u_ends = _lines(u_end + end, first, d, blocks, dim, stride, ROWS)
        v_ends = _lines(v_end + end, first, d, blocks, dim, stride, ROWS)
        for j in tl.static_range(ROWS):
            steps = tl.minimum(block, length - (first + j) * block)
            decay = tl.exp(steps * log_q)
            v = decay * (v + steps * u) + v_ends[j]
            u = decay * u + u_ends[j]
            start += stride
            present = tl.where(first + j < blocks, d, dim) < dim
            tl.store(u_start + start, u, present)
            tl.store(v_start + start, v, present)
        end += ROWS * stride


@triton.jit(do_not_specialize=["dim", "length", "block", "reverse"])
def scan(
    x, padding, other, y, log_decay, decay, weight, omega, starts, start_weight,
    length, dim, ndim, block, delay, reverse, stride_b, stride_l, y_stride_b, y_stride_l,
    HIDE_INPUTS: tl.constexpr, HIDE_OUTPUTS: tl.constexpr, DELAYED: tl.constexpr,
    OMEGA: tl.constexpr, STARTS: tl.constexpr, ADD: tl.constexpr,
    CHANNELS: tl.constexpr, N: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """The output, ``sum_n h (+ omega x) (+ other)``, of states ``h = weight u``, which begin a
    block as ``start_weight starts (B, blocks + 1, N, D)``, or as zero. Padding is hidden from the
    average as it reads, or as it writes, which is the first one's backward pass; ``omega x`` is of
    all positions. One direction, of ``x``; ``other`` is laid out as ``y``."""
    d, sequence = _program(dim, CHANNELS)
    s, batch = tl.program_id(1), sequence.to(tl.int64)
    q_delay = tl.exp(delay * _weights(log_decay, d, dim, ndim, N))
    decay, weight = _weights(decay, d, dim, ndim, N), _weights(weight, d, dim, ndim, N)
    x += batch * stride_b
    y += batch * y_stride_b
    other += batch * y_stride_b
    padding += batch * length
    old_weight = q_delay * weight
    h = tl.zeros_like(decay)
    if OMEGA:
        direct = tl.load(omega + d, d < dim, 0.0).to(decay.dtype)
    if STARTS:
        starts += (batch * (tl.num_programs(1) + 1) + s) * dim * ndim
        h = _weights(starts, d, dim, ndim, N) * _weights(start_weight, d, dim, ndim, N)
    for start in range(s * block, tl.minimum((s + 1) * block, length), ROWS):
        new = _rows(
            x, padding, start, d, length, dim, stride_l, reverse, decay.dtype, HIDE_INPUTS, ROWS
        )
        old, shown = new, new
        if DELAYED:
            old = _rows(
                x, padding, start - delay, d, length, dim, stride_l, reverse, decay.dtype,
                HIDE_INPUTS, ROWS,
            )  # fmt: skip
        if HIDE_INPUTS and OMEGA:
            shown = _rows(
                x, padding, start, d, length, dim, stride_l, reverse, decay.dtype, False, ROWS
            )
        for j in tl.static_range(ROWS):
            h += decay * h + weight * new[j][None, :]
            if DELAYED:
                h -= old_weight * old[j][None, :]
            out = tl.sum(h, 0)
            position = tl.where(d < dim, start + j, length)
            row = position + reverse * (length - 1 - 2 * position)
            if HIDE_OUTPUTS:
                out = tl.where(tl.load(padding + row, position < length, 1) == 0, out, 0.0)
            if OMEGA:
                out += direct * shown[j]
            place = row.to(tl.int64) * y_stride_l + d
            if ADD:
                out += tl.load(other + place, position < length, 0.0).to(decay.dtype)
            out = out.to(y.dtype.element_ty)
            tl.store(y + place, out, position < length)


@triton.jit(do_not_specialize=["dim", "batch", "length", "block", "reverse"])
def gradients(
    x, padding, grad_y, log_decay, decay, u_start, v_start, grad_u, grad_v, grad_omega,
    batch, length, dim, ndim, block, delay, reverse,
    stride_b, stride_l, y_stride_b, y_stride_l,
    PADDED: tl.constexpr, DELAYED: tl.constexpr, STARTS: tl.constexpr,
    CHANNELS: tl.constexpr, N: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """``sum_t grad_t u_t``, the same of ``v``, and ``sum_t grad_t x_t``, of each block. The last
    is of all positions, padding included."""
    d, sequence = _program(dim, CHANNELS)
    s, row, direction = tl.program_id(1), sequence % batch, sequence // batch
    row, sequence = row.to(tl.int64), sequence.to(tl.int64)
    place = direction * dim * ndim
    q_delay = tl.exp(delay * _weights(log_decay + place, d, dim, ndim, N))
    decay = _weights(decay + place, d, dim, ndim, N)
    x += row * stride_b
    grad_y += row * y_stride_b
    padding += row * length
    reverse = reverse ^ direction
    u, v = tl.zeros_like(decay), tl.zeros_like(decay)
    if STARTS:
        before = (sequence * (tl.num_programs(1) + 1) + s) * dim * ndim
        u = _weights(u_start + before, d, dim, ndim, N)
        v = _weights(v_start + before, d, dim, ndim, N)
    sum_u, sum_v = tl.zeros_like(decay), tl.zeros_like(decay)
    sum_x = tl.zeros((CHANNELS,), decay.dtype)
    for start in range(s * block, tl.minimum((s + 1) * block, length), ROWS):
        new = _rows(x, padding, start, d, length, dim, stride_l, reverse, decay.dtype, PADDED, ROWS)
        grad = _rows(
            grad_y, padding, start, d, length, dim, y_stride_l, reverse, decay.dtype, False, ROWS
        )
        old, shown = new, new
        if DELAYED:
            old = _rows(
                x, padding, start - delay, d, length, dim, stride_l, reverse, decay.dtype, PADDED,
                ROWS,
            )  # fmt: skip
        if PADDED:
            shown = _rows(
                x, padding, start, d, length, dim, stride_l, reverse, decay.dtype, False, ROWS
            )
        for j in tl.static_range(ROWS):
            u, v = _next_states(u, v, new[j], old[j], decay, q_delay, delay, DELAYED)
            sum_u += grad[j][None, :] * u
            sum_v += grad[j][None, :] * v
            sum_x += grad[j] * shown[j]
    place = (sequence * tl.num_programs(1) + s) * dim
    _store_weights(grad_u + place * ndim, sum_u, d, dim, ndim, N)
    _store_weights(grad_v + place * ndim, sum_v, d, dim, ndim, N)
    tl.store(grad_omega + place + d, sum_x, d < dim)
