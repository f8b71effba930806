"""The private functions, operators and classes of torch that this package uses, and what to do when
one disappears."""

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.module import _has_any_global_hook

# What both public batch norms inherit. Else: give each of them a `forward` of its own.
BatchNormBase = _BatchNorm

# Whether hooks are registered for all modules. Else: drop the check; calls of modules run them.
has_global_hooks = _has_any_global_hook


def in_backward_pass() -> bool:
    """Whether autograd is running a backward pass, in which activations are recomputed.

    Else: have ``recomputed`` set a flag; activation checkpointing would then count batches twice.
    """
    return not torch.compiler.is_compiling() and torch._C._current_graph_task_id() != -1


# --- oneDNN's products. Else: remove modules/packed.py (the first two) or modules/int8.py (the last
# two) with their callers in models/base.py: generation on a CPU only gets slower.


def pack_weight(weight: Tensor) -> Tensor:
    """A weight ``(out, in)`` in oneDNN's layout."""
    return torch.ops.mkldnn._reorder_linear_weight(weight, None)


def packed_product(x: Tensor, packed: Tensor, bias: Tensor | None) -> Tensor:
    """``x W^T + b`` with a weight of ``pack_weight``."""
    return torch.ops.mkldnn._linear_pointwise(x, packed, bias, "none", [], "")


def pack_int8_weight(weight: Tensor) -> Tensor:
    """An int8 weight ``(out, in)`` in oneDNN's layout."""
    return torch.ops.onednn.qlinear_prepack(weight, None)


def packed_int8_product(x: Tensor, packed: Tensor, scale: Tensor, zero: Tensor) -> Tensor:
    """Int8 ``x (..., in)`` times a weight of ``pack_int8_weight`` and the scales ``(out,)`` of its
    rows, whose offsets are ``zero (out,)``: float32."""
    return torch.ops.onednn.qlinear_pointwise(
        x, 1.0, 0, packed, scale, zero, None, 1.0, 0, torch.float32, "none", [], ""
    )


# --- updates of many tensors in a few kernels, in optim/adam.py. Else: loop over the tensors, as
# fairseq's Adam does, or subclass `torch.optim.AdamW(fused=True)`.

foreach_norm = torch._foreach_norm
foreach_mul_ = torch._foreach_mul_
foreach_add_ = torch._foreach_add_
foreach_copy_ = torch._foreach_copy_
fused_adamw_ = torch._fused_adamw_
