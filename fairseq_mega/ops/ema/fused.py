"""The EMA on a GPU: ``blocks``' four steps in Triton kernels that hold matrices and state.

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

from .coefficients import EMACoefficients, kernel_taps

# Positions of a block, channels of a program, and its warps: without any matrix in memory, as the
# compiler reports for N 16.
BLOCK, CHANNELS, WARPS = 16, 16, 8
# A GPU of 132 multiprocessors is busy with PROGRAMS; shorter segments read more states than inputs.
PROGRAMS, LEAST_SEGMENT = 512, 256

_has_triton = find_spec("triton") is not None


def is_available(x: Tensor) -> bool:
    """Whether the kernels run on the device of ``x``; the meta device is taken for a GPU."""
    return _has_triton and x.device.type in ("cuda", "meta") and not torch.compiler.is_compiling()


class Scan(NamedTuple):
    """How a sequence is gone through."""

    segment: int  # positions of a segment: a multiple of BLOCK
    delay: int  # taps of a truncated kernel; 0 for all
    reverse: bool

    @classmethod
    def of(cls, x: Tensor, delay: int = 0, reverse: bool = False) -> "Scan":
        batch, length, channels = x.shape
        programs = batch * _ceil(channels, CHANNELS)
        segments = max(1, min(_ceil(PROGRAMS, programs), length // LEAST_SEGMENT))
        return cls(BLOCK * _ceil(_ceil(length, segments), BLOCK), delay, reverse)


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
    scan = Scan.of(x, delay, reverse)
    taps, delayed = _taps(coefficients, omega, delay)
    log_decay, input_weight, output_weight = coefficients
    return _FusedEMA.apply(x, log_decay, input_weight * output_weight, taps, delayed, scan)


@torch.no_grad()
def fused_segment(x: Tensor, coefficients: EMACoefficients, h: Tensor) -> Tuple[Tensor, Tensor]:
    """``naive.ema_recurrence`` of ``x (B, L, D)`` from ``h (B, D, N)`` on, without gradients."""
    log_decay, input_weight, output_weight = coefficients
    scan, x = Scan.of(x), _rows(x)
    taps, _ = _taps(coefficients, None, 0)
    u = _states(x, log_decay, scan, with_last=True)[0] * input_weight  # (B, S + 1, D, N)
    read = torch.arange(u.size(1), device=x.device).mul_(scan.segment).clamp_(max=x.size(1))
    h = u + torch.exp(read.view(-1, 1, 1) * log_decay) * h.unsqueeze(1)
    weight = input_weight * output_weight
    y = _ops.ema_scan(x, log_decay, weight, taps, None, h[:, :-1] * output_weight, *scan)
    return y, h[:, -1].clone()


def _taps(
    coefficients: EMACoefficients, omega: Optional[Tensor], delay: int
) -> Tuple[Tensor, Optional[Tensor]]:
    """Taps within a block ``(D, BLOCK)``, and those from ``delay`` on if there is one."""
    taps = kernel_taps(coefficients, BLOCK)
    if omega is not None:
        taps = torch.cat([taps[:, :1] + omega.unsqueeze(1), taps[:, 1:]], dim=1)
    if not delay:
        return taps, None
    later = coefficients.input_weight * torch.exp(delay * coefficients.log_decay)
    return taps, kernel_taps(coefficients._replace(input_weight=later), BLOCK)


class _FusedEMA(torch.autograd.Function):
    """Keeps ``x`` and the states between segments."""

    @staticmethod
    def forward(ctx, x, log_decay, weight, taps, delayed, scan):
        x, taps = _rows(x), taps.contiguous()
        delayed = None if delayed is None else delayed.contiguous()
        states = _states(x, log_decay, scan)
        ctx.save_for_backward(x, log_decay, weight, taps, delayed, states)
        ctx.scan = scan
        return _ops.ema_scan(x, log_decay, weight, taps, delayed, states[0, :, :-1] * weight, *scan)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_y):
        x, log_decay, weight, taps, delayed, states = ctx.saved_tensors
        grad_y, scan = _rows(grad_y), ctx.scan
        back = scan._replace(reverse=not scan.reverse)
        starts = _states(grad_y, log_decay, back)[0, :, :-1] * weight
        grad_x = _ops.ema_scan(grad_y, log_decay, weight, taps, delayed, starts, *back)
        grad_taps, grad_uv = _ops.ema_gradients(x, grad_y, log_decay, states, *scan)
        grad_taps, (grad_u, grad_v) = grad_taps.sum((1, 2)), grad_uv.sum((1, 2))
        grad_delayed = None if delayed is None else grad_taps[1]
        return grad_x, weight * grad_v, grad_u, grad_taps[0], grad_delayed, None


def _states(x: Tensor, log_decay: Tensor, scan: Scan, with_last: bool = False) -> Tensor:
    """The states ``u, v`` before each segment and after the last: ``(2, B, S + 1, D, N)``."""
    if x.size(1) <= scan.segment and not with_last:
        return log_decay.new_zeros(2, x.size(0), 2, *log_decay.shape)
    ends = _ops.ema_segment_states(x, log_decay, *scan)
    return _ops.ema_join_segments(ends, log_decay, x.size(1), scan.segment)


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

    channels, ndim = log_decay.shape
    sizes = dict(C=BLOCK, D=CHANNELS, N=1 << (ndim - 1).bit_length())
    with torch.cuda.device_of(x):
        getattr(kernels, kernel)[(_ceil(channels, CHANNELS), *grid)](
            *args, **flags, **sizes, num_warps=WARPS
        )


def _segment_states(
    x: Tensor, log_decay: Tensor, segment: int, delay: int, reverse: bool
) -> Tensor:
    """``u`` and ``v`` at the end of each segment, of its own inputs: ``(2, B, S, D, N)``."""
    batch, length, _ = x.shape
    grid = _ceil(length, segment), batch
    ends = log_decay.new_empty(2, batch, grid[0], *log_decay.shape)
    sizes = length, *log_decay.shape, segment, delay, *x.stride()[:2]
    flags = dict(REVERSE=reverse, DELAYED=delay > 0)
    _launch("segment_states", x, log_decay, grid, x, log_decay, *ends, *sizes, **flags)
    return ends


def _join_segments(ends: Tensor, log_decay: Tensor, length: int, segment: int) -> Tensor:
    """The states before each segment and after the last: ``(2, B, S + 1, D, N)``."""
    _, batch, segments, channels, ndim = ends.shape
    states = ends.new_empty(2, batch, segments + 1, channels, ndim)
    sizes = segments, segment, length, channels, ndim
    _launch("join_segments", ends, log_decay, (batch,), *ends, log_decay, *states, *sizes)
    return states


def _scan(
    x: Tensor, log_decay: Tensor, weight: Tensor, taps: Tensor, delayed: Optional[Tensor],
    starts: Tensor, segment: int, delay: int, reverse: bool,
) -> Tensor:  # fmt: skip
    """y ``(B, L, D)``, for the weighted states ``starts (B, S, D, N)`` before the segments."""
    y = torch.empty_like(x)
    grid = starts.size(1), x.size(0)
    sizes = x.size(1), *log_decay.shape, segment, delay, *x.stride()[:2], *y.stride()[:2]
    tensors = x, y, log_decay, weight, taps, taps if delayed is None else delayed, starts
    flags = dict(REVERSE=reverse, DELAYED=delay > 0)
    _launch("scan", x, log_decay, grid, *tensors, *sizes, **flags)
    return y


def _gradients(
    x: Tensor, grad_y: Tensor, log_decay: Tensor, states: Tensor,
    segment: int, delay: int, reverse: bool,
) -> Tuple[Tensor, Tensor]:  # fmt: skip
    """By sequence and segment: of taps and delayed taps ``(2 or 1, B, S, D, BLOCK)``, and the sums
    ``(2, B, S, D, N)`` that the states ``u`` and ``v`` between blocks give."""
    batch, segments = x.size(0), states.size(2) - 1
    grad_taps = log_decay.new_empty(1 + (delay > 0), batch, segments, len(log_decay), BLOCK)
    grad_uv = log_decay.new_empty(2, batch, segments, *log_decay.shape)
    sizes = x.size(1), *log_decay.shape, segment, delay, *x.stride()[:2], *grad_y.stride()[:2]
    tensors = x, grad_y, log_decay, *states, grad_taps[0], grad_taps[-1], *grad_uv
    flags = dict(REVERSE=reverse, DELAYED=delay > 0)
    _launch("gradients", x, log_decay, (segments, batch), *tensors, *sizes, **flags)
    return grad_taps, grad_uv


_library = torch.library.Library("fairseq_mega", "DEF")
_ops = torch.ops.fairseq_mega
for _function in (_segment_states, _join_segments, _scan, _gradients):
    _schema = torch.library.infer_schema(_function, mutates_args=())
    _library.define(f"ema{_function.__name__}{_schema}")
    for _key in ("CPU", "CUDA", "Meta"):  # on a CPU, Triton's interpreter runs them
        _library.impl(f"ema{_function.__name__}", _function, _key)
