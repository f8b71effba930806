"""The EMA as a convolution with its kernel, by FFTs: for truncated kernels above all."""

from typing import Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from scipy.fft import next_fast_len
from torch import Tensor

from .layout import channels_first, channels_last


def convolve(x: Tensor, kernel: Tensor, omega: Optional[Tensor]) -> Tuple[Tensor, Sequence[Tensor]]:
    """``naive.ema_convolution`` of ``x (B, L, D)``, plus ``omega x``, as a product of spectra.

    The convolution is circular, on a circle of ``n`` so long that what runs over its end misses
    ``0 .. L-1``. Both kernels make one circular kernel, with the tap for ``x_{t+tau}`` at
    ``n - tau``.

    Args:
        kernel: ``(D, T)`` with ``T <= L``; ``(2 D, T)`` with the taps of the backward EMA.
        omega: ``(D,)`` or None.

    Returns:
        y ``(B, L, D)``, and for ``gradients`` the conjugate spectra of ``x`` ``(D, B, n/2 + 1)``
        and of the kernel ``(D, 1, n/2 + 1)``.
    """
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
    return y, (x_f.conj_physical_(), kernel_f.conj_physical_())


def gradients(
    kept: Sequence[Tensor], grad_y: Tensor, taps: int, bidirectional: bool
) -> Tuple[Tensor, Tensor, Tensor]:
    """The gradients of ``x``, of the kernel and of ``omega``: three FFTs, as in ``convolve``."""
    x_conj, kernel_conj = kept
    length = grad_y.size(1)
    n = fast_length(length + taps - 1)
    grad_f = torch.fft.rfft(channels_first(grad_y), n=n)
    grad_x = channels_last(torch.fft.irfft(grad_f * kernel_conj, n=n)[..., :length])
    grad = torch.fft.irfft(grad_f.mul_(x_conj).sum(1), n=n)
    grad_kernel = grad[:, :taps]
    if bidirectional:
        backward = torch.cat([grad[:, :1], grad[:, n - taps + 1 :].flip(-1)], dim=1)
        grad_kernel = torch.cat([grad_kernel, backward])
    return grad_x, grad_kernel, grad[:, 0]


def fast_length(n: int) -> int:
    """The smallest even length of at least ``n`` at which an FFT is fast: ``2^a 3^b 5^c``."""
    return 2 * next_fast_len(-(-n // 2), real=True)
