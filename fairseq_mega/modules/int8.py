"""Linear layers with int8 weights, for faster generation on a CPU."""

from functools import cache
from typing import Any, Dict, Optional, Tuple

import torch
from torch import Tensor, nn

from ..ops.operators import operator
from ..ops.torch_internals import pack_int8_weight, packed_int8_product
from .packed import PackedLinear, has_no_hooks

LEVELS = 127  # of either sign


class Int8Linear(nn.Module):
    """``x W^T + b`` of a linear layer, with ``W`` and ``x`` rounded to int8.

    Each row of ``W`` and of ``x`` has a scale, its largest magnitude / 127. Products of integers
    and their sums are exact. ``W`` is rounded once, ``x`` at each call.
    """

    def __init__(self, linear: nn.Linear):
        super().__init__()
        weight = linear.weight.detach()
        if weight.device.type != "cpu" or weight.dtype != torch.float32:
            raise ValueError(
                f"int8 weights are made from float32 on a CPU, not from {weight.dtype} on "
                f"{weight.device}"
            )
        if not is_exact_here():
            raise ValueError(
                "this processor, or this torch, has no exact int8 products (VNNI or AMX, by oneDNN)"
            )
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight: Tensor
        self.scale: Tensor
        self.bias: Optional[Tensor]
        integers, scale = rounded(weight)
        self.register_buffer("weight", integers)
        self.register_buffer("scale", scale.flatten())
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach())
        self._zero = torch.zeros(self.out_features, dtype=torch.int64)  # offsets of the scales
        self._packed = pack_int8_weight(integers)

    def forward(self, x: Tensor) -> Tensor:
        """``x (..., in)``: ``(..., out)``, float32."""
        if x.requires_grad and torch.is_grad_enabled():
            raise RuntimeError(
                "int8 weights have no gradients: compute without them (torch.no_grad()), or load "
                "the model without cpu_int8"
            )
        if x.numel() == 0:
            return x.new_zeros(*x.shape[:-1], self.out_features, dtype=torch.float32)
        x, scale = rounded(x.float())
        y = _product(x, self._packed, self.scale, self._zero).mul_(scale)
        return y if self.bias is None else y.add_(self.bias)

    def _load_from_state_dict(self, *args) -> None:
        super()._load_from_state_dict(*args)
        self._packed = pack_int8_weight(self.weight)

    def _apply(self, *args, **kwargs) -> "Int8Linear":
        super()._apply(*args, **kwargs)
        if self.scale.dtype != torch.float32 or self.scale.device.type != "cpu":
            raise RuntimeError(
                "a model with int8 weights stays on the CPU, the rest of it in float32: load it "
                "without cpu_int8"
            )
        return self

    def __getstate__(self) -> Dict[str, Any]:
        return {**self.__dict__, "_packed": None}  # torch makes no copies of a packed weight

    def __setstate__(self, state: Dict[str, Any]) -> None:
        super().__setstate__(state)
        self._packed = pack_int8_weight(self.weight)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}"


def multiply_in_int8_(model: nn.Module) -> None:
    """Replaces the linear layers of a model for generation, which has no gradients from then on.

    Layers with hooks and other modules than ``nn.Linear``, such as adapters, stay as they are.
    """
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.Linear)
        and type(child) in (nn.Linear, PackedLinear)
        and has_no_hooks(child)
    ]
    if not found:
        raise ValueError("no linear layer without hooks to replace with one of int8 weights")
    for parent, name, child in found:
        setattr(parent, name, Int8Linear(child))
    model.requires_grad_(False)


def rounded(x: Tensor) -> Tuple[Tensor, Tensor]:
    """``x (..., D)`` as int8 and the scale ``(..., 1)`` to multiply it by."""
    scale = x.abs().amax(dim=-1, keepdim=True).div_(LEVELS)
    scale.clamp_(min=torch.finfo(x.dtype).tiny)  # for rows of zeros
    return (x / scale).round_().to(torch.int8), scale


@cache
def is_exact_here() -> bool:
    """Tells whether oneDNN multiplies int8 on this CPU without overflow: processors without
    instructions for it keep sums of two products in 16 bits."""
    if not torch.backends.mkldnn.is_available():
        return False
    largest = torch.full((32, 128), LEVELS, dtype=torch.int8)
    unit, zero = torch.ones(32), torch.zeros(32, dtype=torch.int64)
    try:
        product = _product(largest, pack_int8_weight(largest), unit, zero)
        return bool((product == 128 * LEVELS**2).all())
    except (AttributeError, RuntimeError):  # this build of torch has no such operator or kernel
        return False


# torch.compile only knows oneDNN's operator in models of torch's own quantisation.
_product = operator(
    "int8_product",
    packed_int8_product,
    lambda x, packed, scale, zero: scale.new_empty(*x.shape[:-1], len(scale)),
)
