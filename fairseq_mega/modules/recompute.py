"""Less memory for the backward pass."""

from typing import Callable

import torch
from torch.utils.checkpoint import checkpoint


def recompute(function: Callable, *args, draws: bool = False):
    """``function(*args)``, which keeps only ``args`` for the backward pass.

    What else that needs is computed again, with the parameters as they are then. A matrix product
    at the end of ``function`` is not: what goes into it is needed, its result is not.

    Args:
        draws: whether the function draws random numbers, to be drawn again.
    """
    if not torch.is_grad_enabled():
        return function(*args)
    return checkpoint(function, *args, use_reentrant=False, preserve_rng_state=draws)
