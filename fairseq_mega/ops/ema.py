"""Multi-dimensional damped EMA (Mega, section "Multi-dimensional Damped EMA").

    h_t[d,n] = p[d,n] beta[d,n] x_t[d] + q[d,n] h_{t-1}[d,n]        q = 1 - p a
    y_t[d]   = sum_n gamma[d,n] h_t[d,n] / sqrt(N)

``D`` is the number of channels, ``N`` the EMA dimensions of a channel. Two forms give the same
``y``: a convolution with the kernel ``k[d,t] = sum_n p beta gamma / sqrt(N) q^t``, through FFTs or
as a matrix product, and a recurrence over blocks, which can take and return the state ``h``.

Sequences are ``(B, L, D)``. Inside, channels come first, ``(D, B, L)``: the layout of both the FFT
along ``L`` and the products that are batched over channels.
"""

import math
from functools import cache
from typing import NamedTuple, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .toeplitz import toeplitz

# Which form is fastest, forward and backward, as measured on two CPU cores, D 512, N 16: a product
# with one matrix up to LONGEST_DIRECT positions, if the batch shares it; beyond that blocks of
# positions, both ways from SHORTEST_BOTH_WAYS on, and for a causal kernel that is cut, if that is
# for many positions of a batch and after SHORTEST_CUT taps or more; else FFTs. Blocks take a loop
# over the states between them, for which other devices would have to start as many small kernels:
# they take FFTs.
LONGEST_DIRECT = 64
SHORTEST_BOTH_WAYS = 1024
SHORTEST_CUT, MANY_FOR_CUT = 1024, 16384
# What lies before the cut is taken off the states again. In float32 that is as accurate as FFTs are
# (1e-5 of a slow average) as long as it is not so many times more than what stays.
MOST_CUT = 16
# Larger blocks take more products and keep fewer states: faster where the batch has many positions.
BLOCK, LARGE_BLOCK, MANY_FOR_LARGE = 32, 64, 8192


class EMACoefficients(NamedTuple):
    """What the recurrence needs of the parameters, each ``(D, N)``."""

    log_decay: Tensor  # log q
    input_weight: Tensor  # p beta
    output_weight: Tensor  # gamma / sqrt(N)

    def t(self) -> "EMACoefficients":
        """``(D, N)`` to ``(N, D)``, and back."""
        return EMACoefficients(*(tensor.t() for tensor in self))


def ema_coefficients(delta: Tensor, alpha: Tensor, beta: Tensor, gamma: Tensor) -> EMACoefficients:
    """Coefficients in at least float32 from ``delta, alpha, beta: (D, N, 1)``, ``gamma: (D, N)``.

    ``log q`` is taken from ``1 - p a`` where ``p a`` is small and from the equal sum of positive
    terms ``(1 - p) + p (1 - a)`` where it is not, so that it is exact at both ends.
    """
    dtype = torch.promote_types(delta.dtype, torch.float32)
    delta, alpha, beta = (t.squeeze(-1).to(dtype) for t in (delta, alpha, beta))
    p, a = torch.sigmoid(delta), torch.sigmoid(alpha)
    damping = p * a
    near_one = torch.log1p(-damping.clamp(max=0.5))
    tiny = torch.finfo(dtype).tiny
    near_zero = torch.log((torch.sigmoid(-delta) + p * torch.sigmoid(-alpha)).clamp(min=tiny))
    log_decay = torch.where(damping < 0.5, near_one, near_zero)
    return EMACoefficients(log_decay, p * beta, gamma.to(dtype) / math.sqrt(gamma.size(-1)))


