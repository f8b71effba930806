"""Compiles the kernels of the EMA for a GPU, as they are launched, on a machine without one.

Prints the name of each, and how many of its instructions wait for other threads.
"""

import inspect
import re

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime import JITFunction

from fairseq_mega.modules import MultiHeadEMA
from fairseq_mega.ops.ema import fused_ema

TARGET = GPUTarget("cuda", 80, 32)
TYPES = {torch.float32: "*fp32", torch.bfloat16: "*bf16"}


def type_of(value):
    return TYPES[value.dtype] if isinstance(value, torch.Tensor) else "i32"


def is_multiple(value):
    """Of 16, which a launch tells the compiler; so are all pointers to new tensors."""
    return isinstance(value, torch.Tensor) or value % 16 == 0


def compile_kernel(kernel, args, kwargs):
    warps = kwargs.pop("num_warps")
    given = inspect.signature(kernel.fn).bind(*args, **kwargs).arguments
    constants = {p.name: given[p.name] for p in kernel.params if p.is_constexpr}
    types = {name: type_of(value) for name, value in given.items()}
    types.update(dict.fromkeys(constants, "constexpr"))
    attributes = {
        (i,): [["tt.divisibility", 16]]
        for i, (parameter, value) in enumerate(zip(kernel.params, given.values()))
        if parameter.name not in constants and is_multiple(value)
        if not parameter.do_not_specialize
    }
    source = ASTSource(kernel, types, constants, attributes)
    return triton.compile(source, target=TARGET, options={"num_warps": warps})


def launch(kernel, grid):
    def compile_once(*args, **kwargs):
        key = kernel.fn.__name__, str({**kwargs, "type": args[0].dtype})
        if key not in compiled:
            compiled[key] = compile_kernel(kernel, args, kwargs)
            waits = re.findall(r"\b(?:shfl|bar)\.", compiled[key].asm["ptx"])
            print(kernel.fn.__name__, len(waits), flush=True)

    return compile_once


compiled = {}
JITFunction.__getitem__ = launch
module = MultiHeadEMA(32, 16)
for taps in (None, 300):
    for reverse in (False, True):
        x = torch.zeros(1, 1024, 32, dtype=torch.bfloat16, requires_grad=True)
        (coefficients,) = module.directions()
        fused_ema(x, coefficients, None, taps, reverse).sum().backward()
