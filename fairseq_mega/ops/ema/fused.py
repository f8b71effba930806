"""The EMA on a GPU: ``naive.ema_recurrence`` in Triton kernels that hold the state.

The kernels are operators of torch, ``torch.ops.fairseq_mega.ema_*``, so that profilers, counters
and the meta device know them; they load Triton when they first run. Where sequences and channels
are too few for all of a GPU, a sequence is cut in segments: their states, the recurrence between
them, and then all of their outputs at once.
"""

from importlib.util import find_spec
from typing import NamedTuple, Optional, Tuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .coefficients import EMACoefficients

# Channels of a program, a thread of its one warp each, and positions that are read at once.
CHANNELS, ROWS = 32, 8
# An H100 or H200, of 132 multiprocessors, is kept busy by so many programs of one warp. Shorter
# segments would read more states than inputs.
PROGRAMS, LEAST_SEGMENT = 2048, 64

_has_triton = find_spec("triton") is not None


def is_available(x: Tensor) -> bool:
    """Whether the kernels run on the device of ``x``; the meta device is taken for a GPU."""
    return _has_triton and x.device.type in ("cuda", "meta")


class Scan(NamedTuple):
    """How a sequence is gone through."""

    segment: int  # positions of a segment: a multiple of ROWS
    delay: int  # taps of a truncated kernel; 0 for all
    reverse: bool

    @classmethod
    def of(cls, x: Tensor, delay: int = 0, reverse: bool = False) -> "Scan":
        batch, length, channels = x.shape
        programs = batch * _ceil(channels, CHANNELS)
        segments = max(1, min(_ceil(PROGRAMS, programs), length // LEAST_SEGMENT))
        return cls(ROWS * _ceil(_ceil(length, segments), ROWS), delay, reverse)


def fused_ema(
    x: Tensor,
    coefficients: EMACoefficients,
    omega: Optional[Tensor] = None,
    truncation: Optional[int] = None,
    reverse: bool = False,
) -> Tensor:
    """``naive.ema_recurrence`` of ``x (B, L, D)`` from zero, or ``reverse``, from the end; with
    truncated kernels ``naive.ema_convolution``. ``omega (D,)`` adds ``omega x``.

    Returns:
        ``(B, L, D)`` in the type of ``x``. All within is in that of the coefficients.
    """
    delay = truncation if truncation is not None and truncation < x.size(1) else 0
    log_decay, input_weight, output_weight = coefficients
    scan = Scan.of(x, delay, reverse)
    return _FusedEMA.apply(x, log_decay, input_weight * output_weight, omega, scan)


@torch.no_grad()
def fused_segment(x: Tensor, coefficients: EMACoefficients, h: Tensor) -> Tuple[Tensor, Tensor]:
    """``naive.ema_recurrence`` of ``x (B, L, D)`` from ``h (B, D, N)`` on, without gradients."""
    log_decay, input_weight, output_weight = (c.t().contiguous() for c in coefficients)
    scan, x, decay = Scan.of(x), _rows(x), torch.expm1(log_decay)
    ends = _ops.ema_segment_states(x, log_decay, decay, *scan)
    u = _ops.ema_join_segments(ends, log_decay, x.size(1), scan.segment)[0]  # (B, S + 1, N, D)
    read = torch.arange(u.size(1), device=x.device).mul_(scan.segment).clamp_(max=x.size(1))
    before = torch.exp(read.view(-1, 1, 1) * log_decay) * h.transpose(1, 2).unsqueeze(1)
    h = u * input_weight + before
    weight, starts = input_weight * output_weight, h[:, :-1] * output_weight
    y = _ops.ema_scan(x, log_decay, decay, weight, None, starts, *scan)
    return y, h[:, -1].transpose(1, 2).contiguous()


class _FusedEMA(torch.autograd.Function):
    """Keeps ``x`` and the states between segments. Inside, coefficients are ``(N, D)``."""

    @staticmethod
    def forward(ctx, x, log_decay, weight, omega, scan):
        x, log_decay, weight = _rows(x), log_decay.t().contiguous(), weight.t().contiguous()
        decay = torch.expm1(log_decay)
        states = _states(x, log_decay, decay, scan)
        ctx.save_for_backward(x, log_decay, decay, weight, omega, states)
        ctx.scan = scan
        starts = _starts(states, weight)
        return _ops.ema_scan(x, log_decay, decay, weight, omega, starts, *scan)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_y):
        x, log_decay, decay, weight, omega, states = ctx.saved_tensors
        grad_y, scan = _rows(grad_y), ctx.scan
        back = scan._replace(reverse=not scan.reverse)
        starts = _starts(_states(grad_y, log_decay, decay, back), weight)
        grad_x = _ops.ema_scan(grad_y, log_decay, decay, weight, omega, starts, *back)
        sums = _ops.ema_gradients(x, grad_y, log_decay, decay, states, *scan)
        grad_u, grad_v, grad_omega = (each.sum((0, 1)) for each in sums)
        grad_omega = None if omega is None else grad_omega
        return grad_x, (weight * grad_v).t(), grad_u.t(), grad_omega, None


def _states(x: Tensor, log_decay: Tensor, decay: Tensor, scan: Scan) -> Optional[Tensor]:
    """The states ``u, v`` before each segment and after the last, ``(2, B, S + 1, N, D)``; None of
    one segment."""
    if x.size(1) <= scan.segment:
        return None
    ends = _ops.ema_segment_states(x, log_decay, decay, *scan)
    return _ops.ema_join_segments(ends, log_decay, x.size(1), scan.segment)


def _starts(states: Optional[Tensor], weight: Tensor) -> Optional[Tensor]:
    """The weighted states before each segment."""
    return None if states is None else states[0, :, :-1] * weight


def _rows(x: Tensor) -> Tensor:
    """With channels next to each other."""
    return x if x.stride(-1) == 1 else x.contiguous()


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


# --- the operators: each is one launch ------------------------------------------------------------


def _launch(kernel: str, x: Tensor, log_decay: Tensor, grid: Tuple[int, ...], *args, **flags):
    if x.device.type == "meta":
        return
    from . import kernels

    ndim, channels = log_decay.shape
    sizes = dict(D=CHANNELS, N=1 << (ndim - 1).bit_length(), num_warps=1)
    with torch.cuda.device_of(x):
        getattr(kernels, kernel)[(_ceil(channels, CHANNELS), *grid)](*args, **flags, **sizes)


def _segment_states(
    x: Tensor, log_decay: Tensor, decay: Tensor, segment: int, delay: int, reverse: bool
) -> Tensor:
    """``u`` and ``v`` at the end of each segment, of its own inputs: ``(2, B, S, N, D)``."""
    batch, length, _ = x.shape
    grid = _ceil(length, segment), batch
    ends = log_decay.new_empty(2, batch, grid[0], *log_decay.shape)
    sizes = length, *log_decay.shape[::-1], segment, delay, *x.stride()[:2]
    flags = dict(REVERSE=reverse, DELAYED=delay > 0, ROWS=ROWS)
    _launch("segment_states", x, log_decay, grid, x, log_decay, decay, *ends, *sizes, **flags)
    return ends


def _join_segments(ends: Tensor, log_decay: Tensor, length: int, segment: int) -> Tensor:
    """The states before each segment and after the last: ``(2, B, S + 1, N, D)``."""
    _, batch, segments, ndim, channels = ends.shape
    states = ends.new_empty(2, batch, segments + 1, ndim, channels)
    sizes = segments, segment, length, channels, ndim
    _launch("join_segments", ends, log_decay, (batch,), *ends, log_decay, *states, *sizes)
    return states


def _scan(
    x: Tensor, log_decay: Tensor, decay: Tensor, weight: Tensor, omega: Optional[Tensor],
    starts: Optional[Tensor], segment: int, delay: int, reverse: bool,
) -> Tensor:  # fmt: skip
    """y ``(B, L, D)``, for the weighted states ``starts (B, S, N, D)`` before the segments."""
    y = torch.empty_like(x)
    grid = _ceil(x.size(1), segment), x.size(0)
    sizes = x.size(1), *log_decay.shape[::-1], segment, delay, *x.stride()[:2], *y.stride()[:2]
    flags = dict(REVERSE=reverse, DELAYED=delay > 0, ROWS=ROWS)
    flags.update(OMEGA=omega is not None, STARTS=starts is not None)
    omega = log_decay if omega is None else omega  # a pointer that is not read
    starts = log_decay if starts is None else starts
    tensors = x, y, log_decay, decay, weight, omega, starts
    _launch("scan", x, log_decay, grid, *tensors, *sizes, **flags)
    return y


def _gradients(
    x: Tensor, grad_y: Tensor, log_decay: Tensor, decay: Tensor, states: Optional[Tensor],
    segment: int, delay: int, reverse: bool,
) -> Tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """By sequence and segment, the sums of gradients times states ``u`` and ``v``, ``(B, S, N, D)``
    each, and times inputs ``(B, S, D)``."""
    grid = _ceil(x.size(1), segment), x.size(0)
    sums = [log_decay.new_empty(grid[1], grid[0], *log_decay.shape) for _ in range(2)]
    sums.append(log_decay.new_empty(grid[1], grid[0], log_decay.size(1)))
    sizes = x.size(1), *log_decay.shape[::-1], segment, delay, *x.stride()[:2], *grad_y.stride()[:2]
    starts = (log_decay, log_decay) if states is None else states  # pointers that are not read
    tensors = x, grad_y, log_decay, decay, *starts, *sums
    flags = dict(REVERSE=reverse, DELAYED=delay > 0, ROWS=ROWS, STARTS=states is not None)
    _launch("gradients", x, log_decay, grid, *tensors, *sizes, **flags)
    return sums[0], sums[1], sums[2]


_library = torch.library.Library("fairseq_mega", "DEF")
_ops = torch.ops.fairseq_mega
for _function in (_segment_states, _join_segments, _scan, _gradients):
    _schema = torch.library.infer_schema(_function, mutates_args=())
    _library.define(f"ema{_function.__name__}{_schema}")
    for _key in ("CPU", "CUDA", "Meta"):  # on a CPU, Triton's interpreter runs them
        _library.impl(f"ema{_function.__name__}", _function, _key)
