"""Triton kernels of ``naive.ema_recurrence``, with the hidden states in registers.

A program has ``CHANNELS`` channels of one sequence, a thread each, with their ``N`` hidden states:
a power of two of at least ``ndim``. It walks over one block of positions and reads ``ROWS`` of them
at once, to wait for memory once. So that threads do not exchange hidden states, coefficients and
hidden states are ``(N, D)`` in memory, and ``dim`` is not specialised: if the compiler knew it to
be a multiple of 16, a thread would load several channels. Sizes that change from batch to batch are
not specialised either, because each would be compiled again.

Positions count in the direction of the scan: the backward EMA is the forward one with ``reverse``.
A truncated kernel of ``T`` taps is the full EMA of ``x_t - q^T x_{t-T}``: with ``DELAYED``, inputs
are also read ``T`` (``delay``) positions before. Padding is read as zeros.

``u_t = sum_tau q^tau x_{t-tau}`` and its derivative by ``log q``, ``v_t = sum_tau tau q^tau
x_{t-tau}``, are hidden states without weights (with ``0 <= tau < T`` if truncated). They decay as
``u + (q - 1) u``, because float32 rounds the ``q`` of long memories to 1.

The first axis of a grid counts tiles of channels, then sequences, then directions: the forward EMA,
then the backward one. The second axis counts blocks.
"""

import triton
import triton.language as tl

from ..kernel_memory import read, write

# Of the series for log q: with s <= 1/3, the rest is below 2^-53 of the sum.
TERMS = tl.constexpr(17)


@triton.jit
def _program(dim, batch, CHANNELS: tl.constexpr):
    """Channels ``(CHANNELS,)``, sequence (of all directions), row and direction of a program."""
    tiles = tl.cdiv(dim, CHANNELS)
    d = tl.program_id(0) % tiles * CHANNELS + tl.arange(0, CHANNELS)
    sequence = tl.program_id(0) // tiles
    return d, sequence.to(tl.int64), (sequence % batch).to(tl.int64), sequence // batch


@triton.jit
def _rows(source, i, dtype: tl.constexpr, PADDED: tl.constexpr, ROWS: tl.constexpr):
    """``ROWS`` positions of the scan from ``i`` on, ``(CHANNELS,)`` each; zero outside of the
    sequence and at padding. ``source`` is ``x, padding, d, length, dim, stride, reverse``."""
    x, padding, d, length, dim, stride, reverse = source
    rows = ()
    for j in tl.static_range(ROWS):
        position = tl.where(d < dim, i + j, -1)
        inside = (position >= 0) & (position < length)
        row = position + reverse * (length - 1 - 2 * position)
        if PADDED:
            inside = inside & (tl.load(padding + row, inside, 1) == 0)
        values = tl.load(x + row.to(tl.int64) * stride + d, inside, 0.0).to(dtype)
        rows += (values,)  # type: ignore[assignment]
    return rows