def ema_kernel(coefficients: EMACoefficients, length: int) -> Tensor:
    """The first ``length`` taps ``k[d,t] = sum_n weight[d,n] q[d,n]^t``: ``(D, length)``.

    With ``t = j m + i`` and ``m`` about ``sqrt(length)``, ``q^t = q^(j m) q^i``: a product of a
    ``(length/m, N)`` and an ``(N, m)`` matrix for each channel takes ``2 sqrt(length)``
    exponentials where the definition takes ``length``, and no ``(D, N, length)`` tensor.
    """
    log_decay, input_weight, output_weight = coefficients
    m = math.isqrt(max(length - 1, 0)) + 1
    rows = -(-length // m)
    step = torch.arange(max(m, rows), dtype=log_decay.dtype, device=log_decay.device)
    fine = torch.exp(log_decay.unsqueeze(2) * step[:m])  # (D, N, m)
    coarse = torch.exp(log_decay.unsqueeze(1) * (m * step[:rows]).unsqueeze(1))  # (D, rows, N)
    coarse = coarse * (input_weight * output_weight).unsqueeze(1)
    return torch.bmm(coarse, fine).flatten(1)[:, :length]


def runs_by_blocks(x: Tensor, taps: int, bidirectional: bool) -> bool:
    """Whether ``ema_by_blocks`` is the fastest form for ``x (B, L, D)`` and so many taps."""
    batch, length, _ = x.shape
    if x.device.type != "cpu" or _is_direct(batch, length):
        return False
    if taps < length:
        possible = not bidirectional and taps % block_size(x) == 0 and length <= MOST_CUT * taps
        return possible and taps >= SHORTEST_CUT and batch * length >= MANY_FOR_CUT
    return not bidirectional or length >= SHORTEST_BOTH_WAYS


def block_size(x: Tensor) -> int:
    """How many positions of ``x (B, L, D)`` make a block."""
    return BLOCK if x.size(0) * x.size(1) < MANY_FOR_LARGE else LARGE_BLOCK


def _is_direct(batch: int, length: int) -> bool:
    return length <= LONGEST_DIRECT and batch >= length // 4


def ema_convolution(x: Tensor, kernel: Tensor, backward_kernel: Optional[Tensor] = None) -> Tensor:
    """``y_t = sum_s kernel[s] x_{t-s} (+ sum_s backward_kernel[s] x_{t+s})``.

    Args:
        x: ``(B, L, D)``.
        kernel, backward_kernel: ``(D, T)`` with ``T <= L``; both sums include ``s = 0``.

    Returns:
        ``(B, L, D)``.
    """
    batch, length, _ = x.shape
    if _is_direct(batch, length):
        return _direct_convolution(x, kernel, backward_kernel)
    return _FFTConvolution.apply(x, kernel, backward_kernel)


def _direct_convolution(x: Tensor, kernel: Tensor, backward_kernel: Optional[Tensor]) -> Tensor:
    """The convolution as a product with the ``(D, L, L)`` Toeplitz matrix of the taps."""
    length, taps = x.size(1), kernel.size(-1)
    diagonals = F.pad(kernel.flip(-1), (length - taps, length - 1))  # taps L-1..0, then the future
    if backward_kernel is not None:
        diagonals = diagonals + F.pad(backward_kernel, (length - 1, length - taps))
    matrix = toeplitz(diagonals, length, length)  # (D, L, L)
    return _FromChannels.apply(torch.bmm(_ToChannels.apply(x), matrix.transpose(1, 2)))


class _FFTConvolution(torch.autograd.Function):
    """The convolution as a product of spectra, over a circle in which its tails miss ``0 .. L-1``.

    Both kernels make one circular kernel, with the tap for ``x_{t+s}`` at ``n - s``. The backward
    pass reuses the spectra, so that all of it takes three FFTs each way.
    """

    @staticmethod
    def forward(ctx, x: Tensor, kernel: Tensor, backward_kernel: Optional[Tensor]) -> Tensor:
        length, taps = x.size(1), kernel.size(-1)
        n = fast_length(length + taps - 1)
        if backward_kernel is not None:
            between = kernel.new_zeros(kernel.size(0), n - 2 * taps + 1)
            kernel = torch.cat([kernel, between, backward_kernel[:, 1:].flip(-1)], dim=-1)
            kernel[:, 0] += backward_kernel[:, 0]
        x_f = torch.fft.rfft(_channels_first(x), n=n)
        kernel_f = torch.fft.rfft(kernel, n=n).unsqueeze(1)
        y = _channels_last(torch.fft.irfft(x_f * kernel_f, n=n)[..., :length])
        ctx.save_for_backward(x_f.conj_physical_(), kernel_f.conj_physical_())
        ctx.n, ctx.length, ctx.taps, ctx.both = n, length, taps, backward_kernel is not None
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_y: Tensor):
        x_conj, kernel_conj = ctx.saved_tensors
        grad_f = torch.fft.rfft(_channels_first(grad_y), n=ctx.n)
        grad_x = torch.fft.irfft(grad_f * kernel_conj, n=ctx.n)[..., : ctx.length]
        grad_x = _channels_last(grad_x)
        grad = torch.fft.irfft(grad_f.mul_(x_conj).sum(1), n=ctx.n)
        grad_kernel, grad_backward = grad[:, : ctx.taps], None
        if ctx.both:
            later = grad[:, ctx.n - ctx.taps + 1 :].flip(-1)
            grad_backward = torch.cat([grad[:, :1], later], dim=-1)
        return grad_x, grad_kernel, grad_backward


