"""The recurrence in generation, one position at a time."""

from typing import NamedTuple

import torch
from torch import Tensor

from .coefficients import EMACoefficients


class StepCoefficients(NamedTuple):
    """``(N, D)`` each: sums over ``N`` are faster with channels last."""

    decay: Tensor  # q - 1, of which float32 holds more digits where q is near 1
    input_weight: Tensor  # p beta
    output_weight: Tensor  # gamma / sqrt(N)

    @classmethod
    def of(cls, coefficients: EMACoefficients) -> "StepCoefficients":
        log_decay, input_weight, output_weight = (t.t().contiguous() for t in coefficients)
        return cls(torch.expm1(log_decay), input_weight, output_weight)


def ema_step_(x: Tensor, coefficients: StepCoefficients, h: Tensor, scratch: Tensor) -> Tensor:
    """One step of ``naive.ema_recurrence`` for ``x (B, D)``, without gradients: y ``(B, D)``.

    Updates the hidden state ``h (B, N, D)`` in place; ``scratch`` is memory of the same shape.
    """
    h.addcmul_(coefficients.decay, h).addcmul_(coefficients.input_weight, x.unsqueeze(1))
    return torch.mul(h, coefficients.output_weight, out=scratch).sum(1)
