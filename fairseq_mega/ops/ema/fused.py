"""The EMA on a GPU: ``naive.ema_recurrence`` in Triton kernels that hold the hidden state.

Few sequences are cut in blocks to keep a GPU busy: first the hidden states at their ends, then the
recurrence between blocks, and then all outputs at once.
"""

from typing import Any, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..operators import as_bytes, ceil, channels_together, launch, power_of_two
from .coefficients import EMACoefficients, EMAParameters

KERNELS = f"{__package__}.kernels"
# Channels of a program, one for each thread of its warp, and positions that are read at once.
CHANNELS, ROWS = 32, 8
# Programs that keep an H100 busy. Shorter blocks would read more hidden states than inputs.
PROGRAMS, SHORTEST_BLOCK = 2048, 64


class Scan(NamedTuple):
    """The order in which a sequence is read."""

    block: int  # positions of a block: a multiple of ROWS
    delay: int  # taps of a truncated kernel; 0 for all
    reverse: int  # 1 from the end to the start, else 0

    @classmethod
    def of(cls, x: Tensor, truncation: Optional[int] = None) -> "Scan":
        delay = truncation if truncation is not None and truncation < x.size(1) else 0
        batch, length, channels = x.shape
        programs = batch * ceil(channels, CHANNELS)
        blocks = max(1, min(ceil(PROGRAMS, programs), length // SHORTEST_BLOCK))
        return cls(ROWS * ceil(ceil(length, blocks), ROWS), delay, 0)


def fused_ema(
    x: Tensor,
    parameters: EMAParameters,
    omega: Optional[Tensor] = None,
    truncation: Optional[int] = None,
    padding_mask: Optional[Tensor] = None,
) -> Tensor:
    """``ops.ema.ema`` of ``x (B, L, D)``: in the type of ``x``, computed in at least float32."""
    return _FusedEMA.apply(x, *parameters, omega, padding_mask, Scan.of(x, truncation))


@torch.no_grad()
def fused_segment(x: Tensor, coefficients: EMACoefficients, h: Tensor) -> Tuple[Tensor, Tensor]:
    """``naive.ema_recurrence`` of ``x (B, L, D)`` from ``h (B, D, N)`` on, without gradients."""
    log_decay, input_weight, output_weight = (c.t().contiguous() for c in coefficients)
    scan, x, decay = Scan.of(x), channels_together(x), torch.expm1(log_decay)
    u = _states(x, None, log_decay.unsqueeze(0), decay.unsqueeze(0), scan)[0, 0]
    read = torch.arange(u.size(1), device=x.device).mul_(scan.block).clamp_(max=x.size(1))
    before = torch.exp(read.view(-1, 1, 1) * log_decay) * h.transpose(1, 2).unsqueeze(1)
    h = u * input_weight + before
    weight = input_weight * output_weight
    y = _scan(x, None, None, log_decay, decay, weight, None, h, output_weight, False, scan)
    return y, h[:, -1].transpose(1, 2).contiguous()


class _FusedEMA(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, delta, alpha, beta, gamma, omega, padding, scan):
        kept = fused_states(x, EMAParameters(delta, alpha, beta, gamma), omega, padding, scan)
        ctx.save_for_backward(*kept)
        ctx.scan = scan
        return fused_outputs(kept, scan)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_y):
        needs = ctx.needs_input_grad[0], any(ctx.needs_input_grad[1:6])
        return *fused_backward(ctx.saved_tensors, grad_y, ctx.scan, *needs), None, None


def fused_states(
    x: Tensor,
    parameters: EMAParameters,
    omega: Optional[Tensor],
    padding: Optional[Tensor],
    scan: Scan,
) -> Sequence[Optional[Tensor]]:
    """The tensors that ``fused_outputs`` and ``fused_backward`` need."""
    x, omega = channels_together(x), None if omega is None else omega.contiguous()
    padding = None if padding is None else padding.expand(x.shape[:2]).contiguous()
    delta, alpha, beta, gamma = given = [t.contiguous() for t in parameters]
    coefficients = _coefficients(delta, alpha, beta, gamma, x.size(-1))
    log_decay, decay, _ = coefficients
    several = x.size(1) > scan.block
    states = _states(x, padding, log_decay, decay, scan) if several else None
    return x, padding, *given, omega, *coefficients, states


def fused_outputs(kept, scan: Scan) -> Tensor:
    """``y (B, L, D)``."""
    x, padding, *_, omega, log_decay, decay, weight, states = kept
    return _outputs(x, padding, (log_decay, decay, weight), omega, states, False, scan)


def fused_backward(
    kept, grad_y: Tensor, scan: Scan, needs_x: bool = True, needs_parameters: bool = True
) -> Sequence[Any]:
    """The gradients of ``x``, the parameters and ``omega``, None where they are not needed."""
    x, padding, delta, alpha, beta, gamma, omega, log_decay, decay, weight, states = kept
    grad_y, coefficients = channels_together(grad_y), (log_decay, decay, weight)
    grad_x: Optional[Tensor] = None
    grads: Sequence[Any] = [None] * 5
    if needs_x:
        back = scan._replace(reverse=1)
        later = None if states is None else _states(grad_y, None, log_decay, decay, back)
        grad_x = _outputs(grad_y, padding, coefficients, omega, later, True, back)
    if needs_parameters:
        sums = _gradients(x, padding, grad_y, log_decay, decay, states, scan)
        grads = _coefficient_gradients((delta, alpha, beta, gamma), omega, sums)
    return grad_x, *grads[:4], None if omega is None else grads[4]


def _outputs(
    x: Tensor,
    padding: Optional[Tensor],
    coefficients: Sequence[Tensor],
    omega: Optional[Tensor],
    states: Optional[Tensor],
    hide_outputs: bool,
    scan: Scan,
) -> Tensor:
    """The sum of the outputs of all directions and of ``omega x``."""
    y: Any = None
    for i, (log_decay, decay, weight) in enumerate(zip(*coefficients)):
        starts, start_weight = (None, None) if states is None else (states[0, i], weight)
        scan_i = scan._replace(reverse=scan.reverse ^ (i > 0))
        hidden = starts, start_weight, hide_outputs
        y = _scan(x, padding, y, log_decay, decay, weight, omega, *hidden, scan_i)
        omega = None  # is added once
    return y


# --- launches -------------------------------------------------------------------------------------


def _launch(kernel: str, x: Tensor, grid: Tuple[int, ...], *args, **constants) -> None:
    launch(KERNELS, kernel, x, grid, *args, **constants, CHANNELS=CHANNELS, num_warps=1)


def _tiny(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).tiny


def _coefficients(
    delta: Tensor, alpha: Tensor, beta: Tensor, gamma: Tensor, channels: int
) -> Sequence[Tensor]:
    """``log q``, ``q - 1`` and ``p beta gamma / sqrt(N)``: ``(directions, N, D)`` each."""
    dtype, ndim = torch.promote_types(delta.dtype, torch.float32), gamma.size(1)
    directions = gamma.size(0) // channels
    out = [gamma.new_empty(directions, ndim, channels, dtype=dtype) for _ in range(3)]
    grid = ceil(channels, CHANNELS), ndim, directions
    tensors = delta, alpha, beta, gamma, *out
    _launch("coefficients", delta, grid, *tensors, channels, ndim, TINY=_tiny(dtype))
    return out


def _coefficient_gradients(
    parameters: Sequence[Tensor], omega: Optional[Tensor], sums: Sequence[Tensor]
) -> Sequence[Tensor]:
    """The gradients of the parameters and ``omega``, from the sums of ``_gradients``."""
    directions, batch, blocks, ndim, channels = sums[0].shape
    grads = [torch.empty_like(t) for t in parameters]
    grads.append(sums[0].new_empty(0) if omega is None else torch.empty_like(omega))
    grid = ceil(channels, CHANNELS), ndim, directions
    constants = dict(TINY=_tiny(sums[0].dtype), OMEGA=omega is not None, ROWS=ROWS)
    tensors, sizes = (*parameters, *sums, *grads), (batch * blocks, channels, ndim)
    _launch("coefficient_gradients", sums[0], grid, *tensors, *sizes, **constants)
    return grads


def _states(
    x: Tensor, padding: Optional[Tensor], log_decay: Tensor, decay: Tensor, scan: Scan
) -> Tensor:
    """``u, v`` before each block and after the last: ``(2, directions, B, blocks + 1, N, D)``."""
    batch, length, _ = x.shape
    directions, ndim, channels = log_decay.shape
    blocks, programs = ceil(length, scan.block), ceil(channels, CHANNELS) * directions * batch
    ends = log_decay.new_empty(2, directions, batch, blocks, ndim, channels)
    states = log_decay.new_empty(2, directions, batch, blocks + 1, ndim, channels)
    tensors = x, as_bytes(padding, x), log_decay, decay, *ends
    sizes = batch, length, channels, ndim, *scan, *x.stride()[:2]
    constants = dict(PADDED=padding is not None, DELAYED=scan.delay > 0, N=power_of_two(ndim))
    _launch("block_states", x, (programs, blocks), *tensors, *sizes, **constants, ROWS=ROWS)
    sizes = batch, blocks, scan.block, length, channels, ndim
    _launch("join_blocks", x, (programs, ndim), *ends, log_decay, *states, *sizes, ROWS=ROWS)
    return states


def _scan(
    x: Tensor, padding: Optional[Tensor], other: Optional[Tensor],
    log_decay: Tensor, decay: Tensor, weight: Tensor, omega: Optional[Tensor],
    starts: Optional[Tensor], start_weight: Optional[Tensor], hide_outputs: bool, scan: Scan,
) -> Tensor:  # fmt: skip
    """One direction's y ``(B, L, D)``, plus ``other``, another direction's. Blocks begin with the
    hidden states ``start_weight (N, D)`` times ``starts (B, blocks + 1, N, D)``."""
    y = torch.empty_like(x if other is None else other)
    ndim, channels = log_decay.shape
    grid = ceil(channels, CHANNELS) * x.size(0), ceil(x.size(1), scan.block)
    sizes = x.size(1), channels, ndim, *scan, *x.stride()[:2], *y.stride()[:2]
    constants = dict(
        HIDE_INPUTS=padding is not None and not hide_outputs,
        HIDE_OUTPUTS=padding is not None and hide_outputs,
        DELAYED=scan.delay > 0,
        OMEGA=omega is not None,
        STARTS=starts is not None,
        ADD=other is not None,
        N=power_of_two(ndim),
        ROWS=ROWS,
    )
    # For those that are None, a pointer that is not read.
    other, omega, starts, start_weight = (
        x if t is None else t for t in (other, omega, starts, start_weight)
    )
    tensors = x, as_bytes(padding, x), other, y, log_decay, decay, weight
    _launch("scan", x, grid, *tensors, omega, starts, start_weight, *sizes, **constants)
    return y


def _gradients(
    x: Tensor, padding: Optional[Tensor], grad_y: Tensor, log_decay: Tensor, decay: Tensor,
    states: Optional[Tensor], scan: Scan,
) -> Sequence[Tensor]:  # fmt: skip
    """The sums of gradients times ``u``, times ``v`` (``(directions, B, blocks, N, D)`` each) and
    times inputs ``(directions, B, blocks, D)`` over each block."""
    batch, length, _ = x.shape
    directions, ndim, channels = log_decay.shape
    rows = directions, batch, ceil(length, scan.block)
    sums = [log_decay.new_empty(*rows, *rest, channels) for rest in ((ndim,), (ndim,), ())]
    grid = ceil(channels, CHANNELS) * directions * batch, rows[2]
    sizes = batch, length, channels, ndim, *scan, *x.stride()[:2], *grad_y.stride()[:2]
    starts = (log_decay, log_decay) if states is None else states  # pointers that are not read
    tensors = x, as_bytes(padding, x), grad_y, log_decay, decay, *starts, *sums
    constants = dict(PADDED=padding is not None, DELAYED=scan.delay > 0, STARTS=states is not None)
    _launch("gradients", x, grid, *tensors, *sizes, **constants, N=power_of_two(ndim), ROWS=ROWS)
    return sums
