"""Calls of the projections: with little memory in training, and with packed weights in generation.

Projections are any modules: hooks, adapters and quantisers are called as they are.
"""

from contextlib import contextmanager
from contextvars import ContextVar
from typing import Callable, Dict, Iterator, NamedTuple, Optional

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook

from ..ops.recompute import recompute, recomputed

# Weights of at least so many numbers are packed: with smaller ones, oneDNN's fixed cost of a call
# outweighs the gain; and for so many rows at most: with more, plain products are as fast.
LEAST_PACKED, MOST_ROWS = 2**18, 256


class PackedWeight(NamedTuple):
    """A copy of ``weight`` in the layout that oneDNN multiplies by, and what it was made of."""

    weight: Tensor
    version: int
    numbers: Tensor  # the weight's memory, kept so that no other gets its address
    packed: Tensor

    @classmethod
    def of(cls, weight: Tensor) -> "PackedWeight":
        numbers = weight.detach()
        packed = torch.ops.mkldnn._reorder_linear_weight(numbers, None)
        return cls(weight, weight._version, numbers, packed)

    def is_current(self) -> bool:
        same = self.numbers.data_ptr() == self.weight.data_ptr()
        return same and self.version == self.weight._version


class PackedWeights:
    """While in use, ``apply_linear`` multiplies by packed copies of large weights.

    A product of few rows takes as long as it takes to read the weights. Measured on two CPU cores,
    with 35M weights in turn: 5 rows take 0.4, 25 rows 0.55, 200 rows 0.8 of ``F.linear``'s time; to
    pack all of them takes as long as two or three steps.

    The copies belong to one generation, and go with it: the next one packs the weights as they are
    then, however they changed. During a generation a weight is packed anew when it is replaced, or
    changed in place where torch counts that (``load_state_dict``, ``.half()``, an optimizer of
    torch's); a change through ``.data`` is seen by the next generation.
    """

    def __init__(self) -> None:
        self._packed: Dict[int, PackedWeight] = {}

    @contextmanager
    def in_use(self) -> Iterator[None]:
        token = _in_use.set(self)
        try:
            yield
        finally:
            _in_use.reset(token)

    def find(self, weight: Tensor) -> Optional[Tensor]:
        """The packed copy of ``weight``, None where that would be no faster."""
        entry = self._packed.get(id(weight))
        if entry is None or not entry.is_current():
            if not _can_pack(weight):
                return None
            entry = self._packed[id(weight)] = PackedWeight.of(weight)
        return entry.packed

    def __len__(self) -> int:
        return len(self._packed)

    def __deepcopy__(self, memo) -> "PackedWeights":
        return PackedWeights()


_in_use: ContextVar[Optional[PackedWeights]] = ContextVar("packed weights", default=None)


def apply_linear(projection: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``projection(x)``; of a plain ``nn.Linear``, with packed weights where those are in use."""
    packed = None if torch.compiler.is_compiling() else _in_use.get()
    if packed is None or type(projection) is not nn.Linear:  # but an adapter or a quantiser
        return projection(x)
    weight = packed.find(projection.weight) if _is_exact(x) and has_no_hooks(projection) else None
    if weight is None:
        return projection(x)
    return torch.ops.mkldnn._linear_pointwise(x, weight, projection.bias, "none", [], "")


def project(projection: Callable[[Tensor], Tensor], function: Callable, *args) -> Tensor:
    """``projection(function(*args))``, of which only ``args`` are kept for the backward pass."""
    x = recompute(function, *args)
    with recomputed(x, function, *args):
        return apply_linear(projection, x)


def has_no_hooks(projection: nn.Linear) -> bool:
    return (
        not projection._forward_hooks
        and not projection._forward_pre_hooks
        and "forward" not in vars(projection)
        and not _has_any_global_hook()
    )


def _is_exact(x: Tensor) -> bool:
    """Whether packed products of these rows are exact, and faster: in float32, no gradients."""
    return (
        x.dtype == torch.float32
        and x.numel() <= MOST_ROWS * x.size(-1)
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
    )


def _can_pack(weight: Tensor) -> bool:
    """Whether a packed copy is faster: of a large weight, on a CPU that oneDNN knows."""
    return (
        weight.numel() >= LEAST_PACKED
        and type(weight.data) is Tensor  # not a quantised or distributed one
        and weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and not weight.is_inference()
    )