@cache
def fast_length(n: int) -> int:
    """The smallest even ``2^a 3^b 5^c >= n``: lengths at which an FFT is fast."""
    best = 2 * 2 ** max(n - 1, 1).bit_length()
    five = 1
    while five < best:
        odd = five
        while odd < best:
            even = 2 * odd
            while even < n:
                even *= 2
            best = min(best, even)
            odd *= 3
        five *= 5
    return best


class EMABlock(NamedTuple):
    """An EMA inside of blocks of ``C`` positions, and from block to block.

    ``K`` is ``N``, or ``2 N`` if bidirectional: the states of the forward EMA, then the backward's.
    """

    inside: Tensor  # (D, C, C): the output at column i for an input at row j
    arriving: Tensor  # (D, C, K): what an input adds to the state after its block
    leaving: Tensor  # (D, K, C): the output for the state before the block
    decay: Tensor  # (D, 1, K): q^C
    end: Optional["EMAEnd"] = None  # of the kernel, where it is cut


class EMAEnd(NamedTuple):
    """A kernel that is cut after ``T = m C`` taps: the outputs of a block depend on the ``m - 1``
    blocks before it, and on some of the positions of the one before those."""

    blocks: int  # m
    inside: Tensor  # (D, C, C): as of EMABlock, for an input m blocks before
    decay: Tensor  # (D, 1, K): q^(T - C)


def ema_block(
    directions: Sequence[EMACoefficients],
    size: int,
    skip: Optional[Tensor] = None,
    taps: Optional[int] = None,
) -> EMABlock:
    """The parts of an EMA, forward or both ways, for blocks of ``size``.

    Args:
        skip: ``(D,)``, adds ``skip x``.
        taps: how many there are, a multiple of ``size``, of a forward EMA.
    """
    kernel, arriving, leaving, decay = _block_parts(directions[0], size)
    arriving = arriving.flip(1)
    if skip is not None:
        kernel = kernel + F.pad(skip.unsqueeze(1), (0, size - 1))
    diagonals = F.pad(kernel, (size - 1, 0))
    for backward in directions[1:]:  # the same with the positions of a block counted from its end
        kernel, starting, ending, other = _block_parts(backward, size)
        diagonals = diagonals + F.pad(kernel.flip(1), (0, size - 1))
        arriving = torch.cat([arriving, starting], dim=2)
        leaving = torch.cat([leaving, ending.flip(1)], dim=2)
        decay = torch.cat([decay, other], dim=2)
    inside = toeplitz(diagonals, size, size)
    end = _end(directions[0], size, taps) if taps else None
    return EMABlock(inside, arriving, leaving.transpose(1, 2), decay, end)


