"""The gates and the values between projections (Mega, section "Moving Average Equipped Gated
Attention"): ``naive`` has the formulas, ``fused`` each of them as one kernel for a GPU.

The paper's kappa and mu are gamma and beta here, its gates gamma and phi are r and u. Dropout masks
are explicit. Fused forms keep their arguments alone for the backward pass.
"""

from functools import update_wrapper
from typing import Callable, Sequence

import torch
from torch import Tensor

from . import fused, naive
from .fused import is_available

__all__ = [
    "activated",
    "ema_output",
    "gated_update",
    "queries_and_keys",
    "reset_gated",
    "split",
]


class Fastest:
    """The function of a ``formula``, by ``kernels`` where they run.

    ``keeps_arguments(*args)`` says so: ``recompute`` has nothing to do then.
    """

    keeps_arguments = staticmethod(is_available)

    def __init__(self, formula: Callable, kernels: Callable):
        update_wrapper(self, formula)
        self.formula, self.kernels = formula, kernels

    def __call__(self, *args):
        return (self.kernels if is_available(*args) else self.formula)(*args)


activated = Fastest(naive.activated, fused.activated)
ema_output = Fastest(naive.ema_output, fused.ema_output)
queries_and_keys = Fastest(naive.queries_and_keys, fused.queries_and_keys)
reset_gated = Fastest(naive.reset_gated, fused.reset_gated)
gated_update = Fastest(naive.gated_update, fused.gated_update)


def split(x: Tensor, sizes: Sequence[int], activation: Callable) -> Sequence[Tensor]:
    """The parts of ``x`` along the last dimension, for gates with this activation. Where formulas
    would keep them for the backward pass they are copies, so that the memory of each is free after
    its own last use; kernels keep all of them."""
    parts = x.split(sizes, dim=-1)
    if is_available(x, activation) or not torch.is_grad_enabled():
        return parts
    return [part.contiguous() for part in parts]
