"""Less memory for the backward pass: cheap results are recomputed there instead of kept.

Two uses of one idea. ``recompute`` is for what is computed of tensors alone, such as a gate.
``recomputed`` is for what a projection is given: autograd would keep it for the gradient of the
weight, and the projection may be any module, with hooks and adapters, that is called once.
``project`` is both.
"""

from contextlib import nullcontext
from typing import Any, Callable, ContextManager, Iterable, List

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.autograd.graph import saved_tensors_hooks

from .packing import call


def recompute(function: Callable, *args):
    """``function(*args)``, of which only ``args`` are kept for the backward pass.

    Args:
        function: a pure function. Gradients flow to the tensors among ``args``, so it must use no
            other parameters; and it must draw no random numbers: dropout masks are arguments.

    Returns:
        a tensor or a tuple of tensors, as ``function`` does.
    """
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return function(*args)  # a compiler decides by itself what to keep
    tensors = [a for a in args if isinstance(a, Tensor)]
    slots = [_SLOT if isinstance(a, Tensor) else a for a in args]
    return _Recompute.apply(function, slots, *tensors)


def recomputed(x: Tensor, function: Callable, *args) -> ContextManager:
    """A context in which autograd keeps ``args`` wherever it would keep ``x``, ``function(*args)``.

    The gradient of ``x`` itself flows as ever. Modules among what ``function`` uses have the
    parameters of the backward pass then: they must not change between the passes.
    """
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return nullcontext()
    return _Recomputed(x, function, args)


def project(projection: Callable[[Tensor], Tensor], function: Callable, *args) -> Tensor:
    """``projection(function(*args))``, of which only ``args`` are kept for the backward pass."""
    x = recompute(function, *args)
    if not torch.is_grad_enabled():
        return call(projection, x)
    with recomputed(x, function, *args):
        return call(projection, x)


_SLOT = object()  # where a tensor belongs among other arguments


def _fill(slots: List[Any], tensors: Iterable[Tensor]) -> List[Any]:
    rest = iter(tensors)
    return [next(rest) if each is _SLOT else each for each in slots]


def _autocast(device: str) -> ContextManager:
    """Autocast as it is now, to be entered later."""
    enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    return torch.autocast(device, dtype, enabled)


class _Recompute(torch.autograd.Function):
    @staticmethod
    def forward(ctx, function, slots, *tensors):
        ctx.save_for_backward(*tensors)
        ctx.function, ctx.slots = function, slots
        ctx.autocast = _autocast(tensors[0].device.type)
        return function(*_fill(slots, tensors))

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads):
        needed = ctx.needs_input_grad[2:]
        with torch.enable_grad(), ctx.autocast:
            saved = zip(ctx.saved_tensors, needed)
            tensors = [t.detach().requires_grad_(need) for t, need in saved]
            outputs = ctx.function(*_fill(ctx.slots, tensors))
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        leaves = [t for t in tensors if t.requires_grad]
        found = iter(torch.autograd.grad(outputs, leaves, grads, allow_unused=True))
        return None, None, *(next(found) if need else None for need in needed)


class _Recomputed(saved_tensors_hooks):
    """Knows ``x`` by its memory: a reference to it would keep it after all."""

    def __init__(self, x: Tensor, function: Callable, args: Iterable):
        super().__init__(self._pack, self._unpack)
        self._function = function
        self._args = [a.detach() if isinstance(a, Tensor) else a for a in args]
        self._size, self._stride, self._dtype = x.size(), x.stride(), x.dtype
        self._autocast = _autocast(x.device.type)
        storage = x.untyped_storage()
        # Memory that x shares with others, its own arguments above all, is kept anyway.
        shared = storage.nbytes() != x.numel() * x.element_size() or any(
            isinstance(a, Tensor) and _memory(a) == _memory(x) for a in self._args
        )
        self._memory = None if shared else _memory(x)

    def _pack(self, saved: Tensor):
        if _memory(saved) != self._memory or saved.dtype != self._dtype:
            return saved
        return saved.size(), saved.stride(), saved.storage_offset()

    def _unpack(self, saved):
        if isinstance(saved, Tensor):
            return saved
        with torch.no_grad(), self._autocast:
            x = self._function(*self._args)
            if x.stride() != self._stride:
                x = x.new_empty_strided(self._size, self._stride).copy_(x)
        return x.as_strided(*saved)  # the part of x, or the view of it, that was to be kept


def _memory(x: Tensor) -> int:
    """A number that tensors which share their memory have in common."""
    return x.untyped_storage()._cdata
