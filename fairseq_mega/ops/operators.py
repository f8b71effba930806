"""Operators of torch of our own, ``torch.ops.fairseq_mega.*``, so that counters, compilers and the
meta device know them. Triton's kernels are imported, and Triton, when one first runs."""

from contextlib import nullcontext
from functools import cache, wraps
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Callable, Optional, Tuple

import torch
from torch import Tensor
from torch.torch_version import TorchVersion
from torch.utils._python_dispatch import _get_current_dispatch_mode


def has_triton() -> bool:
    """Whether there is a Triton that knows the kernels' language: 3.3, which comes with torch 2.7;
    before, kernels had no tuples of blocks."""
    return find_spec("triton") is not None and TorchVersion(torch.__version__) >= "2.7"


_has_triton = has_triton()
_library = torch.library.Library("fairseq_mega", "DEF")


def runs_kernels(x: Tensor) -> bool:
    """Whether kernels run on the device of ``x``; the meta device is taken for a GPU."""
    return _has_triton and x.device.type in ("cuda", "meta")


def operator(prefix: str) -> Callable[[Callable], Callable]:
    """Makes an operator ``{prefix}_{name}`` of an annotated function ``_name``: one launch.

    The decorated function goes through torch to the operator where a compiler or a counter looks
    on, and where its first argument is of the meta device or no plain tensor. Else it calls the
    function at once, which saves the host the time of torch's dispatcher.
    """

    def make(function: Callable) -> Callable:
        name = prefix + function.__name__
        _library.define(f"{name}{torch.library.infer_schema(function, mutates_args=())}")
        # On a CPU, Triton's interpreter runs kernels. MkldnnCPU: with a weight packed for oneDNN.
        for key in ("CPU", "MkldnnCPU", "CUDA", "Meta"):
            _library.impl(name, function, key)
        through_torch = getattr(torch.ops.fairseq_mega, name)

        @wraps(function)
        def call(x: Tensor, *args):
            plain = type(x) in (Tensor, torch.nn.Parameter) and not x.is_meta
            watched = torch.compiler.is_compiling() or _get_current_dispatch_mode() is not None
            return (function if plain and not watched else through_torch)(x, *args)

        return call

    return make


def launch(module: str, kernel: str, x: Tensor, grid: Tuple[int, ...], *args, **constants) -> None:
    """Launches a kernel of a module on the device of ``x``; on the meta device, none."""
    if x.is_meta:
        return
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
