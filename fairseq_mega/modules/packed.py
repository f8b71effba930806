"""Linear layers for generation on a CPU, with copies of their weights in oneDNN's own layout."""

from typing import Optional, Tuple

import torch
from torch import Tensor, nn

from ..ops.torch_internals import has_global_hooks, pack_weight, packed_product

# The smallest weights to pack, because oneDNN's calls have a fixed cost, and the rows above
# which plain products are as fast.
LEAST_PACKED, MOST_ROWS = 2**18, 256


class PackedLinear(nn.Linear):
    """``nn.Linear``, whose products of few rows without gradients take a packed copy of the weight.

    On two CPU cores with 35M weights, 5 rows take 0.4, 25 rows 0.55, 200 rows 0.8 of ``F.linear``'s
    time; packing takes as long as two or three steps.

    The copy is made at first use, and again when the weight has been replaced or changed in place;
    after a change through ``.data``, call ``pack_linear_layers_`` again.
    """

    _packed: Optional[Tuple[int, Tensor, Tensor]] = None  # version of the weight, weight, copy

    def forward(self, x: Tensor) -> Tensor:
        if (
            torch.is_grad_enabled()
            or torch.compiler.is_compiling()
            or x.dtype != torch.float32
            or x.numel() > MOST_ROWS * self.in_features
            or not can_pack(self.weight)
            or torch.is_autocast_enabled("cpu")
        ):
            return super().forward(x)
        weight, packed = self.weight.detach(), self._packed
        version = weight._version
        if packed is None or (packed[0], packed[1].data_ptr()) != (version, weight.data_ptr()):
            packed = self._packed = version, weight, pack_weight(weight)
        return packed_product(x, packed[2], self.bias)

    def __getstate__(self):
        state = super().__getstate__()
        state.pop("_packed", None)
        return state


def pack_linear_layers_(model: nn.Module) -> None:
    """Makes the large linear layers of a model ``PackedLinear``, in place, where that is faster.

    Parameters keep their names. Layers with hooks and other modules than ``nn.Linear``, such as
    adapters, stay as they are.
    """
    for module in model.modules():
        if type(module) is nn.Linear and can_pack(module.weight) and has_no_hooks(module):
            module.__class__ = PackedLinear
        elif type(module) is PackedLinear:
            module._packed = None  # the weight may have been changed through .data


def can_pack(weight: Tensor) -> bool:
    """Tells whether a packed copy of a weight is possible and faster."""
    return (
        weight.numel() >= LEAST_PACKED
        and weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and type(weight.data) is Tensor  # not a quantised or distributed one
        and torch.backends.mkldnn.is_available()
        and not weight.is_inference()
    )


def has_no_hooks(linear: nn.Linear) -> bool:
    return (
        not linear._forward_hooks
        and not linear._forward_pre_hooks
        and "forward" not in vars(linear)
        and not has_global_hooks()
    )
