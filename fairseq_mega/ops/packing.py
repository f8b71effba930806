"""Faster products of few rows, as generation has them: weights in the processor's own layout."""

from contextlib import contextmanager
from contextvars import ContextVar
from typing import Callable, Dict, Iterator, NamedTuple, Optional

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

LEAST_PACKED = 2**18  # numbers in a weight: below, oneDNN's fixed cost of a call outweighs the gain


class PackedWeight(NamedTuple):
    """A copy of ``weight`` in the layout that oneDNN multiplies by, and what it was made of."""

    weight: nn.Parameter
    version: int
    numbers: Tensor  # the weight's memory, kept so that no other gets its address
    packed: Tensor

    @classmethod
    def of(cls, weight: nn.Parameter) -> "PackedWeight":
        numbers = weight.detach()
        packed = torch.ops.mkldnn._reorder_linear_weight(numbers, None)
        return cls(weight, weight._version, numbers, packed)

    def is_current(self) -> bool:
        same = self.numbers.data_ptr() == self.weight.data_ptr()
        return same and self.version == self.weight._version


class PackedWeights:
    """While in use, ``call`` multiplies by packed copies of large weights.

    A product of few rows takes as long as it takes to read the weights. Measured on two CPU cores,
    with 35M weights in turn: 5 rows take 0.4, 25 rows 0.55, 200 rows 0.8 of ``F.linear``'s time; to
    pack all of them takes as long as two or three steps.

    The copies belong to one generation, and go with it: the next one packs the weights as they are
    then, however they changed. During a generation a weight is packed anew when it is replaced, or
    changed in place where torch counts that (``load_state_dict``, ``.half()``, an optimizer of
    torch's); a change through ``.data`` is seen by the next generation.
    """

    def __init__(self):
        self._packed: Dict[int, PackedWeight] = {}

    @contextmanager
    def in_use(self) -> Iterator[None]:
        token = _in_use.set(_PackedLinear(self))
        try:
            yield
        finally:
            _in_use.reset(token)

    def linear(self, x: Tensor, weight: Tensor, bias: Optional[Tensor]) -> Tensor:
        """``F.linear``, by a packed copy where that is exact: in float32 and without gradients."""
        if (
            torch.is_grad_enabled()
            or x.dtype != torch.float32
            or torch.is_autocast_enabled("cpu")
            or not isinstance(weight, nn.Parameter)
        ):
            return F.linear(x, weight, bias)
        entry = self._packed.get(id(weight))
        if entry is None or not entry.is_current():
            if not _can_pack(weight):
                return F.linear(x, weight, bias)
            entry = self._packed[id(weight)] = PackedWeight.of(weight)
        return torch.ops.mkldnn._linear_pointwise(x, entry.packed, bias, "none", [], "")

    def __len__(self) -> int:
        return len(self._packed)

    def __deepcopy__(self, memo) -> "PackedWeights":
        return PackedWeights()


class _PackedLinear(TorchFunctionMode):
    """Inside, ``F.linear`` is that of the packed weights, whichever module calls it."""

    def __init__(self, packed: PackedWeights):
        super().__init__()
        self._linear = packed.linear

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is F.linear and not kwargs and len(args) == 3:
            return self._linear(*args)
        return func(*args, **(kwargs or {}))


_in_use: ContextVar[Optional[_PackedLinear]] = ContextVar("packed weights", default=None)


def call(projection: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """``projection(x)``, with packed weights where those are in use."""
    packed = _in_use.get()
    if packed is None:
        return projection(x)
    with packed:
        return projection(x)


def _can_pack(weight: nn.Parameter) -> bool:
    """Whether a packed copy is faster: of a large weight, on a CPU that oneDNN knows."""
    return (
        weight.numel() >= LEAST_PACKED
        and weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and not weight.is_inference()
    )
