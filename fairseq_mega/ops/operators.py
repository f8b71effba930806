"""Launches of Triton kernels, and custom operators ``torch.ops.fairseq_mega.*``, which compilers
leave alone. Triton is imported when a kernel first runs."""

from contextlib import nullcontext
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Callable, Optional, Tuple, get_args, get_type_hints

import torch
from torch import Tensor
from torch.torch_version import TorchVersion

# The kernels need tuples of tensors, which came with Triton 3.3 and torch 2.7.
_has_triton = find_spec("triton") is not None and TorchVersion(torch.__version__) >= "2.7"
_library = torch.library.Library("fairseq_mega", "DEF")


def runs_kernels(x: Tensor) -> bool:
    """Whether Triton kernels run on the device of ``x``."""
    return x.is_cuda and _has_triton


def operator(name: str, function: Callable, shapes: Callable) -> Any:
    """Registers an annotated function as ``torch.ops.fairseq_mega.{name}``. Compilers call
    ``shapes`` instead, on tensors without values."""
    _library.define(f"{name}{torch.library.infer_schema(function, mutates_args=())}")
    for key in ("CPU", "MkldnnCPU", "CUDA"):  # MkldnnCPU: with a weight packed for oneDNN
        _library.impl(name, function, key)
    torch.library.register_fake(f"fairseq_mega::{name}", shapes, lib=_library)
    return getattr(torch.ops.fairseq_mega, name)


def differentiable_operator(name: str, forward: Callable, backward: Callable) -> Any:
    """Registers annotated functions as ``{name}`` and ``{name}_backward``.

    ``forward`` takes tensors, masks and sizes, in this order; its result is like the first.
    ``backward`` also takes the gradient; its results are like the tensors that have gradients.
    """
    run = operator(name, forward, lambda x, *_: like(x))
    outputs = len(get_args(get_type_hints(backward)["return"]))
    gradients = operator(
        f"{name}_backward", backward, lambda _, *given: tuple(map(like, given[:outputs]))
    )

    def keep(ctx, inputs, output):
        tensors = [x for x in inputs if x is None or isinstance(x, Tensor)]
        ctx.save_for_backward(*tensors)
        ctx.sizes = inputs[len(tensors) :]

    def differentiate(ctx, grad):
        inputs = *ctx.saved_tensors, *ctx.sizes
        return *gradients(grad, *inputs), *[None] * (len(inputs) - outputs)

    torch.library.register_autograd(f"fairseq_mega::{name}", differentiate, setup_context=keep)
    return run


def like(x: Tensor, dtype: Optional[torch.dtype] = None) -> Tensor:
    """Uninitialised contiguous memory like ``x``."""
    return torch.empty_like(x, dtype=dtype, memory_format=torch.contiguous_format)


def launch(module: str, kernel: str, x: Tensor, grid: Tuple[int, ...], *args, **constants) -> None:
    """Launches a kernel of a module on the device of ``x``."""
    other = x.is_cuda and x.get_device() != torch.cuda.current_device()
    with torch.cuda.device(x.device) if other else nullcontext():
        getattr(load(module), kernel)[grid](*args, **constants)


load = cache(import_module)


def type_within(*tensors: Tensor) -> Any:
    """Triton's type for computing with these tensors: float64 if one has it, else float32."""
    language = load("triton.language")
    exact = any(t.dtype == torch.float64 for t in tensors)
    return language.float64 if exact else language.float32


def ceil(a: int, b: int) -> int:
    """``a / b``, rounded up."""
    return -(-a // b)


def power_of_two(n: int) -> int:
    """The smallest of at least ``n``."""
    return 1 << (n - 1).bit_length()


def as_bytes(mask: Optional[Tensor], other: Tensor) -> Tensor:
    """A mask as Triton reads it; without a mask, a pointer that kernels do not read."""
    return other if mask is None else mask.view(torch.uint8)


def channels_together(x: Tensor) -> Tensor:
    """``x`` with the channels of a position next to each other in memory."""
    return x if x.stride(-1) == 1 else x.contiguous()
