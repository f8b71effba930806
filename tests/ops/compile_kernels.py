"""Compiles all kernels for a GPU, as they are launched, on a machine without one.

Prints the name of each, and how many of its instructions wait for other threads.
"""

import inspect
import itertools
import re

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from triton.runtime import JITFunction

from fairseq_mega.modules import GatedCrossAttention, MovingAverageGatedAttention
from fairseq_mega.ops import operators

TARGET = GPUTarget("cuda", 80, 32)
TYPES = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.uint8: "*u8"}


def type_of(value):
    return TYPES[value.dtype] if isinstance(value, torch.Tensor) else "i32"


def is_multiple(value):
    """A multiple of 16, which a launch tells the compiler; so are all pointers to new tensors."""
    return isinstance(value, torch.Tensor) or value % 16 == 0


def is_constant(parameter, value):
    """Tells whether the compiler knows the value, as it knows a 1."""
    return parameter.is_constexpr or (
        type(value) is int and value == 1 and not parameter.do_not_specialize
    )


def compile_kernel(kernel, args, kwargs):
    warps = kwargs.pop("num_warps", 4)
    given = inspect.signature(kernel.fn).bind(*args, **kwargs).arguments
    constants = {p.name: given[p.name] for p in kernel.params if is_constant(p, given[p.name])}
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


def kind(value):
    """The part of an argument that a kernel is recompiled for."""
    return value.dtype if isinstance(value, torch.Tensor) else value == 1


def launch(kernel, grid):
    def compile_once(*args, **kwargs):
        constants = {name: value for name, value in kwargs.items() if name.isupper()}
        kinds = [kind(value) for value in (*args, *kwargs.values())]
        key = kernel.fn.__name__, str(kinds), str(constants)
        if key not in compiled:
            compiled[key] = compile_kernel(kernel, args, kwargs)
            waits = re.findall(r"\b(?:shfl|bar)\.", compiled[key].asm["ptx"])
            print(kernel.fn.__name__, len(waits), flush=True)

    return compile_once


compiled = {}
JITFunction.__getitem__ = launch
operators.runs_kernels = lambda x: True
CASES = [
    *itertools.product((False, True), (None, 300), (False, True), (0.1,), (torch.bfloat16,)),
    (False, None, False, 0.0, torch.bfloat16),
    (True, None, True, 0.1, torch.float32),
]
for bidirectional, truncation, padded, rate, dtype in CASES:
    layer = MovingAverageGatedAttention(
        32, 16, 64, 16, dropout=rate, chunk_size=256, truncation=truncation, rel_pos_bias="rotary",
        bidirectional=bidirectional,
    ).to(dtype)  # fmt: skip
    x = torch.zeros(2, 1024, 32, dtype=dtype, requires_grad=True)
    padding = torch.zeros(2, 1024, dtype=torch.bool) if padded else None
    layer(x, padding)[0].sum().backward()
for batch, length in ((1, 1024), (2, 1), (1, 1)):
    layer(torch.zeros(batch, length, 32, requires_grad=True))[0].sum().backward()
attention = GatedCrossAttention(32, 16)
attention(x, x)[0].sum().backward()
