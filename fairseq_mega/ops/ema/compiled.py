"""Operators that compilers leave alone: the EMA on a GPU, and the convolution by FFTs. They keep
only their arguments for the backward pass."""

from typing import Optional, Tuple

from torch import Tensor

from ..operators import differentiable_operator
from .coefficients import EMAParameters
from .convolution import fft_backward, fft_forward, spectra
from .fused import Scan, fused_backward, fused_outputs, fused_states


def _ema(
    x: Tensor, delta: Tensor, alpha: Tensor, beta: Tensor, gamma: Tensor, omega: Tensor,
    padding_mask: Optional[Tensor], truncation: Optional[int],
) -> Tensor:  # fmt: skip
    scan, parameters = Scan.of(x, truncation), EMAParameters(delta, alpha, beta, gamma)
    return fused_outputs(fused_states(x, parameters, omega, padding_mask, scan), scan).contiguous()


def _ema_backward(
    grad: Tensor, x: Tensor, delta: Tensor, alpha: Tensor, beta: Tensor, gamma: Tensor,
    omega: Tensor, padding_mask: Optional[Tensor], truncation: Optional[int],
) -> Tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    scan, parameters = Scan.of(x, truncation), EMAParameters(delta, alpha, beta, gamma)
    kept = fused_states(x, parameters, omega, padding_mask, scan)
    a, b, c, d, e, f = fused_backward(kept, grad, scan)
    return a.contiguous(), b, c, d, e, f


def _convolution(x: Tensor, kernel: Tensor) -> Tensor:
    return fft_forward(x, kernel, None)[0].contiguous()


def _convolution_backward(grad: Tensor, x: Tensor, kernel: Tensor) -> Tuple[Tensor, Tensor]:
    kept = [spectrum.conj_physical_() for spectrum in spectra(x, kernel, None)]
    a, b, _ = fft_backward(kept, grad, *kernel.shape)
    return a.contiguous(), b.contiguous()


compiled_ema = differentiable_operator("ema", _ema, _ema_backward)
compiled_convolution = differentiable_operator("convolution", _convolution, _convolution_backward)
