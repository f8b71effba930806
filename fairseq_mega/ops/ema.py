"""Multi-dimensional damped EMA (Mega, section "Multi-dimensional Damped EMA").

    h_t[d,n] = p[d,n] beta[d,n] x_t[d] + q[d,n] h_{t-1}[d,n]        q = 1 - p a
    y_t[d]   = sum_n gamma[d,n] h_t[d,n] / sqrt(N)

``D`` is the number of channels, ``N`` the EMA dimensions of a channel. Two forms give the same
``y``: a convolution with the kernel ``k[d,t] = sum_n p beta gamma / sqrt(N) q^t``, through FFTs or
as a matrix product, and a recurrence over blocks, which takes and returns the state ``h``.

Sequences are ``(B, L, D)``. Inside, channels come first, ``(D, B, L)``: the layout of both the FFT
along ``L`` and the products that are batched over channels.
"""

import math
from functools import cache
from typing import NamedTuple, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .toeplitz import toeplitz

# Block length of the recurrent form. Measured on two CPU cores, D 512, N 16: longer blocks lose
# more to the quadratic product inside a block than they save between blocks.
BLOCK = 64
# Up to this length a convolution is fastest as a matrix product, if the batch shares the matrix.
LONGEST_DIRECT = 64


class EMACoefficients(NamedTuple):
    """What the recurrence needs of the parameters, each ``(D, N)``."""

    log_decay: Tensor  # log q
    input_weight: Tensor  # p beta
    output_weight: Tensor  # gamma / sqrt(N)


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


def ema_convolution(x: Tensor, kernel: Tensor, backward_kernel: Optional[Tensor] = None) -> Tensor:
    """``y_t = sum_s kernel[s] x_{t-s} (+ sum_s backward_kernel[s] x_{t+s})``.

    Args:
        x: ``(B, L, D)``.
        kernel, backward_kernel: ``(D, T)`` with ``T <= L``; both sums include ``s = 0``.

    Returns:
        ``(B, L, D)``.
    """
    batch, length, _ = x.shape
    if length <= LONGEST_DIRECT and batch >= length // 4:
        return _direct_convolution(x, kernel, backward_kernel)
    return _FFTConvolution.apply(x, kernel, backward_kernel)


def _direct_convolution(x: Tensor, kernel: Tensor, backward_kernel: Optional[Tensor]) -> Tensor:
    """The convolution as a product with the ``(D, L, L)`` Toeplitz matrix of the taps."""
    length, taps = x.size(1), kernel.size(-1)
    diagonals = F.pad(kernel.flip(-1), (length - taps, length - 1))  # taps L-1..0, then the future
    if backward_kernel is not None:
        diagonals = diagonals + F.pad(backward_kernel, (length - 1, length - taps))
    matrix = toeplitz(diagonals, length, length)  # (D, L, L)
    return _channels_last(torch.bmm(_channels_first(x), matrix.transpose(1, 2)))


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
    x, state = _channels_first(x), state.transpose(0, 1)
    length, outputs = x.size(-1), []
    rest = length % BLOCK
    for piece, block in ((x[..., : length - rest], BLOCK), (x[..., length - rest :], rest)):
        if piece.size(-1) > 0:
            y, state = _block_recurrence(piece, coefficients, state, block)
            outputs.append(y)
    y = torch.cat(outputs, dim=-1) if len(outputs) > 1 else outputs[0]
    return _channels_last(y), state.transpose(0, 1).contiguous()


def ema_step_(
    x: Tensor, coefficients: EMACoefficients, decay: Tensor, state: Tensor, scratch: Tensor
) -> Tensor:
    """One step of the recurrence, without gradients.

    Args:
        x: ``(B, D)``.
        decay: ``q``, ``(D, N)``.
        state: ``h``, ``(B, D, N)``: before the step, and in its place after it.
        scratch: memory for as much, which is overwritten.

    Returns:
        y ``(B, D)``.
    """
    state.mul_(decay).addcmul_(coefficients.input_weight, x.unsqueeze(-1))
    return torch.mul(state, coefficients.output_weight, out=scratch).sum(-1)


def _block_recurrence(
    x: Tensor, coefficients: EMACoefficients, state: Tensor, block: int
) -> Tuple[Tensor, Tensor]:
    """``ema_recurrence`` of ``x (D, B, L)`` from ``state (D, B, N)``, over whole blocks of ``C``.

    Inside a block the taps form a ``C x C`` triangular matrix; from block to block only the state
    is handed on.
    """
    channels, batch, length = x.shape
    blocks = length // block
    log_decay, input_weight, output_weight = coefficients
    x = x.reshape(channels, batch * blocks, block)
    steps = torch.arange(block + 1, dtype=x.dtype, device=x.device)
    decay = torch.exp(log_decay.unsqueeze(2) * steps)  # (D, N, C+1): q^0 .. q^C

    taps = torch.bmm((input_weight * output_weight).unsqueeze(1), decay[..., :-1]).squeeze(1)
    inside = toeplitz(F.pad(taps.flip(-1), (0, block - 1)), block, block)  # (D, C, C)
    y = torch.bmm(x, inside.transpose(1, 2))  # (D, B blocks, C)

    arriving = (decay[..., :-1] * input_weight.unsqueeze(2)).flip(-1)  # p beta q^(C-1-i)
    added = torch.bmm(x, arriving.transpose(1, 2)).view(channels, batch, blocks, -1)
    before = []  # the state before each block
    for b in range(blocks):
        before.append(state)
        state = torch.addcmul(added[:, :, b], decay[..., -1].unsqueeze(1), state)
    before = torch.stack(before, dim=2).flatten(1, 2)  # (D, B blocks, N)

    leaving = decay[..., 1:] * output_weight.unsqueeze(2)  # gamma q^(i+1)
    return torch.baddbmm(y, before, leaving).view(channels, batch, length), state


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
