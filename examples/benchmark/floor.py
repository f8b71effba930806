"""The floor: matrix products and FFTs alone.

``record`` notes the shapes and memory layouts of all that a function runs, forward and backward;
``Replay`` runs the same products and FFTs on other numbers, and nothing else.
"""

from functools import partial
from typing import Callable, Dict, List, NamedTuple, Optional, Tuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from fairseq_mega.ops.ema.fft import fast_length

aten = torch.ops.aten
PRODUCTS = {aten.mm, aten.addmm, aten.bmm, aten.baddbmm}
IN_PLACE = {aten.addmm_: aten.addmm, aten.baddbmm_: aten.baddbmm}
FFTS = {aten._fft_r2c, aten._fft_c2r, aten._fft_c2c}
FUSED = {
    aten._scaled_dot_product_flash_attention_for_cpu,
    aten._scaled_dot_product_flash_attention,
    aten._scaled_dot_product_efficient_attention,
}
FUSED_BACKWARD = {
    aten._scaled_dot_product_flash_attention_for_cpu_backward,
    aten._scaled_dot_product_flash_attention_backward,
    aten._scaled_dot_product_efficient_attention_backward,
}


class record(TorchDispatchMode):  # noqa: N801 - a context manager
    """Collects in ``calls`` the products and FFTs that run inside it."""

    def __init__(self):
        super().__init__()
        self.calls: List[Tuple] = []  # operator, arguments, keywords, output (None: the first)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        op = func.overloadpacket
        if op in FUSED:
            self._fused(*args[:3], backward=False)
        elif op in FUSED_BACKWARD:
            self._fused(*args[1:4], backward=True)
        elif op in PRODUCTS | FFTS or op in IN_PLACE:
            kwargs = {name: value for name, value in kwargs.items() if name != "out"}
            layouts = tuple(_Layout.of(a) if isinstance(a, Tensor) else a for a in args)
            target = None if op in IN_PLACE else _Layout.of(out)
            self.calls.append((IN_PLACE.get(op, op), layouts, kwargs, target))
        return out

    def _fused(self, q: Tensor, k: Tensor, v: Tensor, backward: bool) -> None:
        """The products of fused attention, forward two and backward four, as if not fused."""
        batch = q.shape[:-2].numel()
        L, S, Z, H = q.size(-2), k.size(-2), q.size(-1), v.size(-1)
        shapes = [(L, Z, S), (L, S, H)]
        if backward:
            shapes = [(L, H, S), (S, L, H), (L, S, Z), (S, L, Z)]
        for rows, inner, columns in shapes:
            left, right, out = (
                _Layout((batch, *shape), (shape[0] * shape[1], shape[1], 1), q.dtype, q.device)
                for shape in ((rows, inner), (inner, columns), (rows, columns))
            )
            self.calls.append((aten.bmm, (left, right), {}, out))


class _Layout(NamedTuple):
    shape: Tuple[int, ...]
    stride: Tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @staticmethod
    def of(x: Tensor) -> "_Layout":
        return _Layout(tuple(x.shape), x.stride(), x.dtype, x.device)

    def make(self) -> Tensor:
        numbers = 1 + sum((size - 1) * step for size, step in zip(self.shape, self.stride))
        made = torch.randn(numbers, dtype=self.dtype, device=self.device)
        return made.as_strided(self.shape, self.stride)


class Replay:
    """Runs recorded calls; tensors of equal layout are made once and used again."""

    def __init__(self, calls: List[Tuple]):
        made: Dict[Tuple, Tensor] = {}

        def tensor(layout: _Layout, place) -> Tensor:
            if (layout, place) not in made:
                made[layout, place] = layout.make()
            return made[layout, place]

        self.calls: List[Callable] = []
        for op, args, kwargs, out in calls:
            args = [tensor(a, i) if isinstance(a, _Layout) else a for i, a in enumerate(args)]
            if op in PRODUCTS:  # an FFT into a given tensor would cost another copy
                kwargs = {**kwargs, "out": args[0] if out is None else tensor(out, "out")}
                op = op.out
            self.calls.append(partial(op, *args, **kwargs))

    @torch.no_grad()
    def __call__(self, _: int = 0) -> None:
        for call in self.calls:
            call()


def ema_floor(
    channels: int, batch: int, length: int, taps: Optional[int], device: torch.device
) -> Callable:
    """The FFTs of a convolution at the smallest length that holds it, with their backward pass:
    of input, kernel and gradient, and back to output and both gradients.

    Args:
        taps: of a truncated kernel; None for as many as positions.
    """
    n = fast_length(length + min(length, taps or length) - 1)
    x, kernel = (torch.randn(*size, n, device=device) for size in ((channels, batch), (channels,)))
    x_f, kernel_f = torch.fft.rfft(x), torch.fft.rfft(kernel)

    def ffts(_: int = 0) -> None:
        torch.fft.rfft(x)
        torch.fft.rfft(kernel)
        torch.fft.irfft(x_f, n=n)
        torch.fft.rfft(x)
        torch.fft.irfft(x_f, n=n)
        torch.fft.irfft(kernel_f, n=n)

    return ffts
