"""Triton kernels of the EMA: the four steps of ``blocks``, with matrices and state in registers.

A program has ``D`` of the ``dim`` channels of one sequence, and walks over one segment of its
positions, a block of ``C`` at a time; ``N`` is a power of two of at least ``ndim`` EMA dimensions.
Positions count in the direction of the scan, so that the backward EMA is the forward one with
``REVERSE``. A truncated kernel of ``T`` taps is the whole EMA of ``x_t - q^T x_{t-T}``: with
``DELAYED``, inputs are also read ``T`` (``delay``) positions before.

``u_t = sum_tau q^tau x_{t-tau}`` and ``v_t = sum_tau tau q^tau x_{t-tau}``, its derivative by
``log q``, are states without weights; with ``0 <= tau < T`` where that is not the whole EMA.
"""

import triton
import triton.language as tl


@triton.jit
def _rows(x, i, d, length, dim, stride, REVERSE: tl.constexpr, dtype: tl.constexpr):
    """``x`` at the positions ``i`` of the scan, ``(C, D)``; zero beyond its ends."""
    row = length - 1 - i if REVERSE else i
    inside = ((i >= 0) & (i < length))[:, None] & (d < dim)[None, :]
    return tl.load(x + row[:, None] * stride + d[None, :], inside, 0.0).to(dtype)


@triton.jit
def _weights(pointer, d, dim, ndim, N: tl.constexpr):
    """A ``(D, N)`` tensor's ``(D, N)`` of these channels."""
    n = tl.arange(0, N)
    inside = (d < dim)[:, None] & (n < ndim)[None, :]
    return tl.load(pointer + d[:, None] * ndim + n[None, :], inside, 0.0)


@triton.jit
def _store_weights(pointer, values, d, dim, ndim, N: tl.constexpr):
    n = tl.arange(0, N)
    inside = (d < dim)[:, None] & (n < ndim)[None, :]
    tl.store(pointer + d[:, None] * ndim + n[None, :], values, inside)


@triton.jit
def _matrix(taps, d, dim, C: tl.constexpr):
    """The matrix within a block, of taps ``(D, C)``: ``(C outputs, C inputs, D)``."""
    distance = tl.arange(0, C)[:, None] - tl.arange(0, C)[None, :]
    inside = (distance >= 0)[:, :, None] & (d < dim)[None, None, :]
    return tl.load(taps + d[None, None, :] * C + distance[:, :, None], inside, 0.0)


@triton.jit
def _to_state(log_q, rest, C: tl.constexpr):
    """Exponents ``(C, 1, 1)`` and powers ``q^(rest - 1 - j) (C, D, N)`` of inputs ``j``."""
    exponent = tl.maximum(rest - 1 - tl.arange(0, C), 0).to(log_q.dtype)[:, None, None]
    return exponent, tl.exp(exponent * log_q[None, :, :])


@triton.jit
def _next_states(u, v, x, delayed, log_q, q_delay, delay, exponent, powers, rest):
    """``u`` and ``v`` after a block: what is left of them, and what its inputs add."""
    decay = tl.exp(rest * log_q)
    v = decay * (v + rest * u) + tl.sum(exponent * powers * x[:, :, None], 0)
    u = decay * u + tl.sum(powers * x[:, :, None], 0)
    old = tl.sum(powers * delayed[:, :, None], 0)
    v -= q_delay * (tl.sum(exponent * powers * delayed[:, :, None], 0) + delay * old)
    u -= q_delay * old
    return u, v


