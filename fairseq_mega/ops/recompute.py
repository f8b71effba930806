"""Recomputation of cheap results in the backward pass, which saves memory."""

from contextlib import contextmanager
from functools import wraps
from typing import Callable, Iterator, Optional, TypeVar

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Step = TypeVar("Step", bound=Callable)

# Values from which recomputation pays. An H100 reads and writes 2^23 in about the 10 µs that the
# host needs for a launch.
LEAST_ON_CPU, LEAST_ON_GPU = 2**20, 2**23


def is_large(x: Tensor, values: Optional[int] = None) -> bool:
    """Whether to recompute ``x``, or so many ``values`` on its device, instead of keeping it."""
    values = x.numel() if values is None else values
    return values >= (LEAST_ON_CPU if x.is_cpu else LEAST_ON_GPU)


def recomputed(step: Step) -> Step:
    """Decorates a function or method whose first tensor is ``(B, L, ...)``.

    If that tensor is large, training keeps only the arguments, and the backward pass runs the step
    again, with the same dropout, up to the last tensor that it needs, which excludes a final matrix
    product. Compilers decide themselves what to keep.
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
    """Draws the same random numbers of a device again."""

    def __init__(self, device: torch.device):
        self._devices = [device] if device.type == "cuda" else []
        self._place = torch.cuda.get_rng_state(device) if self._devices else torch.get_rng_state()

    @contextmanager
    def again(self) -> Iterator[None]:
        """Within it, draws what was drawn after this object was made."""
        with torch.random.fork_rng(self._devices):
            if self._devices:
                torch.cuda.set_rng_state(self._place, self._devices[0])
            else:
                torch.set_rng_state(self._place)
            yield
