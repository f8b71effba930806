"""Triton kernels of the EMA: the recurrence of ``naive.ema_recurrence``, with states in registers.

A program has ``D`` channels of one sequence, a thread each, with their ``N`` states: a power of two
of at least ``ndim``. So that no thread needs another's states, coefficients and states are
``(N, D)`` in memory, and ``dim`` is not specialised: if the compiler knew it to be a multiple of
16, a thread would load several channels at once, and the states of one would be in several threads.
A program walks over one segment of the positions, ``ROWS`` of which are read at once, so that it
waits for memory once for all of them. Positions count in the direction of the scan: the backward
EMA is the forward one with ``REVERSE``. A truncated kernel of ``T`` taps is the whole EMA of
``x_t - q^T x_{t-T}``: with ``DELAYED``, inputs are also read ``T`` (``delay``) positions before.

``u_t = sum_tau q^tau x_{t-tau}`` and ``v_t = sum_tau tau q^tau x_{t-tau}``, its derivative by
``log q``, are states without weights; with ``0 <= tau < T`` where that is not the whole EMA. What
is multiplied by ``q`` is ``u + (q - 1) u``: long memories have a ``q`` that float32 rounds to 1.
"""

import triton
import triton.language as tl


@triton.jit
def _row(x, i, d, length, dim, stride, REVERSE: tl.constexpr, dtype: tl.constexpr):
    """``x`` at the position ``i`` of the scan, ``(D,)``; zero beyond its ends."""
    position = tl.where(d < dim, i, -1)
    row = length - 1 - position if REVERSE else position
    inside = (position >= 0) & (position < length)
    return tl.load(x + row.to(tl.int64) * stride + d, inside, 0.0).to(dtype)


@triton.jit
def _rows(
    x, i, d, length, dim, stride, REVERSE: tl.constexpr, dtype: tl.constexpr, ROWS: tl.constexpr
):
    """``x`` at the positions from ``i`` on: ``ROWS`` of ``(D,)``."""
    rows = ()
    for j in tl.static_range(ROWS):
        rows += (_row(x, i + j, d, length, dim, stride, REVERSE, dtype),)  # type: ignore[assignment]
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