@triton.jit
def _inputs(
    source, i, delay, dtype: tl.constexpr,
    PADDED: tl.constexpr, DELAYED: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """``_rows`` from ``i`` on, and those ``delay`` positions before."""
    new = _rows(source, i, dtype, PADDED, ROWS)
    old = new
    if DELAYED:
        old = _rows(source, i - delay, dtype, PADDED, ROWS)
    return new, old


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
def _parameter_place(dim, ndim, CHANNELS: tl.constexpr):
    """Channels, dimension and direction of a program, and its place in parameters ``(D, N)``."""
    d = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    n, direction = tl.program_id(1), tl.program_id(2)
    return d, n, direction, (direction * dim + d) * ndim + n


@triton.jit
def _p_and_a(delta, alpha, place, inside, dtype: tl.constexpr):
    """``p``, ``a``, ``1 - p`` and ``1 - a``."""
    delta, alpha = read(delta, place, inside, dtype), read(alpha, place, inside, dtype)
    return tl.sigmoid(delta), tl.sigmoid(alpha), tl.sigmoid(-delta), tl.sigmoid(-alpha)


@triton.jit
def _log_decay(p, a, not_p, not_a, TINY: tl.constexpr):
    """``log q`` of ``q = 1 - p a``. Triton has no ``log1p``: near ``q = 1`` it is the series of
    ``log(1 - x) = -2 artanh(x / (2 - x))``."""
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
    """``log q``, ``q - 1`` and ``p beta gamma / sqrt(ndim)``, ``(N, D)`` for each direction. The
    second axis of the grid counts dimensions, the third directions."""
    d, n, direction, place = _parameter_place(dim, ndim, CHANNELS)
    inside = d < dim
    dtype = weight.dtype.element_ty
    p, a, not_p, not_a = _p_and_a(delta, alpha, place, inside, dtype)
    beta, gamma = read(beta, place, inside, dtype), read(gamma, place, inside, dtype)
    root = tl.sqrt(tl.zeros((CHANNELS,), dtype) + ndim)
    place = (direction * ndim + n) * dim + d
    write(log_decay, place, _log_decay(p, a, not_p, not_a, TINY), inside)
    write(decay, place, -p * a, inside)
    write(weight, place, p * beta * gamma / root, inside)


@triton.jit
def _lines(x, i, d, lines, dim, stride, ROWS: tl.constexpr):
    """``ROWS`` lines ``(CHANNELS,)`` from the ``i``-th on, to which ``x`` points; zero beyond
    ``lines``."""
    found = ()
    for j in tl.static_range(ROWS):
        inside = tl.where(i + j < lines, d, dim) < dim
        found += (tl.load(x + j * stride, inside, 0.0),)  # type: ignore[assignment]
    return found


@triton.jit
def _sum_lines(x, d, lines, dim, stride, CHANNELS: tl.constexpr, ROWS: tl.constexpr):
    """The sum of ``lines`` lines, ``ROWS`` of which are read at once."""
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
    """Gradients of the parameters, from the sums of ``gradients`` over blocks: ``rows`` for each
    direction. The grid is that of ``coefficients``."""
    d, n, direction, place = _parameter_place(dim, ndim, CHANNELS)
    inside = d < dim
    dtype = sum_u.dtype.element_ty
    first, stride = direction.to(tl.int64) * rows * ndim * dim + n * dim, ndim * dim
    # Gradients of the weight, and of log q divided by the weight.
    by_weight = _sum_lines(sum_u + first, d, rows, dim, stride, CHANNELS, ROWS)
    by_log = _sum_lines(sum_v + first, d, rows, dim, stride, CHANNELS, ROWS)
    root = tl.sqrt(tl.zeros((CHANNELS,), dtype) + ndim)
    beta = read(beta, place, inside, dtype) / root
    gamma = read(gamma, place, inside, dtype)
    p, a, not_p, not_a = _p_and_a(delta, alpha, place, inside, dtype)
    weight = beta * gamma  # times p
    # dL/d(p a) = -(dL/d log q) / q;  dL/dp = dL/d(p a) a + dL/d(weight) beta gamma / root
    by_damping = -weight * p * by_log / tl.maximum(not_p + p * not_a, TINY)
    by_p = by_damping * a + by_weight * weight
    write(grad_delta, place, by_p * p * not_p, inside)
    write(grad_alpha, place, by_damping * p * a * not_a, inside)
    write(grad_beta, place, by_weight * p * gamma / root, inside)
    write(grad_gamma, place, by_weight * p * beta, inside)
    if OMEGA:  # noqa: SIM102 - a constant, the next is not
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
    """``u`` and ``v (B, blocks, N, D)`` at the end of each block, from its own inputs."""
    d, sequence, row, direction = _program(dim, batch, CHANNELS)
    s, place = tl.program_id(1), direction * dim * ndim
    q_delay = tl.exp(delay * _weights(log_decay + place, d, dim, ndim, N))
    decay = _weights(decay + place, d, dim, ndim, N)
    x += row * stride_b
    source = x, padding + row * length, d, length, dim, stride_l, reverse ^ direction
    u, v = tl.zeros_like(decay), tl.zeros_like(decay)
    stop = tl.minimum((s + 1) * block, length)
    full = stop - (stop - s * block) % ROWS
    for start in range(s * block, full, ROWS):
        new, old = _inputs(source, start, delay, decay.dtype, PADDED, DELAYED, ROWS)
        for j in tl.static_range(ROWS):
            u, v = _next_states(u, v, new[j], old[j], decay, q_delay, delay, DELAYED)
    for i in range(full, stop):  # only the last block: positions past the end would decay u and v
        new, old = _inputs(source, i, delay, decay.dtype, PADDED, DELAYED, 1)
        u, v = _next_states(u, v, new[0], old[0], decay, q_delay, delay, DELAYED)
    place = (sequence * tl.num_programs(1) + s) * dim * ndim
    _store_weights(u_out + place, u, d, dim, ndim, N)
    _store_weights(v_out + place, v, d, dim, ndim, N)


@triton.jit(do_not_specialize=["dim", "batch", "blocks", "block", "length"])
def join_blocks(
    u_end, v_end, log_decay, u_start, v_start, batch, blocks, block, length, dim, ndim,
    CHANNELS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """The recurrence between blocks: ``u`` and ``v (B, blocks + 1, N, D)`` before each and at the
    end. The second axis of the grid counts dimensions; ``ROWS`` blocks are read at once."""
    d, sequence, row, direction = _program(dim, batch, CHANNELS)
    inside, stride = d < dim, ndim * dim
    place = tl.program_id(1) * dim + d
    log_q = tl.load(log_decay + direction * stride + place, inside, 0.0)
    end = place + sequence * blocks * stride
    start = place + sequence * (blocks + 1) * stride
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
    """The output of one direction, ``sum_n h (+ omega x) (+ other)``, from ``h = weight u``. A
    block starts from ``h = start_weight starts (B, blocks + 1, N, D)``, or zero. Padding is hidden
    as the average reads or, in the backward pass, as it writes, but not from ``omega x``. ``other``
    has the layout of ``y``."""
    d, batch, _, _ = _program(dim, tl.num_programs(0), CHANNELS)  # one direction
    s = tl.program_id(1)
    q_delay = tl.exp(delay * _weights(log_decay, d, dim, ndim, N))
    decay, weight = _weights(decay, d, dim, ndim, N), _weights(weight, d, dim, ndim, N)
    x += batch * stride_b
    y += batch * y_stride_b
    other += batch * y_stride_b
    padding += batch * length
    source = x, padding, d, length, dim, stride_l, reverse
    old_weight = q_delay * weight
    h = tl.zeros_like(decay)
    if OMEGA:
        direct = tl.load(omega + d, d < dim, 0.0).to(decay.dtype)
    if STARTS:
        starts += (batch * (tl.num_programs(1) + 1) + s) * dim * ndim
        h = _weights(starts, d, dim, ndim, N) * _weights(start_weight, d, dim, ndim, N)
    for start in range(s * block, tl.minimum((s + 1) * block, length), ROWS):
        new, old = _inputs(source, start, delay, decay.dtype, HIDE_INPUTS, DELAYED, ROWS)
        shown = new
        if HIDE_INPUTS and OMEGA:
            shown = _rows(source, start, decay.dtype, False, ROWS)
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
            write(y, place, out, position < length)


@triton.jit(do_not_specialize=["dim", "batch", "length", "block", "reverse"])
def gradients(
    x, padding, grad_y, log_decay, decay, u_start, v_start, grad_u, grad_v, grad_omega,
    batch, length, dim, ndim, block, delay, reverse,
    stride_b, stride_l, y_stride_b, y_stride_l,
    PADDED: tl.constexpr, DELAYED: tl.constexpr, STARTS: tl.constexpr,
    CHANNELS: tl.constexpr, N: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """``sum_t grad_t u_t``, ``sum_t grad_t v_t``, and ``sum_t grad_t x_t`` with padding, of each
    block."""
    d, sequence, row, direction = _program(dim, batch, CHANNELS)
    s, place = tl.program_id(1), direction * dim * ndim
    q_delay = tl.exp(delay * _weights(log_decay + place, d, dim, ndim, N))
    decay = _weights(decay + place, d, dim, ndim, N)
    x += row * stride_b
    grad_y += row * y_stride_b
    reverse = reverse ^ direction
    source = x, padding + row * length, d, length, dim, stride_l, reverse
    grads = grad_y, padding, d, length, dim, y_stride_l, reverse
    u, v = tl.zeros_like(decay), tl.zeros_like(decay)
    if STARTS:
        before = (sequence * (tl.num_programs(1) + 1) + s) * dim * ndim
        u = _weights(u_start + before, d, dim, ndim, N)
        v = _weights(v_start + before, d, dim, ndim, N)
    sum_u, sum_v = tl.zeros_like(decay), tl.zeros_like(decay)
    sum_x = tl.zeros((CHANNELS,), decay.dtype)
    for start in range(s * block, tl.minimum((s + 1) * block, length), ROWS):
        new, old = _inputs(source, start, delay, decay.dtype, PADDED, DELAYED, ROWS)
        grad = _rows(grads, start, decay.dtype, False, ROWS)
        shown = new
        if PADDED:
            shown = _rows(source, start, decay.dtype, False, ROWS)
        for j in tl.static_range(ROWS):
            u, v = _next_states(u, v, new[j], old[j], decay, q_delay, delay, DELAYED)
            sum_u += grad[j][None, :] * u
            sum_v += grad[j][None, :] * v
            sum_x += grad[j] * shown[j]
    place = (sequence * tl.num_programs(1) + s) * dim
    _store_weights(grad_u + place * ndim, sum_u, d, dim, ndim, N)
    _store_weights(grad_v + place * ndim, sum_v, d, dim, ndim, N)
    tl.store(grad_omega + place + d, sum_x, d < dim)
