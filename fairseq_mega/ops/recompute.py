"""Less memory for the backward pass: cheap results are recomputed there instead of kept.

``recompute(f, *args)`` runs a pure function and keeps only its arguments. ``recomputed`` wraps the
call of a module: where autograd would keep the module's input ``x`` (for the gradient of a weight),
it keeps the arguments that ``x`` was computed from. Both keep tensors where autograd keeps its own,
so that activation checkpointing around them works as ever.
"""

from contextlib import nullcontext
from typing import Any, Callable, ContextManager, Iterable, List, Optional

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.autograd.graph import saved_tensors_hooks
from torch.utils._pytree import tree_flatten, tree_unflatten


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
    slots = _Slots(args)
    return _Recompute.apply(function, slots, *slots.tensors(args))


def recomputed(x: Tensor, function: Callable, *args) -> ContextManager:
    """A context in which autograd keeps ``args`` wherever it would keep ``x``, ``function(*args)``.

    The gradient of ``x`` itself flows as ever. If ``function`` is a module, its parameters must not
    change between the two passes.
    """
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return nullcontext()
    return _Recomputed(x, function, args)


_SLOT = object()  # where a tensor belongs among other arguments


class _Slots:
    """The arguments of a function without their tensors, those of dropout masks included."""

    def __init__(self, args: Iterable[Any]):
        leaves, self._spec = tree_flatten(list(args))
        self._leaves: List[Any] = [_SLOT if isinstance(a, Tensor) else a for a in leaves]

    @staticmethod
    def tensors(args: Iterable[Any]) -> List[Tensor]:
        return [leaf for leaf in tree_flatten(list(args))[0] if isinstance(leaf, Tensor)]

    def fill(self, tensors: Iterable[Tensor]) -> List[Any]:
        """The arguments, with these tensors."""
        rest = iter(tensors)
        leaves = [next(rest) if leaf is _SLOT else leaf for leaf in self._leaves]
        return tree_unflatten(leaves, self._spec)


def _autocast(device: str) -> ContextManager:
    """Autocast as it is now, to be entered later."""
    if not torch.amp.is_autocast_available(device):
        return nullcontext()
    enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
    return torch.autocast(device, dtype, enabled)


class _Recompute(torch.autograd.Function):
    @staticmethod
    def forward(ctx, function, slots, *tensors):
        ctx.save_for_backward(*tensors)
        ctx.function, ctx.slots = function, slots
        ctx.autocast = _autocast(tensors[0].device.type)
        return function(*slots.fill(tensors))

    @staticmethod
    @once_differentiable
    def backward(ctx, *grads):
        needed = ctx.needs_input_grad[2:]
        with torch.enable_grad(), ctx.autocast:
            saved = zip(ctx.saved_tensors, needed)
            tensors = [t.detach().requires_grad_(need) for t, need in saved]
            outputs = ctx.function(*ctx.slots.fill(tensors))
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        leaves = [t for t in tensors if t.requires_grad]
        found = iter(torch.autograd.grad(outputs, leaves, grads, allow_unused=True))
        return None, None, *(next(found) if need else None for need in needed)


class _Recomputed(saved_tensors_hooks):
    """Knows ``x`` by its memory and version, and forgets it at the end of the context."""

    def __init__(self, x: Tensor, function: Callable, args: Iterable[Any]):
        super().__init__(self._pack, self._unpack)
        # Hooks around this context, such as torch's checkpointing, keep what this one does not.
        outer = torch._C._autograd._top_saved_tensors_default_hooks(True)
        self._keep, self._take = outer or (_itself, _itself)
        self._function, self._slots = function, _Slots(args)
        self._size, self._stride = x.size(), x.stride()
        self._autocast = _autocast(x.device.type)
        tensors = [t.detach() for t in _Slots.tensors(args)]
        # Memory that x shares with others, its own arguments above all, is kept anyway.
        whole = x.untyped_storage().nbytes() == x.numel() * x.element_size()
        own = whole and all(_memory(t) != _memory(x) for t in tensors)
        self._x: Optional[Tensor] = x if own else None
        self._version = x._version
        self._args = [self._keep(t) for t in tensors] if own else []

    def __exit__(self, *args):
        self._x = None
        return super().__exit__(*args)

    def _pack(self, saved: Tensor):
        x = self._x
        if (
            x is None
            or saved.layout != torch.strided
            or saved.dtype != x.dtype
            or x._version != self._version  # a module has changed its input in place
            or _memory(saved) != _memory(x)
        ):
            return False, self._keep(saved.detach())
        return True, (saved.size(), saved.stride(), saved.storage_offset())

    def _unpack(self, packed):
        is_x, saved = packed
        if not is_x:
            return self._take(saved)
        with torch.no_grad(), self._autocast:
            x = self._function(*self._slots.fill(self._take(arg) for arg in self._args))
            if x.stride() != self._stride:
                x = x.new_empty_strided(self._size, self._stride).copy_(x)
        return x.as_strided(*saved)  # the part of x, or the view of it, that was to be kept


def _itself(x: Tensor) -> Tensor:
    return x


def _memory(x: Tensor) -> int:
    """A number that tensors which share their memory have in common."""
    return x.untyped_storage()._cdata
