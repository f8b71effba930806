"""The EMA as a convolution, for short sequences and truncated kernels: a product with a Toeplitz
matrix for each channel, or a product of spectra.

Kernels ``k[d, tau] = sum_n p beta gamma q^tau / sqrt(N)`` are ``(K, T)`` with ``T <= L`` taps:
``K`` is ``D``, or ``2 D`` with the backward EMA.
"""

from typing import Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from scipy.fft import next_fast_len
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..toeplitz import toeplitz
from .coefficients import EMAParameters, damping
from .layout import channels_first, channels_last

FINE = 64  # taps whose powers of q have an exponential each


def kernel_taps(parameters: EMAParameters, taps: int) -> Tensor:
    """The kernel ``(K, taps)``.

    Products of ``q^tau = q^(j FINE) q^i``, ``tau = j FINE + i``, take fewer exponentials than the
    definition, and no ``(K, N, taps)`` tensor.
    """
    delta, alpha, beta, gamma = parameters
    p, change = damping(delta, alpha)  # (K, N, 1)
    log_decay, weight = torch.log1p(change), p * beta * gamma.unsqueeze(2) * gamma.size(1) ** -0.5
    tau = torch.arange(min(taps, FINE), dtype=p.dtype, device=p.device)
    if taps > FINE:
        first = torch.arange(0, taps, FINE, dtype=p.dtype, device=p.device)
        weight = torch.exp(log_decay * first) * weight  # (K, N, taps/FINE)
    return torch.bmm(weight.transpose(1, 2), torch.exp(log_decay * tau)).flatten(1)[:, :taps]


def convolve_by_matrix(x: Tensor, kernel: Tensor, omega: Optional[Tensor] = None) -> Tensor:
    """``naive.ema_convolution`` of ``x (B, L, D)``, plus ``omega x``: for a few positions."""
    _, length, channels = x.shape
    diagonals = kernel_diagonals(kernel, channels, length, omega)
    return channels_last(torch.bmm(channels_first(x), toeplitz(diagonals, length, length)))


def kernel_diagonals(
    kernel: Tensor, channels: int, size: int, omega: Optional[Tensor] = None
) -> Tensor:
    """The diagonals ``(D, 2 C - 1)`` of the Toeplitz matrix that convolves ``C`` positions."""
    rest = size - kernel.size(-1)
    diagonals = F.pad(kernel[:channels], (size - 1, rest))  # of an input at this position or before
    if len(kernel) > channels:
        diagonals = diagonals + F.pad(kernel[channels:].flip(-1), (rest, size - 1))
    if omega is not None:
        diagonals.select(1, size - 1).add_(omega)
    return diagonals


def convolve_by_fft(x: Tensor, kernel: Tensor, omega: Optional[Tensor] = None) -> Tensor:
    """``naive.ema_convolution`` of ``x (B, L, D)``, plus ``omega x``, as a product of spectra."""
    return _FFTConvolution.apply(x, kernel, omega)


class _FFTConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, kernel, omega):
        y, kept = fft_forward(x, kernel, omega)
        ctx.save_for_backward(*kept)
        ctx.kernel_shape, ctx.with_omega = kernel.shape, omega is not None
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_y):
        grad_x, grad_kernel, grad_omega = fft_backward(ctx.saved_tensors, grad_y, *ctx.kernel_shape)
        return grad_x, grad_kernel, grad_omega if ctx.with_omega else None


def fft_forward(
    x: Tensor, kernel: Tensor, omega: Optional[Tensor]
) -> Tuple[Tensor, Sequence[Tensor]]:
    """y, and the conjugate ``spectra`` for ``fft_backward``."""
    length = x.size(1)
    x_f, kernel_f = spectra(x, kernel, omega)
    n = fast_length(length + kernel.size(-1) - 1)
    y = channels_last(torch.fft.irfft(x_f * kernel_f, n=n)[..., :length])
    return y, (x_f.conj_physical_(), kernel_f.conj_physical_())


def spectra(x: Tensor, kernel: Tensor, omega: Optional[Tensor]) -> Tuple[Tensor, Tensor]:
    """The spectra of ``x`` ``(D, B, n/2 + 1)`` and of the kernel ``(D, 1, n/2 + 1)``.

    Both kernels form one circular kernel, with the tap for ``x_{t+tau}`` at ``n - tau``.
    """
    channels, taps = x.size(-1), kernel.size(-1)
    n = fast_length(x.size(1) + taps - 1)
    circle = F.pad(kernel[:channels], (0, n - taps))
    if len(kernel) > channels:
        circle.select(1, 0).add_(kernel[channels:, 0])
        circle[:, n - taps + 1 :] = kernel[channels:, 1:].flip(-1)
    if omega is not None:
        circle.select(1, 0).add_(omega)
    return torch.fft.rfft(channels_first(x), n=n), torch.fft.rfft(circle).unsqueeze(1)


def fft_backward(
    kept: Sequence[Tensor], grad_y: Tensor, rows: int, taps: int
) -> Tuple[Tensor, Tensor, Tensor]:
    """The gradients of ``x``, of the kernel ``(rows, taps)`` and of ``omega``, with FFTs of real
    numbers; torch's own gradients take complex ones."""
    x_conj, kernel_conj = kept
    _, length, channels = grad_y.shape
    n = fast_length(length + taps - 1)
    grad_f = torch.fft.rfft(channels_first(grad_y), n=n)
    grad_x = channels_last(torch.fft.irfft(grad_f * kernel_conj, n=n)[..., :length])
    grad = torch.fft.irfft(grad_f.mul_(x_conj).sum(1), n=n)
    grad_kernel = grad[:, :taps]
    if rows > channels:
        backward = torch.cat([grad[:, :1], grad[:, n - taps + 1 :].flip(-1)], dim=1)
        grad_kernel = torch.cat([grad_kernel, backward])
    return grad_x, grad_kernel, grad[:, 0]


def fast_length(n: int) -> int:
    """The smallest even length of at least ``n`` at which an FFT is fast: ``2^a 3^b 5^c``."""
    return 2 * next_fast_len(-(-n // 2), real=True)
