"""Operators of torch that launch a Triton kernel: ``torch.ops.fairseq_mega.*``, so that counters
and the meta device know them. Kernels are imported, and Triton with them, when one first runs."""

from contextlib import nullcontext
from functools import cache, wraps
from importlib import import_module
from importlib.util import find_spec
from typing import Callable, ContextManager, Optional

import torch
from torch import Tensor
from torch.torch_version import TorchVersion


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

    What comes back takes the way through torch for the meta device, other kinds of tensors, and
    compilers. Else the function is called: torch's dispatcher takes the host longer than a launch.
    """

    def make(function: Callable) -> Callable:
        name = prefix + function.__name__
        _library.define(f"{name}{torch.library.infer_schema(function, mutates_args=())}")
        for key in ("CPU", "CUDA", "Meta"):  # on a CPU, Triton's interpreter runs them
            _library.impl(name, function, key)
        through_torch = getattr(torch.ops.fairseq_mega, name)

        @wraps(function)
        def call(x: Tensor, *args):
            plain = type(x) in (Tensor, torch.nn.Parameter) and not x.is_meta
            straight = plain and not torch.compiler.is_compiling()
            return (function if straight else through_torch)(x, *args)

        return call

    return make


load = cache(import_module)  # a module of kernels, by its whole name
_nothing = nullcontext()


def on_device_of(x: Tensor) -> ContextManager:
    """A context in which Triton launches on the device of ``x``."""
    if not x.is_cuda or x.get_device() == torch.cuda.current_device():
        return _nothing
    return torch.cuda.device(x.device)


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