def _end(coefficients: EMACoefficients, size: int, taps: int) -> EMAEnd:
    log_decay, input_weight, output_weight = coefficients
    decay = torch.exp((taps - size) * log_decay)
    later, *_ = _block_parts(EMACoefficients(log_decay, input_weight, decay * output_weight), size)
    diagonals = F.pad(later[:, 1:], (0, size))  # of inputs at a later position in their block
    return EMAEnd(taps // size, toeplitz(diagonals, size, size), decay.unsqueeze(1))


def _block_parts(coefficients: EMACoefficients, size: int):
    """Taps ``(D, C)``, ``p beta q^i`` and ``gamma q^(i+1)`` ``(D, C, N)``, ``q^C (D, 1, N)``."""
    log_decay, input_weight, output_weight = (t.unsqueeze(1) for t in coefficients)
    steps = torch.arange(size + 1, dtype=log_decay.dtype, device=log_decay.device)
    decay = torch.exp(log_decay * steps.unsqueeze(1))  # (D, C+1, N)
    arriving = decay[:, :-1] * input_weight
    taps = torch.bmm(arriving, output_weight.transpose(1, 2)).squeeze(2)
    return taps, arriving, decay[:, 1:] * output_weight, decay[:, -1:]


def ema_by_blocks(x: Tensor, block: EMABlock, bidirectional: bool = False) -> Tensor:
    """The EMA of ``x (B, L, D)``, as ``ema_convolution`` with kernels of all ``L`` taps, or of as
    many as ``block`` was made for."""
    state = x.new_zeros(x.size(2), x.size(0), block.decay.size(2))
    return _run_blocks(x, block, state, bidirectional)[0]


def ema_recurrence(
    x: Tensor, coefficients: EMACoefficients, state: Tensor
) -> Tuple[Tensor, Tensor]:
    """Causal EMA that continues from ``state``, for any number of steps.

    Args:
        x: ``(B, L, D)``.
        state: ``h`` after the steps so far, ``(B, D, N)``; zero at the start.

    Returns:
        y ``(B, L, D)`` and the state after the last step ``(B, D, N)``.
    """
    length = x.size(1)
    block = ema_block([coefficients], min(block_size(x), length))
    y, last, states = _run_blocks(x, block, state.transpose(0, 1))
    rest = length % block.inside.size(1)
    if rest == 0:
        state = states[-1]
    else:  # the last block is not full
        decay = torch.exp(rest * coefficients.log_decay).unsqueeze(1)
        added = torch.bmm(last[..., :rest], block.arriving[:, -rest:])
        state = decay * states[-2] + added
    # A copy, as a view would keep the states of all blocks.
    return y, state.transpose(0, 1).clone(memory_format=torch.contiguous_format)


def ema_step_(
    x: Tensor, coefficients: EMACoefficients, decay: Tensor, state: Tensor, scratch: Tensor
) -> Tensor:
    """One step of the recurrence, without gradients.

    Channels come last here, as in ``x``, so that sums over ``N`` run over whole vectors of them.

    Args:
        x: ``(B, D)``.
        coefficients, decay: ``(N, D)`` each; ``decay`` is ``q``.
        state: ``h``, ``(B, N, D)``: before the step, and in its place after it.
        scratch: memory for as much, which is overwritten.

    Returns:
        y ``(B, D)``.
    """
    state.mul_(decay).addcmul_(coefficients.input_weight, x.unsqueeze(1))
    return torch.mul(state, coefficients.output_weight, out=scratch).sum(1)


def _run_blocks(x: Tensor, block: EMABlock, state: Tensor, bidirectional: bool = False):
    """The EMA of ``x (B, L, D)`` from ``state (D, B, K)``.

    Returns:
        y ``(B, L, D)``, the last block of x ``(D, B, C)``, and the states before the first block,
        between blocks and after the last ``(blocks + 1, D, B, K)``.
    """
    batch, length, channels = x.shape
    size = block.inside.size(1)
    if length % size:
        x = F.pad(x, (0, 0, 0, -length % size))
    blocks = x.size(1) // size
    x = _ToChannels.apply(x).view(channels, batch * blocks, size)
    added = torch.bmm(x, block.arriving).view(channels, batch, blocks, -1).permute(2, 0, 1, 3)
    if bidirectional:
        added = _reverse_second_half(added)
    states = _Scan.apply(added, block.decay, state)  # (blocks + 1, D, B, K)
    before = states[:-1]
    if bidirectional:
        before = _reverse_second_half(before)
    if block.end is not None:
        before = _without_old(before, block.end)
    before = before.permute(1, 2, 0, 3).reshape(channels, batch * blocks, -1)
    y = torch.baddbmm(torch.bmm(x, block.inside), before, block.leaving)
    if block.end is not None:
        y = _add_last_taps(y, x, block.end, blocks)
    y = _FromChannels.apply(y.view(channels, batch, blocks * size))[:, :length]
    return y, x.view(channels, batch, blocks, size)[:, :, -1], states


def _without_old(states: Tensor, end: EMAEnd) -> Tensor:
    """The states before each block ``(blocks, D, B, K)``, of the ``m - 1`` blocks before alone."""
    whole = end.blocks - 1
    recent = states[whole:] - end.decay * states[: states.size(0) - whole]
    return torch.cat([states[:whole], recent])


def _add_last_taps(y: Tensor, x: Tensor, end: EMAEnd, blocks: int) -> Tensor:
    """``y (D, B blocks, C)`` and what inputs of ``m`` blocks before add to it."""
    channels, _, size = x.shape
    old = x.view(channels, -1, blocks, size)[:, :, : -end.blocks]
    late = torch.bmm(old.reshape(channels, -1, size), end.inside).view(old.shape)
    y.view(channels, -1, blocks, size)[:, :, end.blocks :] += late
    return y


class _Scan(torch.autograd.Function):
    """``h_{b+1} = added_b + decay h_b``: the states ``(blocks + 1, ...)``, the first one included.

    Args:
        added: ``(blocks, D, B, K)``.
        decay: ``(D, 1, K)``.
        state: ``(D, B, K)``.
    """

    @staticmethod
    def forward(ctx, added: Tensor, decay: Tensor, state: Tensor) -> Tensor:
        states = added.new_empty(added.size(0) + 1, *state.shape)
        states[0] = state
        steps = states.unbind(0)
        for new, before, after in zip(added.unbind(0), steps, steps[1:]):
            torch.addcmul(new, decay, before, out=after)
        ctx.save_for_backward(states, decay)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_states: Tensor):
        states, decay = ctx.saved_tensors
        grads = torch.empty_like(states)
        grads[-1] = grad_states[-1]
        steps = grads.unbind(0)[::-1]
        for direct, after, before in zip(grad_states.unbind(0)[-2::-1], steps, steps[1:]):
            torch.addcmul(direct, decay, after, out=before)
        grad_decay = (grads[1:] * states[:-1]).sum((0, 2)).unsqueeze(1)
        return grads[1:], grad_decay, grads[0]


def _reverse_second_half(states: Tensor) -> Tensor:
    """``(blocks, D, B, 2 N)`` with the blocks of the last ``N``, the backward EMA's, reversed."""
    forward, backward = states.chunk(2, dim=-1)
    return torch.cat([forward, backward.flip(0)], dim=-1)


class _ToChannels(torch.autograd.Function):
    """``_channels_first``, with a backward pass that leaves its result in order, too."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return _channels_first(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return _channels_last(grad)


class _FromChannels(torch.autograd.Function):
    """The inverse of ``_ToChannels``."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return _channels_last(x)

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        return _channels_first(grad)


def _channels_first(x: Tensor) -> Tensor:
    """``(B, L, D)`` to ``(D, B, L)``, as one transposition of a matrix."""
    batch, length, channels = x.shape
    return x.reshape(batch * length, channels).t().contiguous().view(channels, batch, length)


def _channels_last(x: Tensor) -> Tensor:
    """``(D, B, L)`` to ``(B, L, D)``."""
    channels, batch, length = x.shape
    return (
        x.reshape(channels, batch * length)
        .contiguous()
        .t()
        .contiguous()
        .view(batch, length, channels)
    )