@triton.jit
def segment_states(
    x, log_decay, u_out, v_out, length, dim, ndim, segment, delay, stride_b, stride_l,
    REVERSE: tl.constexpr, DELAYED: tl.constexpr, C: tl.constexpr, D: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """``u`` and ``v (B, S, D, N)`` at the end of each segment, of its own inputs alone."""
    d = tl.program_id(0) * D + tl.arange(0, D)
    s, batch = tl.program_id(1), tl.program_id(2).to(tl.int64)
    log_q = _weights(log_decay, d, dim, ndim, N)
    q_delay = tl.exp(delay * log_q)
    x += batch * stride_b
    u, v = tl.zeros_like(log_q), tl.zeros_like(log_q)
    exponent, powers = _to_state(log_q, C, C)
    stop = tl.minimum((s + 1) * segment, length)
    for start in range(s * segment, stop, C):
        rest = tl.minimum(C, stop - start)
        if rest < C:
            exponent, powers = _to_state(log_q, rest, C)
        i = start + tl.arange(0, C)
        new = _rows(x, i, d, length, dim, stride_l, REVERSE, log_q.dtype)
        old = tl.zeros_like(new)
        if DELAYED:
            old = _rows(x, i - delay, d, length, dim, stride_l, REVERSE, log_q.dtype)
        u, v = _next_states(u, v, new, old, log_q, q_delay, delay, exponent, powers, rest)
    place = (batch * tl.num_programs(1) + s) * dim * ndim
    _store_weights(u_out + place, u, d, dim, ndim, N)
    _store_weights(v_out + place, v, d, dim, ndim, N)


@triton.jit
def join_segments(
    u_end, v_end, log_decay, u_start, v_start, segments, segment, length, dim, ndim,
    C: tl.constexpr, D: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """The recurrence between segments: ``u`` and ``v (B, S + 1, D, N)`` before each, and at the
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


@triton.jit
def scan(
    x, y, log_decay, weight, taps, delayed_taps, starts, length, dim, ndim, segment, delay,
    stride_b, stride_l, y_stride_b, y_stride_l,
    REVERSE: tl.constexpr, DELAYED: tl.constexpr, C: tl.constexpr, D: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """The output, ``sum_n h``, of states ``h = weight u``, which begin a segment as ``starts``."""
    d = tl.program_id(0) * D + tl.arange(0, D)
    s, batch = tl.program_id(1), tl.program_id(2).to(tl.int64)
    log_q = _weights(log_decay, d, dim, ndim, N)
    x += batch * stride_b
    y += batch * y_stride_b
    within = _matrix(taps, d, dim, C)
    if DELAYED:
        within_delayed = _matrix(delayed_taps, d, dim, C)
    steps = (tl.arange(0, C) + 1).to(log_q.dtype)[:, None, None]
    from_state = tl.exp(steps * log_q[None, :, :])
    _, powers = _to_state(log_q, C, C)
    powers *= _weights(weight, d, dim, ndim, N)[None, :, :]
    decay, q_delay = tl.exp(C * log_q), tl.exp(delay * log_q)
    h = _weights(starts + (batch * tl.num_programs(1) + s) * dim * ndim, d, dim, ndim, N)
    for start in range(s * segment, tl.minimum((s + 1) * segment, length), C):
        i = start + tl.arange(0, C)
        new = _rows(x, i, d, length, dim, stride_l, REVERSE, log_q.dtype)
        out = tl.sum(within * new[None, :, :], 1) + tl.sum(from_state * h[None, :, :], 2)
        h = decay * h + tl.sum(powers * new[:, :, None], 0)
        if DELAYED:
            old = _rows(x, i - delay, d, length, dim, stride_l, REVERSE, log_q.dtype)
            out -= tl.sum(within_delayed * old[None, :, :], 1)
            h -= q_delay * tl.sum(powers * old[:, :, None], 0)
        row = length - 1 - i if REVERSE else i
        inside = (i < length)[:, None] & (d < dim)[None, :]
        tl.store(y + row[:, None] * y_stride_l + d[None, :], out.to(y.dtype.element_ty), inside)


@triton.jit
def _store_diagonals(pointer, products, d, dim, C: tl.constexpr):
    """The sums of ``products (C outputs, C inputs, D)`` by their distance: ``(D, C)``."""
    distance = tl.arange(0, C)[:, None] - tl.arange(0, C)[None, :]
    for tau in range(C):
        found = tl.where((distance == tau)[:, :, None], products, 0.0)
        tl.store(pointer + d * C + tau, tl.sum(tl.sum(found, 1), 0), d < dim)


@triton.jit
def gradients(
    x, grad_y, log_decay, u_start, v_start, grad_taps, grad_delayed, grad_u, grad_v,
    length, dim, ndim, segment, delay, stride_b, stride_l, y_stride_b, y_stride_l,
    REVERSE: tl.constexpr, DELAYED: tl.constexpr, C: tl.constexpr, D: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    """Gradients of taps within blocks, and ``sum_t grad_t (u, v)`` with the states ``u, v`` before
    a block, of each segment."""
    d = tl.program_id(0) * D + tl.arange(0, D)
    s, batch = tl.program_id(1), tl.program_id(2).to(tl.int64)
    log_q = _weights(log_decay, d, dim, ndim, N)
    x += batch * stride_b
    grad_y += batch * y_stride_b
    products = tl.zeros((C, C, D), log_q.dtype)
    products_delayed = tl.zeros((C, C, D), log_q.dtype)
    steps = (tl.arange(0, C) + 1).to(log_q.dtype)[:, None, None]
    from_state = tl.exp(steps * log_q[None, :, :])
    exponent, powers = _to_state(log_q, C, C)
    q_delay = tl.exp(delay * log_q)
    before = (batch * (tl.num_programs(1) + 1) + s) * dim * ndim
    u = _weights(u_start + before, d, dim, ndim, N)
    v = _weights(v_start + before, d, dim, ndim, N)
    sum_u, sum_v = tl.zeros_like(u), tl.zeros_like(v)
    for start in range(s * segment, tl.minimum((s + 1) * segment, length), C):
        i = start + tl.arange(0, C)
        new = _rows(x, i, d, length, dim, stride_l, REVERSE, log_q.dtype)
        grad = _rows(grad_y, i, d, length, dim, y_stride_l, REVERSE, log_q.dtype)
        old = tl.zeros_like(new)
        products += grad[:, None, :] * new[None, :, :]
        if DELAYED:
            old = _rows(x, i - delay, d, length, dim, stride_l, REVERSE, log_q.dtype)
            products_delayed -= grad[:, None, :] * old[None, :, :]
        decayed = tl.sum(from_state * grad[:, :, None], 0)
        sum_u += u * decayed
        sum_v += v * decayed + u * tl.sum(steps * from_state * grad[:, :, None], 0)
        u, v = _next_states(u, v, new, old, log_q, q_delay, delay, exponent, powers, C)
    place = batch * tl.num_programs(1) + s
    _store_diagonals(grad_taps + place * dim * C, products, d, dim, C)
    if DELAYED:
        _store_diagonals(grad_delayed + place * dim * C, products_delayed, d, dim, C)
    _store_weights(grad_u + place * dim * ndim, sum_u, d, dim, ndim, N)
    _store_weights(grad_v + place * dim * ndim, sum_v, d, dim, ndim, N)
