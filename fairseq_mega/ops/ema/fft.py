"""The EMA as a convolution with its kernel, by FFTs: for truncated kernels above all."""

from typing import Optional, Tuple

import torch
from scipy.fft import next_fast_len
from torch import Tensor
from torch.autograd.function import once_differentiable

from .layout import channels_first, channels_last


def fft_convolution(x: Tensor, kernel: Tensor, backward_kernel: Optional[Tensor] = None) -> Tensor:
    """``naive.ema_convolution`` as a product of spectra; ``(D, T)`` with ``T <= L``."""
    return _FFTConvolution.apply(x, kernel, backward_kernel)


def _convolve(
    x: Tensor, kernel: Tensor, backward_kernel: Optional[Tensor]
) -> Tuple[Tensor, Tensor, Tensor]:
    """A circular convolution, on a circle so long that what runs over its end misses ``0 .. L-1``.

    Both kernels make one circular kernel, with the tap for ``x_{t+tau}`` at ``n - tau``.

    Returns:
        y ``(B, L, D)``, and the spectra of ``x`` ``(D, B, n/2+1)`` and the kernel
        ``(D, 1, n/2+1)``.
    """
    length, taps = x.size(1), kernel.size(-1)
    n = fast_length(length + taps - 1)
    if backward_kernel is not None:
        first = kernel[:, :1] + backward_kernel[:, :1]
        between = kernel.new_zeros(kernel.size(0), n - 2 * taps + 1)
        later = backward_kernel[:, 1:].flip(-1)
        kernel = torch.cat([first, kernel[:, 1:], between, later], dim=-1)
    x_f = torch.fft.rfft(channels_first(x), n=n)
    kernel_f = torch.fft.rfft(kernel, n=n).unsqueeze(1)
    return channels_last(torch.fft.irfft(x_f * kernel_f, n=n)[..., :length]), x_f, kernel_f


class _FFTConvolution(torch.autograd.Function):
    """``_convolve``, whose spectra the backward pass uses again: three FFTs each way in all."""

    @staticmethod
    def forward(ctx, x: Tensor, kernel: Tensor, backward_kernel: Optional[Tensor]) -> Tensor:
        y, x_f, kernel_f = _convolve(x, kernel, backward_kernel)
        ctx.save_for_backward(x_f.conj_physical_(), kernel_f.conj_physical_())
        ctx.length, ctx.taps = x.size(1), kernel.size(-1)
        ctx.n = fast_length(ctx.length + ctx.taps - 1)
        ctx.bidirectional = backward_kernel is not None
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_y: Tensor):
        x_conj, kernel_conj = ctx.saved_tensors
        grad_f = torch.fft.rfft(channels_first(grad_y), n=ctx.n)
        grad_x = torch.fft.irfft(grad_f * kernel_conj, n=ctx.n)[..., : ctx.length]
        grad_x = channels_last(grad_x)
        grad = torch.fft.irfft(grad_f.mul_(x_conj).sum(1), n=ctx.n)
        grad_kernel, grad_backward = grad[:, : ctx.taps], None
        if ctx.bidirectional:
            later = grad[:, ctx.n - ctx.taps + 1 :].flip(-1)
            grad_backward = torch.cat([grad[:, :1], later], dim=-1)
        return grad_x, grad_kernel, grad_backward


def fast_length(n: int) -> int:
    """The smallest even length of at least ``n`` at which an FFT is fast: ``2^a 3^b 5^c``."""
    return 2 * next_fast_len(-(-n // 2), real=True)