@triton.jit(do_not_specialize=["dim"])
def segment_states(
    x, log_decay, decay, u_out, v_out, length, dim, ndim, segment, delay, stride_b, stride_l,
    REVERSE: tl.constexpr, DELAYED: tl.constexpr,
    D: tl.constexpr, N: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """``u`` and ``v (B, S, N, D)`` at the end of each segment, of its own inputs alone."""
    d = tl.program_id(0) * D + tl.arange(0, D)
    s, batch = tl.program_id(1), tl.program_id(2).to(tl.int64)
    q_delay = tl.exp(delay * _weights(log_decay, d, dim, ndim, N))
    decay = _weights(decay, d, dim, ndim, N)
    x += batch * stride_b
    u, v = tl.zeros_like(decay), tl.zeros_like(decay)
    stop = tl.minimum((s + 1) * segment, length)
    whole = stop - (stop - s * segment) % ROWS
    for start in range(s * segment, whole, ROWS):
        new = _rows(x, start, d, length, dim, stride_l, REVERSE, decay.dtype, ROWS)
        old = new
        if DELAYED:
            old = _rows(x, start - delay, d, length, dim, stride_l, REVERSE, decay.dtype, ROWS)
        for j in tl.static_range(ROWS):
            u, v = _next_states(u, v, new[j], old[j], decay, q_delay, delay, DELAYED)
    # Positions past the end would decay the state; scan and gradients do not need it then.
    for i in range(whole, stop):
        last = _row(x, i, d, length, dim, stride_l, REVERSE, decay.dtype)
        first = last
        if DELAYED:
            first = _row(x, i - delay, d, length, dim, stride_l, REVERSE, decay.dtype)
        u, v = _next_states(u, v, last, first, decay, q_delay, delay, DELAYED)
    place = (batch * tl.num_programs(1) + s) * dim * ndim
    _store_weights(u_out + place, u, d, dim, ndim, N)
    _store_weights(v_out + place, v, d, dim, ndim, N)


@triton.jit(do_not_specialize=["dim"])
def join_segments(
    u_end, v_end, log_decay, u_start, v_start, segments, segment, length, dim, ndim,
    D: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """The recurrence between segments: ``u`` and ``v (B, S + 1, N, D)`` before each, and at the
    end."""
    d = tl.program_id(0) * D + tl.arange(0, D)
    batch = tl.program_id(1).to(tl.int64)
    log_q = _weights(log_decay, d, dim, ndim, N)
    u, v = tl.zeros_like(log_q), tl.zeros_like(log_q)
    before = batch * (segments + 1) * dim * ndim
    _store_weights(u_start + before, u, d, dim, ndim, N)
    _store_weights(v_start + before, v, d, dim, ndim, N)
    for s in range(segments):
        place = (batch * segments + s) * dim * ndim
        steps = tl.minimum(segment, length - s * segment)
        decay = tl.exp(steps * log_q)
        v = decay * (v + steps * u) + _weights(v_end + place, d, dim, ndim, N)
        u = decay * u + _weights(u_end + place, d, dim, ndim, N)
        before += dim * ndim
        _store_weights(u_start + before, u, d, dim, ndim, N)
        _store_weights(v_start + before, v, d, dim, ndim, N)


@triton.jit(do_not_specialize=["dim"])
def scan(
    x, y, log_decay, decay, weight, omega, starts, length, dim, ndim, segment, delay,
    stride_b, stride_l, y_stride_b, y_stride_l,
    REVERSE: tl.constexpr, DELAYED: tl.constexpr, OMEGA: tl.constexpr, STARTS: tl.constexpr,
    D: tl.constexpr, N: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """The output, ``sum_n h (+ omega x)``, of states ``h = weight u``, which begin a segment as
    ``starts``, or as zero."""
    d = tl.program_id(0) * D + tl.arange(0, D)
    s, batch = tl.program_id(1), tl.program_id(2).to(tl.int64)
    q_delay = tl.exp(delay * _weights(log_decay, d, dim, ndim, N))
    decay, weight = _weights(decay, d, dim, ndim, N), _weights(weight, d, dim, ndim, N)
    x += batch * stride_b
    y += batch * y_stride_b
    old_weight = q_delay * weight
    h = tl.zeros_like(decay)
    if OMEGA:
        direct = tl.load(omega + d, d < dim, 0.0)
    if STARTS:
        h = _weights(starts + (batch * tl.num_programs(1) + s) * dim * ndim, d, dim, ndim, N)
    for start in range(s * segment, tl.minimum((s + 1) * segment, length), ROWS):
        new = _rows(x, start, d, length, dim, stride_l, REVERSE, decay.dtype, ROWS)
        old = new
        if DELAYED:
            old = _rows(x, start - delay, d, length, dim, stride_l, REVERSE, decay.dtype, ROWS)
        for j in tl.static_range(ROWS):
            h += decay * h + weight * new[j][None, :]
            if DELAYED:
                h -= old_weight * old[j][None, :]
            out = tl.sum(h, 0)
            if OMEGA:
                out += direct * new[j]
            position = tl.where(d < dim, start + j, length)
            row = length - 1 - position if REVERSE else position
            out = out.to(y.dtype.element_ty)
            tl.store(y + row.to(tl.int64) * y_stride_l + d, out, position < length)


@triton.jit(do_not_specialize=["dim"])
def gradients(
    x, grad_y, log_decay, decay, u_start, v_start, grad_u, grad_v, grad_omega,
    length, dim, ndim, segment, delay, stride_b, stride_l, y_stride_b, y_stride_l,
    REVERSE: tl.constexpr, DELAYED: tl.constexpr, STARTS: tl.constexpr,
    D: tl.constexpr, N: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """``sum_t grad_t u_t``, the same of ``v``, and ``sum_t grad_t x_t``, of each segment."""
    d = tl.program_id(0) * D + tl.arange(0, D)
    s, batch = tl.program_id(1), tl.program_id(2).to(tl.int64)
    q_delay = tl.exp(delay * _weights(log_decay, d, dim, ndim, N))
    decay = _weights(decay, d, dim, ndim, N)
    x += batch * stride_b
    grad_y += batch * y_stride_b
    u, v = tl.zeros_like(decay), tl.zeros_like(decay)
    if STARTS:
        before = (batch * (tl.num_programs(1) + 1) + s) * dim * ndim
        u = _weights(u_start + before, d, dim, ndim, N)
        v = _weights(v_start + before, d, dim, ndim, N)
    sum_u, sum_v = tl.zeros_like(decay), tl.zeros_like(decay)
    sum_x = tl.zeros((D,), decay.dtype)
    for start in range(s * segment, tl.minimum((s + 1) * segment, length), ROWS):
        new = _rows(x, start, d, length, dim, stride_l, REVERSE, decay.dtype, ROWS)
        grad = _rows(grad_y, start, d, length, dim, y_stride_l, REVERSE, decay.dtype, ROWS)
        old = new
        if DELAYED:
            old = _rows(x, start - delay, d, length, dim, stride_l, REVERSE, decay.dtype, ROWS)
        for j in tl.static_range(ROWS):
            u, v = _next_states(u, v, new[j], old[j], decay, q_delay, delay, DELAYED)
            sum_u += grad[j][None, :] * u
            sum_v += grad[j][None, :] * v
            sum_x += grad[j] * new[j]
    place = (batch * tl.num_programs(1) + s) * dim
    _store_weights(grad_u + place * ndim, sum_u, d, dim, ndim, N)
    _store_weights(grad_v + place * ndim, sum_v, d, dim, ndim, N)
    tl.store(grad_omega + place + d, sum_x, d < dim)
