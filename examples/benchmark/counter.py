"""Counts what a GPU would do, without one.

Tensors are on torch's meta device: they have shapes and types, and no numbers, and code that asks
whether it runs on a CPU is told that it does not. Whole numbers and booleans (tokens, masks) are
computed beside them, so that what is read on the host, and the shapes that follow, are true.
"""

import math
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import flop_registry
from torch.utils.weak import WeakTensorKeyDictionary

aten = torch.ops.aten
HALF = (torch.float16, torch.bfloat16)
# Nothing is launched for new names of numbers that are there, nor for memory without numbers.
METADATA = {"_unsafe_view", "_reshape_alias", "lift_fresh", "empty", "empty_like", "empty_strided"}
METADATA |= {"new_empty", "new_empty_strided", "resize_", "set_", "is_same_size", "sym_size"}
# Of these only the chosen rows are read, or written.
GATHERS = {"embedding", "index_select", "gather", "index"}
SCATTERS = {"index_put_", "index_put", "_index_put_impl_", "index_add_", "scatter_", "scatter_add_"}
OVERWRITES = {"copy_", "zero_", "fill_", "bernoulli_", "random_", "uniform_", "normal_"}
ACCUMULATES = {"addmm", "baddbmm"}  # a tensor and a product
FFTS = {"_fft_r2c", "_fft_c2r", "_fft_c2c"}
FLASH = "_scaled_dot_product_flash_attention"


@dataclass
class Launch:
    name: str
    read: int  # bytes
    written: int
    kind: str  # "half", "float32" or "FFT": what its operations are
    operations: float = 0.0


@dataclass
class Counts:
    launches: List[Launch] = field(default_factory=list)
    waits: List[str] = field(default_factory=list)
    peak: int = 0  # bytes of tensors that are live together, those from before included

    @property
    def bytes(self) -> int:
        return sum(launch.read + launch.written for launch in self.launches)

    def operations(self, kind: str) -> float:
        return sum(launch.operations for launch in self.launches if launch.kind == kind)

    def by_name(self) -> Dict[str, Tuple[int, int]]:
        """Launches and bytes of each operator, most bytes first."""
        found: Dict[str, List[int]] = defaultdict(lambda: [0, 0])
        for launch in self.launches:
            found[launch.name][0] += 1
            found[launch.name][1] += launch.read + launch.written
        return {name: (n, b) for name, (n, b) in sorted(found.items(), key=lambda i: -i[1][1])}


