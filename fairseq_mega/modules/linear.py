"""Linear layers: with the published initialisation, and fast with few rows."""

import copy
from typing import Dict, Optional

import torch
from fairseq.incremental_decoding_utils import with_incremental_state
from torch import Tensor, nn

INIT_STD = 0.02
LEAST_PACKED = 2**18  # numbers in a weight: below, oneDNN's fixed cost of a call outweighs the gain
SMALL = "small"  # in an incremental state that many are to be kept of: no copies of weights


@with_incremental_state
class Linear(nn.Linear):
    """``nn.Linear`` that puts its weights in order once for all steps of incremental decoding."""

    def forward(self, x: Tensor, incremental_state: Optional[Dict] = None) -> Tensor:
        """``(..., in)`` to ``(..., out)``."""
        if incremental_state is None or SMALL in incremental_state or not _can_pack(x, self.weight):
            return super().forward(x)
        saved = self.get_incremental_state(incremental_state, "linear")
        if saved is None:
            saved = {"packed": PackedWeight(self.weight)}
            self.set_incremental_state(incremental_state, "linear", saved)
        return saved["packed"](x, self.bias)


class PackedWeight:
    """A copy of a weight in the layout that oneDNN multiplies by.

    A product of few rows takes as long as it takes to read the weights. Measured on two CPU cores,
    with 35M weights in turn: 5 rows take 0.4, 25 rows 0.55, 200 rows 0.8 of ``F.linear``'s time; to
    pack all of them takes as long as two or three steps.
    """

    def __init__(self, weight: Tensor):
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), None)

    def __call__(self, x: Tensor, bias: Optional[Tensor]) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self._weight, bias, "none", [], "")

    def __deepcopy__(self, memo) -> "PackedWeight":
        return copy.copy(self)  # never written to


def _can_pack(x: Tensor, weight: Tensor) -> bool:
    """Whether it is faster, and exact: in float32 on a CPU, with oneDNN, without gradients."""
    return (
        weight.numel() >= LEAST_PACKED
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
    )


def make_linear(in_features: int, out_features: int) -> Linear:
    """A linear layer with weights ``~ N(0, 0.02^2)`` and biases 0."""
    linear = Linear(in_features, out_features)
    nn.init.normal_(linear.weight, std=INIT_STD)
    nn.init.zeros_(linear.bias)
    return linear
