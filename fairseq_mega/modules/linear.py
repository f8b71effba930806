"""Linear layers: with the published initialisation, and fast with few rows."""

import copy
from typing import Callable, Dict, Optional, Sequence

import torch
import torch.nn.functional as F
from fairseq.incremental_decoding_utils import with_incremental_state
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

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


def split_linear(
    x: Tensor, linear: nn.Linear, sizes: Sequence[int], prepare: Callable[[Tensor], Tensor]
) -> Sequence[Tensor]:
    """The parts of ``linear(prepare(x))``, ``(..., size)`` for each size.

    A product for each part costs the same as one for all, and leaves none to be cut out of a wide
    result, or put together again in the backward pass. For that ``x`` is kept and prepared again
    (except under autocast): ``prepare`` must be cheap, and give the same in every call.
    """
    if torch.is_grad_enabled() and not torch.is_autocast_enabled(x.device.type):
        return _SplitLinear.apply(x, linear.weight, linear.bias, sizes, prepare)
    parts = zip(linear.weight.split(sizes), linear.bias.split(sizes))
    x = prepare(x)
    return [F.linear(x, weight, bias) for weight, bias in parts]


class _SplitLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, sizes, prepare):
        ctx.save_for_backward(x, weight)
        ctx.sizes, ctx.prepare = sizes, prepare
        x = prepare(x)
        return tuple(F.linear(x, w, b) for w, b in zip(weight.split(sizes), bias.split(sizes)))

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads):
        raw, weight = ctx.saved_tensors
        raw = raw.detach().requires_grad_()
        with torch.enable_grad():
            prepared = ctx.prepare(raw)
        rows = prepared.detach().flatten(0, -2)
        grads = [grad.flatten(0, -2) for grad in grads]
        grad_rows, grad_weight = torch.zeros_like(rows), torch.empty_like(weight)
        for grad, w, grad_w in zip(grads, weight.split(ctx.sizes), grad_weight.split(ctx.sizes)):
            grad_rows.addmm_(grad, w)
            torch.mm(grad.t(), rows, out=grad_w)
        (grad_x,) = torch.autograd.grad(prepared, raw, grad_rows.view_as(prepared))
        grad_bias = torch.cat([grad.sum(0) for grad in grads])
        return grad_x, grad_weight, grad_bias, None, None


def make_linear(in_features: int, out_features: int) -> Linear:
    """A linear layer with weights ``~ N(0, 0.02^2)`` and biases 0."""
    linear = Linear(in_features, out_features)
    nn.init.normal_(linear.weight, std=INIT_STD)
    nn.init.zeros_(linear.bias)
    return linear
