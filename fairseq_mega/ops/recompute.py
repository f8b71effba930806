"""Less memory for the backward pass: cheap results are recomputed there instead of kept.

``recompute(f, *args)`` runs a pure function and keeps only its arguments. ``recomputed`` wraps the
call of a module: where autograd would keep the module's input ``x`` (for the gradient of a weight),
it keeps the arguments that ``x`` was computed from. Both keep tensors where autograd keeps its own,
so that activation checkpointing around them works as ever.

Small tensors are kept. On a GPU, to launch what computes them takes the host longer than the GPU,
and a step takes as long as the host. On a CPU they take little memory, and to compute them again
takes time.
"""

from contextlib import nullcontext
from typing import Any, Callable, ContextManager, Iterable, Iterator, List, Optional

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.autograd.graph import saved_tensors_hooks

from .autocast import present_autocast
from .dropout import DropoutMask


def recompute(function: Callable, *args):
    """``function(*args)``, of which only ``args`` are kept for the backward pass.

    Args:
        function: a pure function. Gradients flow to the tensors among ``args``, so it must use no
            other parameters; and it must draw no random numbers.
        args: tensors, dropout masks, and what holds no tensor.

    Returns:
        a tensor or a tuple of tensors, as ``function`` does.
    """
    if not _pays(args) or _keeps_arguments(function, args):
        return function(*args)
    slots = _Slots(args)
    return _Recompute.apply(function, slots, *slots.tensors(args))


def recomputed(x: Tensor, function: Callable, *args) -> ContextManager:
    """A context in which autograd keeps ``args`` wherever it would keep ``x``, ``function(*args)``.

    The gradient of ``x`` itself flows as ever. If ``function`` is a module, its parameters must not
    change between the two passes.
    """
    return _Recomputed(x, function, args) if _pays(args) else nullcontext()


# Tensors of fewer numbers are kept. On a CPU that is 4 MB each in float32: a training step of the
# benchmark's small translation model holds 669 MiB in place of 541.
LEAST_ON_CPU = 2**20
# An H100 reads and writes so many numbers of 16 bits in about the time of a launch, 10 µs.
LEAST_ON_GPU = 2**23


def is_much(numbers: int, device: torch.device) -> bool:
    """Whether a tensor of so many ``numbers`` is rather computed again than kept."""
    return numbers >= (LEAST_ON_CPU if device.type == "cpu" else LEAST_ON_GPU)


def _pays(args: Iterable[Any]) -> bool:
    """Whether to compute again, not to keep: by the largest argument, which is about as large as
    the result. A compiler decides by itself what it keeps."""
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    tensors = _Slots.tensors(args)
    return is_much(max(tensor.numel() for tensor in tensors), tensors[0].device)


def _keeps_arguments(function: Callable, args: Iterable[Any]) -> bool:
    """Whether a function keeps no more than its arguments by itself."""
    return getattr(function, "keeps_arguments", lambda *_: False)(*args)


_SLOT: Any = object()  # where a tensor belongs among other arguments


class _Slots:
    """The arguments of a function without their tensors, those of dropout masks included."""

    def __init__(self, args: Iterable[Any]):
        self._args = [_without_tensor(arg) for arg in args]

    @staticmethod
    def tensors(args: Iterable[Any]) -> List[Tensor]:
        leaves = (arg.keep if isinstance(arg, DropoutMask) else arg for arg in args)
        return [leaf for leaf in leaves if isinstance(leaf, Tensor)]

    def fill(self, tensors: Iterable[Tensor]) -> List[Any]:
        """The arguments, with these tensors."""
        rest = iter(tensors)
        return [_filled(arg, rest) for arg in self._args]


def _without_tensor(arg: Any) -> Any:
    if isinstance(arg, DropoutMask):
        return arg._replace(keep=_SLOT)
    return _SLOT if isinstance(arg, Tensor) else arg


def _filled(arg: Any, tensors: Iterator[Tensor]) -> Any:
    if isinstance(arg, DropoutMask):
        return arg._replace(keep=next(tensors))
    return next(tensors) if arg is _SLOT else arg


class _Recompute(torch.autograd.Function):
    @staticmethod
    def forward(ctx, function, slots, *tensors):
        ctx.save_for_backward(*tensors)
        ctx.function, ctx.slots = function, slots
        ctx.autocast = present_autocast(tensors[0])
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
    """Hooks that know ``x`` as long as the context lasts."""

    def __init__(self, x: Tensor, function: Callable, args: Iterable[Any]):
        # Hooks that were methods of this object would make a reference cycle, whose memory is
        # freed only when the garbage collector runs.
        self._kept = _Kept(x, function, args)
        super().__init__(self._kept.pack, self._kept.unpack)

    def __exit__(self, *args):
        self._kept.x = None
        return super().__exit__(*args)


class _Kept:
    """What autograd keeps in place of ``x``, known by its memory and version."""

    def __init__(self, x: Tensor, function: Callable, args: Iterable[Any]):
        # Hooks around this context, such as torch's checkpointing, keep what this one does not.
        outer = torch._C._autograd._top_saved_tensors_default_hooks(True)
        self._keep, self._take = outer or (_itself, _itself)
        self._function, self._slots = function, _Slots(args)
        self._size, self._stride = x.size(), x.stride()
        self._autocast = present_autocast(x)
        tensors = [t.detach() for t in _Slots.tensors(args)]
        # Memory that x shares with others, its own arguments above all, is kept anyway.
        whole = x.untyped_storage().nbytes() == x.numel() * x.element_size()
        own = whole and all(_memory(t) != _memory(x) for t in tensors)
        self.x: Optional[Tensor] = x if own else None
        self._version = x._version
        self._args = [self._keep(t) for t in tensors] if own else []

    def pack(self, saved: Tensor):
        x = self.x
        if (
            x is None
            or saved.layout != torch.strided
            or saved.dtype != x.dtype
            or x._version != self._version  # a module has changed its input in place
            or _memory(saved) != _memory(x)
        ):
            return False, self._keep(saved.detach())
        return True, (saved.size(), saved.stride(), saved.storage_offset())

    def unpack(self, packed):
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
