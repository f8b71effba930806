"""Less memory for the backward pass: cheap results of large tensors are recomputed, not kept."""

from contextlib import contextmanager
from functools import wraps
from typing import Callable, Iterator, Optional, TypeVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Step = TypeVar("Step", bound=Callable)

# Smaller tensors are kept. On a CPU these are 4 MB in float32: recomputing smaller ones takes time
# and saves little memory. An H100 reads and writes 2^23 values of 16 bits in about the time that
# the host needs for a launch, 10 µs.
LEAST_ON_CPU = 2**20
LEAST_ON_GPU = 2**23


def is_large(x: Tensor, values: Optional[int] = None) -> bool:
    """Whether ``x``, or a tensor of so many ``values`` like it, is better recomputed than kept."""
    values = x.numel() if values is None else values
    return values >= (LEAST_ON_CPU if x.is_cpu else LEAST_ON_GPU)


def recomputed(step: Step) -> Step:
    """Decorates a step of a layer, a method or function whose first tensor is ``(B, L, ...)``.

    If that tensor is large, training keeps the step's arguments alone, and the backward pass runs
    the step again up to the last tensor that it needs: not the matrix product that ends it.
    Dropout drops the same values then. A compiler decides by itself what it keeps.
    """

    @wraps(step)
    def run(*args):
        if not torch.is_grad_enabled() or torch.compiler.is_compiling():
            return step(*args)
        x = args[0] if isinstance(args[0], Tensor) else args[1]
        if not is_large(x):
            return step(*args)
        return checkpoint(step, *args, use_reentrant=False)

    return run  # type: ignore[return-value]


class RandomNumbers:
    """A place in a device's random numbers, to draw the same ones again."""

    def __init__(self, device: torch.device):
        self._devices = [device] if device.type == "cuda" else []
        self._place = torch.cuda.get_rng_state(device) if self._devices else torch.get_rng_state()

    @contextmanager
    def again(self) -> Iterator[None]:
        """Draws what was drawn after this object was made; then what would have come without."""
        with torch.random.fork_rng(self._devices):
            if self._devices:
                torch.cuda.set_rng_state(self._place, self._devices[0])
            else:
                torch.set_rng_state(self._place)
            yield
