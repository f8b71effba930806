"""How Triton kernels are launched, and operators of torch of our own, ``torch.ops.fairseq_mega.*``,
which compilers leave alone. The kernels are imported, and Triton, when one first runs."""

from contextlib import nullcontext
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Callable, Optional, Tuple, get_args, get_type_hints

import torch
from torch import Tensor
from torch.torch_version import TorchVersion

# Triton 3.3, which comes with torch 2.7: before, kernels had no tuples of tensors.
_has_triton = find_spec("triton") is not None and TorchVersion(torch.__version__) >= "2.7"
_library = torch.library.Library("fairseq_mega", "DEF")


def runs_kernels(x: Tensor) -> bool:
    """Whether Triton kernels run on the device of ``x``."""
    return x.is_cuda and _has_triton


def operator(name: str, function: Callable, shapes: Callable) -> Any:
    """Registers an annotated function as ``torch.ops.fairseq_mega.{name}``.

    Args:
        shapes: the function on tensors without values, for compilers.
    """
    _library.define(f"{name}{torch.library.infer_schema(function, mutates_args=())}")
    for key in ("CPU", "MkldnnCPU", "CUDA"):  # MkldnnCPU: with a weight packed for oneDNN
        _library.impl(name, function, key)
    torch.library.register_fake(f"fairseq_mega::{name}", shapes, lib=_library)
    return getattr(torch.ops.fairseq_mega, name)


def differentiable_operator(name: str, forward: Callable, backward: Callable) -> Any:
    """Registers an annotated ``forward``, and ``backward`` as ``{name}_backward``.

    Args:
        forward: of tensors, masks and sizes, in this order; its result is like the first.
        backward: of the gradient and the same; its results are like the first tensors, all that
            have gradients.
    """
    run = operator(name, forward, lambda x, *_: _like(x))
    outputs = len(get_args(get_type_hints(backward)["return"]))
    gradients = operator(
        f"{name}_backward", backward, lambda _, *given: tuple(map(_like, given[:outputs]))
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


def _like(x: Tensor) -> Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def launch(module: str, kernel: str, x: Tensor, grid: Tuple[int, ...], *args, **constants) -> None:
    """Launches a kernel of a module on the device of ``x``."""
    other = x.is_cuda and x.get_device() != torch.cuda.current_device()
    with torch.cuda.device(x.device) if other else nullcontext():
        getattr(load(module), kernel)[grid](*args, **constants)


load = cache(import_module)


def type_within(*tensors: Tensor) -> Any:
    """Triton's type that kernels of these tensors compute in: float64 if one has it, or float32."""
    language = load("triton.language")
    exact = any(t.dtype == torch.float64 for t in tensors)
    return language.float64 if exact else language.float32


def ceil(a: int, b: int) -> int:
    """``a / b``, rounded up."""
    return -(-a // b)


def power_of_two(n: int) -> int:
    """The next from ``n`` on."""
    return 1 << (n - 1).bit_length()


def as_bytes(mask: Optional[Tensor], other: Tensor) -> Tensor:
    """A mask as Triton reads it; if there is none, the pointer of another tensor, which a kernel
    does not read."""
    return other if mask is None else mask.view(torch.uint8)


def channels_together(x: Tensor) -> Tensor:
    """``x`` with the channels of a position next to each other in memory."""
    return x if x.stride(-1) == 1 else x.contiguous()