class Counter(TorchDispatchMode):
    """Fills ``counts`` with what runs inside it on meta tensors; ``start`` begins anew."""

    def __init__(self) -> None:
        super().__init__()
        self.counts = Counts()
        self._values = WeakTensorKeyDictionary()  # of whole numbers and booleans
        self._memory: Dict[int, Tuple[StorageWeakRef, int]] = {}
        self._live = 0  # at most
        self._functions = _AsOnGPU(self)

    def __enter__(self):
        self._functions.__enter__()
        return super().__enter__()

    def __exit__(self, *args):
        super().__exit__(*args)
        self._functions.__exit__(*args)

    def start(self) -> None:
        self.counts = Counts()
        self._hold()
        self.counts.peak = self._live

    def on_device(self, x: Tensor) -> Tensor:
        """A tensor of the host on the device; its whole numbers go on being known."""
        moved = torch.empty_like(x, device="meta")
        self._values[moved] = x.clone()
        return moved

    def read(self, x: Tensor, name: str) -> Tensor:
        """The numbers of ``x`` on the host: a wait. Ones where they are not known."""
        self.counts.waits.append(name)
        known = self._values.get(x)
        return torch.ones(x.shape, dtype=x.dtype, device="cpu") if known is None else known

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        on_device = any(t.device.type == "meta" for t in _tensors((args, kwargs)))
        if name == "_local_scalar_dense" and on_device:
            return self.read(args[0], "item").item()
        if name == "_to_copy" and on_device and str(kwargs.get("device", "meta")) == "cpu":
            return self.read(args[0], "to the host").to(kwargs.get("dtype") or args[0].dtype)
        if name == "nonzero" and on_device:
            return self._nonzero(args[0])
        if name in GATHERS | SCATTERS:
            args = self._without_masks(name, args)
        out = func(*args, **kwargs)
        if any(t.device.type == "meta" for t in _tensors(out)):
            self._know(func, args, kwargs, out)
            if not func.is_view and name not in METADATA:
                self._launched(func, args, kwargs, out)
            self._occupied(out)
        return out

    def _without_masks(self, name: str, args) -> Tuple:
        """Boolean indices as the whole numbers that a device looks up first: a wait. One number
        for all that are chosen is filled in without."""
        if not isinstance(args[1], (list, tuple)):
            return args
        masks = [i for i in args[1] if i is not None and i.dtype == torch.bool]
        if not masks or (name in SCATTERS and args[2].numel() == 1):
            return args
        indices: List[Optional[Tensor]] = []
        for index in args[1]:
            if index is None or index.dtype != torch.bool:
                indices.append(index)
            else:
                indices += self._columns(index)
        return args[0], indices, *args[2:]

    def _nonzero(self, x: Tensor) -> Tensor:
        found = self.on_device(self.read(x, "nonzero").nonzero())
        self.counts.launches.append(Launch("nonzero", _bytes(x), _bytes(found), "float32"))
        return found

    def _columns(self, mask: Tensor) -> List[Tensor]:
        """The indices of what a mask chooses, a tensor for each of its dimensions."""
        return [self.on_device(i) for i in self._values[self._nonzero(mask)].unbind(1)]

    def _know(self, func, args, kwargs, out) -> None:
        """Computes whole numbers and booleans from others, where all of them are known."""
        outputs, inputs = _tensors(out), _tensors((args, kwargs))
        if any(t.is_floating_point() or t.is_complex() for t in outputs):
            return
        if any(t.device.type == "meta" and t not in self._values for t in inputs):
            return
        if not inputs and func.overloadpacket.__name__ in METADATA:
            return

        def on_host(value: Any) -> Any:
            if isinstance(value, Tensor):
                return self._values[value] if value.device.type == "meta" else value
            return torch.device("cpu") if isinstance(value, torch.device) else value

        known = func(*tree_map(on_host, args), **tree_map(on_host, kwargs))
        for tensor, value in zip(outputs, _tensors(known)):
            self._values[tensor] = value

    def _launched(self, func, args, kwargs, out) -> None:
        name = func.overloadpacket.__name__
        read, written = _traffic(func, args, kwargs, out)
        if name in ACCUMULATES and not (name == "addmm" and args[0].dim() == 1):
            # The product is added to a copy of the tensor. A bias alone is added on the way.
            copied = _bytes(out)
            self.counts.launches.append(Launch("copy_", _bytes(args[0]), copied, "float32"))
            read += copied - _bytes(args[0])
        kind, operations = _operations(func, args, kwargs, out)
        self.counts.launches.append(Launch(name, read, written, kind, operations))

    def _occupied(self, out) -> None:
        for tensor in _tensors(out):
            storage = tensor.untyped_storage()
            if storage._cdata not in self._memory or self._memory[storage._cdata][0].expired():
                self._memory[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
                self._live += storage.nbytes()
        if self._live > self.counts.peak:
            self._hold()
            self.counts.peak = max(self.counts.peak, self._live)

    def _hold(self) -> None:
        """Forgets memory that is free again."""
        self._memory = {k: held for k, held in self._memory.items() if not held[0].expired()}
        self._live = sum(size for _, size in self._memory.values())


class _AsOnGPU(TorchFunctionMode):
    """Calls what torch calls on a GPU where the meta device has another way, and reads of lists."""

    def __init__(self, counter: Counter):
        super().__init__()
        self.counter = counter

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if func is F.dropout:
            return _dropout(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            return _fused_attention(*args, **kwargs)
        if func in (Tensor.tolist, Tensor.numpy) and args[0].device.type == "meta":
            return func(self.counter.read(args[0], func.__name__))
        return func(*args, **kwargs)


def _dropout(input, p=0.5, training=True, inplace=False):
    return torch.native_dropout(input, p, True)[0] if training and p > 0 else input


def _fused_attention(query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, **_):
    if attn_mask is None:
        return getattr(aten, FLASH)(query, key, value, dropout_p, is_causal)[0]
    if attn_mask.dtype == torch.bool:
        attn_mask = torch.zeros_like(attn_mask, dtype=query.dtype).masked_fill_(
            attn_mask.logical_not(), -math.inf
        )
    shape = query.shape[:3] + key.shape[2:3]
    bias = attn_mask.expand(shape)
    fused = aten._scaled_dot_product_efficient_attention
    return fused(query, key, value, bias, torch.is_grad_enabled(), dropout_p, is_causal)[0]


def _tensors(tree: Any) -> List[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _bytes(x: Tensor) -> int:
    """Of the numbers that ``x`` shows: those that it repeats (strides of 0, windows) count once."""
    shown = math.prod(n for n, step in zip(x.shape, x.stride()) if step)
    reach = 1 + sum((n - 1) * step for n, step in zip(x.shape, x.stride()))
    return min(shown, reach) * x.element_size() if x.numel() else 0


def _traffic(func, args, kwargs, out) -> Tuple[int, int]:
    """Bytes that are read and written: each argument and each result once."""
    name = func.overloadpacket.__name__
    schema = func._schema.arguments
    given = [*zip(schema, args), *((a, kwargs[a.name]) for a in schema if a.name in kwargs)]
    if name in GATHERS:
        chosen = _bytes(out)
        indices = [t for t in _tensors((args, kwargs)) if not t.is_floating_point()]
        return chosen + sum(_bytes(t) for t in indices), chosen
    if name in SCATTERS:
        moved = sum(_bytes(t) for t in _tensors([args[1:], kwargs]))
        return moved, _bytes(_tensors(args[1:])[-1])
    changed = [t for a, v in given if a.alias_info and a.alias_info.is_write for t in _tensors(v)]
    unread = name.endswith("_like") or name.startswith("new_")  # shapes and types alone
    inputs = [t for a, v in given if not (a.alias_info or unread) for t in _tensors(v)]
    new = [] if changed else _tensors(out)
    read = sum(_bytes(t) for t in inputs if t.device.type == "meta")
    if changed and name not in OVERWRITES and func._overloadname != "out":
        read += sum(_bytes(t) for t in changed)
    return read, sum(_bytes(t) for t in changed + new)


def _operations(func, args, kwargs, out) -> Tuple[str, float]:
    """Their kind, and additions and multiplications of products and FFTs; all else takes as long as
    its memory."""
    packet = func.overloadpacket
    name = packet.__name__
    floats = [t for t in _tensors((args, kwargs)) if t.is_floating_point()]
    kind = "half" if floats and floats[0].dtype in HALF else "float32"
    if name in FFTS:
        real = args[0] if name == "_fft_r2c" else out
        n = real.size(args[1][-1])
        return "FFT", 2.5 * real.numel() * math.log2(max(n, 2))
    if func.namespace == "fairseq_mega":
        return "float32", _ema_operations(name, args)
    if packet in flop_registry:
        causal = name.startswith(FLASH) and any(a is True for a in args)
        operations = flop_registry[packet](*args, **kwargs, out_val=out)
        return kind, operations / 2 if causal else operations  # half the tiles are not computed
    return kind, 0.0


def _ema_operations(name: str, args) -> float:
    """Of the fused EMA: for each input and state, the multiplications and additions."""
    each = {"ema_segment_states": (6, 4), "ema_scan": (5, 3), "ema_gradients": (10, 4)}
    if name not in each:  # of coefficients and states, which are few
        return 0.0
    x, log_decay, delay = args[0], args[2 if name == "ema_segment_states" else 3], args[-2]
    states = log_decay.numel() // x.size(2)  # of all directions
    operations, delayed = each[name]
    return float(x.numel() * states * (operations + delayed * (delay > 0)))
