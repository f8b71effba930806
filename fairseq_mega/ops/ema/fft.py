"""The EMA as a convolution with its kernel, by FFTs: for truncated kernels above all."""

from typing import Optional

import torch
import torch.nn.functional as F
from scipy.fft import next_fast_len
from torch import Tensor
from torch.autograd.function import once_differentiable

from .layout import channels_first, channels_last


def fft_convolution(x: Tensor, kernel: Tensor, omega: Optional[Tensor] = None) -> Tensor:
    """``naive.ema_convolution`` of ``x (B, L, D)`` (plus ``omega x``) as a product of spectra.

    Args:
        kernel: ``(D, T)`` with ``T <= L``; ``(2 D, T)`` with the taps of the backward EMA.
        omega: ``(D,)`` or None.
    """
    return _FFTConvolution.apply(x, kernel, omega)


class _FFTConvolution(torch.autograd.Function):
    """A circular convolution, on a circle so long that what runs over its end misses ``0 .. L-1``.
    Both kernels make one circular kernel, with the tap for ``x_{t+tau}`` at ``n - tau``. The
    backward pass uses the spectra again: three FFTs each way in all."""

    @staticmethod
    def forward(ctx, x: Tensor, kernel: Tensor, omega: Optional[Tensor]) -> Tensor:
        _, length, channels = x.shape
        taps = kernel.size(-1)
        n = fast_length(length + taps - 1)
        circle = F.pad(kernel[:channels], (0, n - taps))
        if len(kernel) > channels:
            circle.select(1, 0).add_(kernel[channels:, 0])
            circle[:, n - taps + 1 :] = kernel[channels:, 1:].flip(-1)
        if omega is not None:
            circle.select(1, 0).add_(omega)
        x_f = torch.fft.rfft(channels_first(x), n=n)
        kernel_f = torch.fft.rfft(circle).unsqueeze(1)
        y = channels_last(torch.fft.irfft(x_f * kernel_f, n=n)[..., :length])
        ctx.save_for_backward(x_f.conj_physical_(), kernel_f.conj_physical_())
        ctx.length, ctx.taps, ctx.n = length, taps, n
        ctx.bidirectional, ctx.omega = len(kernel) > channels, omega is not None
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_y: Tensor):
        x_conj, kernel_conj = ctx.saved_tensors
        grad_f = torch.fft.rfft(channels_first(grad_y), n=ctx.n)
        grad_x = torch.fft.irfft(grad_f * kernel_conj, n=ctx.n)[..., : ctx.length]
        grad = torch.fft.irfft(grad_f.mul_(x_conj).sum(1), n=ctx.n)
        grad_kernel = grad[:, : ctx.taps]
        if ctx.bidirectional:
            later = grad[:, ctx.n - ctx.taps + 1 :].flip(-1)
            grad_kernel = torch.cat([grad_kernel, torch.cat([grad[:, :1], later], dim=-1)])
        return channels_last(grad_x), grad_kernel, grad[:, 0] if ctx.omega else None


def fast_length(n: int) -> int:
    """The smallest even length of at least ``n`` at which an FFT is fast: ``2^a 3^b 5^c``."""
    return 2 * next_fast_len(-(-n // 2), real=True)
