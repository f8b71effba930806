"""The EMA on a GPU: ``naive.ema_recurrence`` in Triton kernels that hold the hidden state.

Where sequences and channels are too few for all of a GPU, a sequence is cut in blocks: their
hidden states, the recurrence between them, and then all of their outputs at once.
"""

from typing import Any, Dict, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..operators import as_bytes, ceil, channels_together, launch, power_of_two
from .coefficients import EMACoefficients, EMAParameters

KERNELS = f"{__package__}.kernels"
# Channels of a program, a thread of its one warp each, and positions that are read at once.
CHANNELS, ROWS = 32, 8
# An H100 or H200, of 132 multiprocessors, is kept busy by so many programs of one warp. Shorter
# blocks would read more states than inputs.
PROGRAMS, SHORTEST_BLOCK = 2048, 64


class Scan(NamedTuple):
    """How a sequence is gone through."""

    block: int  # positions of a block: a multiple of ROWS
    delay: int  # taps of a truncated kernel; 0 for all
    reverse: bool

    @classmethod
    def of(cls, x: Tensor, truncation: Optional[int] = None) -> "Scan":
        delay = truncation if truncation is not None and truncation < x.size(1) else 0
        batch, length, channels = x.shape
        programs = batch * ceil(channels, CHANNELS)
        blocks = max(1, min(ceil(PROGRAMS, programs), length // SHORTEST_BLOCK))
        return cls(ROWS * ceil(ceil(length, blocks), ROWS), delay, False)


def fused_ema(
    x: Tensor,
    parameters: EMAParameters,
    omega: Optional[Tensor] = None,
    truncation: Optional[int] = None,
    padding_mask: Optional[Tensor] = None,
) -> Tensor:
    """``ops.ema.ema``: ``naive.ema_recurrence`` of ``x (B, L, D)`` from zero, or with truncated
    kernels ``naive.ema_convolution``, both ways if the parameters are of both.

    Returns:
        ``(B, L, D)`` in the type of ``x``. All within is in at least float32.
    """
    return _FusedEMA.apply(x, *parameters, omega, padding_mask, Scan.of(x, truncation))


@torch.no_grad()
def fused_segment(x: Tensor, coefficients: EMACoefficients, h: Tensor) -> Tuple[Tensor, Tensor]:
    """``naive.ema_recurrence`` of ``x (B, L, D)`` from ``h (B, D, N)`` on, without gradients."""
    log_decay, input_weight, output_weight = (c.t().contiguous() for c in coefficients)
    scan, x, decay = Scan.of(x), channels_together(x), torch.expm1(log_decay)
    logs, decays = log_decay.unsqueeze(0), decay.unsqueeze(0)  # of one direction
    ends = _block_states(x, None, logs, decays, *scan)
    states = _join_blocks(ends, logs, x.size(1), scan.block)
    u = states[0, 0]  # (B, blocks + 1, N, D)
    read = torch.arange(u.size(1), device=x.device).mul_(scan.block).clamp_(max=x.size(1))
    before = torch.exp(read.view(-1, 1, 1) * log_decay) * h.transpose(1, 2).unsqueeze(1)
    h = u * input_weight + before
    weight = input_weight * output_weight
    y = _scan(x, None, None, log_decay, decay, weight, None, h, output_weight, False, *scan)
    return y, h[:, -1].transpose(1, 2).contiguous()


class _FusedEMA(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, delta, alpha, beta, gamma, omega, padding, scan):
        y, kept = fused_forward(x, EMAParameters(delta, alpha, beta, gamma), omega, padding, scan)
        ctx.save_for_backward(*kept)
        ctx.scan = scan
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_y):
        needs = ctx.needs_input_grad[0], any(ctx.needs_input_grad[1:6])
        return *fused_backward(ctx.saved_tensors, grad_y, ctx.scan, *needs), None, None


def fused_forward(
    x: Tensor,
    parameters: EMAParameters,
    omega: Optional[Tensor],
    padding: Optional[Tensor],
    scan: Scan,
) -> Tuple[Tensor, Sequence[Optional[Tensor]]]:
    """y, and what ``fused_backward`` needs: ``x`` and the states between blocks. Inside,
    coefficients are ``(N, D)``, and states ``(B, blocks + 1, N, D)``, for each direction."""
    x, omega = channels_together(x), None if omega is None else omega.contiguous()
    padding = None if padding is None else padding.expand(x.shape[:2]).contiguous()
    delta, alpha, beta, gamma = given = [t.contiguous() for t in parameters]
    coefficients = _coefficients(delta, alpha, beta, gamma, x.size(-1))
    states = _states(x, padding, *coefficients[:2], scan)
    y = _outputs(x, padding, coefficients, omega, states, False, scan)
    return y, (x, padding, *given, omega, *coefficients, states)


def fused_backward(
    kept, grad_y: Tensor, scan: Scan, needs_x: bool = True, needs_parameters: bool = True
) -> Sequence[Any]:
    """The gradients of ``x``, the parameters and ``omega``, None where they are not needed."""
    x, padding, delta, alpha, beta, gamma, omega, log_decay, decay, weight, states = kept
    grad_y, coefficients = channels_together(grad_y), (log_decay, decay, weight)
    grad_x: Optional[Tensor] = None
    grads: Sequence[Any] = [None] * 5
    if needs_x:
        back = scan._replace(reverse=True)
        later = _states(grad_y, None, log_decay, decay, back)
        grad_x = _outputs(grad_y, padding, coefficients, omega, later, True, back)
    if needs_parameters:
        u, v, inputs = _gradients(x, padding, grad_y, log_decay, decay, states, *scan)
        grads = _coefficient_gradients(delta, alpha, beta, gamma, omega, u, v, inputs)
    return grad_x, *grads[:4], None if omega is None else grads[4]


def _states(
    x: Tensor, padding: Optional[Tensor], log_decay: Tensor, decay: Tensor, scan: Scan
) -> Optional[Tensor]:
    """The states ``u, v`` before each block and after the last, ``(2, directions, B, blocks + 1, N,
    D)``; None of one block."""
    if x.size(1) <= scan.block:
        return None
    ends = _block_states(x, padding, log_decay, decay, *scan)
    return _join_blocks(ends, log_decay, x.size(1), scan.block)


def _outputs(
    x: Tensor,
    padding: Optional[Tensor],
    coefficients: Sequence[Tensor],
    omega: Optional[Tensor],
    states: Optional[Tensor],
    hide_outputs: bool,
    scan: Scan,
) -> Tensor:
    """The sum of all directions' outputs, and of ``omega x``."""
    y = None
    for i, (log_decay, decay, weight) in enumerate(zip(*coefficients)):
        starts, start_weight = (None, None) if states is None else (states[0, i], weight)
        scan_i = scan._replace(reverse=scan.reverse != (i > 0))
        hidden = starts, start_weight, hide_outputs
        y = _scan(x, padding, y, log_decay, decay, weight, omega, *hidden, *scan_i)
        omega = None  # is added once
    assert y is not None
    return y


# --- each is one launch ---------------------------------------------------------------------------


def _launch(kernel: str, x: Tensor, grid: Tuple[int, ...], *args, **constants):
    launch(KERNELS, kernel, x, grid, *args, **constants, CHANNELS=CHANNELS, num_warps=1)


def _ndim(coefficient: Tensor) -> Dict[str, int]:
    return dict(N=power_of_two(coefficient.size(-2)))


def _tiny(dtype: torch.dtype) -> float:
    return torch.finfo(dtype).tiny


def _coefficients(
    delta: Tensor, alpha: Tensor, beta: Tensor, gamma: Tensor, channels: int
) -> Tuple[Tensor, Tensor, Tensor]:
    """``log q``, ``q - 1`` and ``p beta gamma / sqrt(N)``: ``(directions, N, D)`` each."""
    dtype, ndim = torch.promote_types(delta.dtype, torch.float32), gamma.size(1)
    directions = gamma.size(0) // channels
    out = [gamma.new_empty(directions, ndim, channels, dtype=dtype) for _ in range(3)]
    grid = ceil(channels, CHANNELS), ndim, directions
    tensors = delta, alpha, beta, gamma, *out
    _launch("coefficients", delta, grid, *tensors, channels, ndim, TINY=_tiny(dtype))
    return out[0], out[1], out[2]


def _coefficient_gradients(
    delta: Tensor, alpha: Tensor, beta: Tensor, gamma: Tensor, omega: Optional[Tensor],
    sum_u: Tensor, sum_v: Tensor, sum_x: Tensor,
) -> Tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Of the parameters and ``omega``, from what ``_gradients`` returns."""
    directions, batch, blocks, ndim, channels = sum_u.shape
    parameters = delta, alpha, beta, gamma
    grads = [torch.empty_like(t) for t in parameters]
    grads.append(sum_x.new_empty(0) if omega is None else torch.empty_like(omega))
    grid = ceil(channels, CHANNELS), ndim, directions
    tensors = *parameters, sum_u, sum_v, sum_x, *grads
    constants = dict(TINY=_tiny(sum_u.dtype), OMEGA=omega is not None, ROWS=ROWS)
    sizes = batch * blocks, channels, ndim
    _launch("coefficient_gradients", delta, grid, *tensors, *sizes, **constants)
    return grads[0], grads[1], grads[2], grads[3], grads[4]


def _block_states(
    x: Tensor, padding: Optional[Tensor], log_decay: Tensor, decay: Tensor,
    block: int, delay: int, reverse: bool,
) -> Tensor:  # fmt: skip
    """``u`` and ``v`` at the end of each block, of its own inputs: ``(2, directions, B, blocks, N,
    D)``."""
    batch, length, _ = x.shape
    directions, ndim, channels = log_decay.shape
    blocks = ceil(length, block)
    ends = log_decay.new_empty(2, directions, batch, blocks, ndim, channels)
    grid = ceil(channels, CHANNELS) * directions * batch, blocks
    sizes = batch, length, channels, ndim, block, delay, int(reverse), *x.stride()[:2]
    constants = dict(PADDED=padding is not None, DELAYED=delay > 0, ROWS=ROWS, **_ndim(log_decay))
    tensors = x, as_bytes(padding, x), log_decay, decay, *ends
    _launch("block_states", x, grid, *tensors, *sizes, **constants)
    return ends


def _join_blocks(ends: Tensor, log_decay: Tensor, length: int, block: int) -> Tensor:
    """The states before each block and after the last: ``(2, directions, B, blocks + 1, N, D)``."""
    _, directions, batch, blocks, ndim, channels = ends.shape
    states = ends.new_empty(2, directions, batch, blocks + 1, ndim, channels)
    grid = ceil(channels, CHANNELS) * directions * batch, ndim
    sizes = batch, blocks, block, length, channels, ndim
    _launch("join_blocks", ends, grid, *ends, log_decay, *states, *sizes, ROWS=ROWS)
    return states


def _scan(
    x: Tensor, padding: Optional[Tensor], other: Optional[Tensor],
    log_decay: Tensor, decay: Tensor, weight: Tensor, omega: Optional[Tensor],
    starts: Optional[Tensor], start_weight: Optional[Tensor], hide_outputs: bool,
    block: int, delay: int, reverse: bool,
) -> Tensor:  # fmt: skip
    """One direction's y ``(B, L, D)``, for the states ``starts (B, blocks + 1, N, D)`` before the
    blocks, which ``start_weight (N, D)`` multiplies; added to ``other``, another direction's."""
    y = torch.empty_like(x if other is None else other)
    ndim, channels = log_decay.shape
    grid = ceil(channels, CHANNELS) * x.size(0), ceil(x.size(1), block)
    strides = *x.stride()[:2], *y.stride()[:2]
    sizes = x.size(1), channels, ndim, block, delay, int(reverse), *strides
    constants = dict(
        HIDE_INPUTS=padding is not None and not hide_outputs,
        HIDE_OUTPUTS=padding is not None and hide_outputs,
        DELAYED=delay > 0,
        OMEGA=omega is not None,
        STARTS=starts is not None,
        ADD=other is not None,
        ROWS=ROWS,
    )
    # Where there is none, a pointer that is not read.
    optional = (x if t is None else t for t in (omega, starts, start_weight))
    given = x, as_bytes(padding, x), x if other is None else other, y, log_decay, decay, weight
    _launch("scan", x, grid, *given, *optional, *sizes, **constants, **_ndim(log_decay))
    return y


def _gradients(
    x: Tensor, padding: Optional[Tensor], grad_y: Tensor, log_decay: Tensor, decay: Tensor,
    states: Optional[Tensor], block: int, delay: int, reverse: bool,
) -> Tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """By direction, sequence and block, the sums of gradients times states ``u`` and ``v``,
    ``(directions, B, blocks, N, D)`` each, and times inputs ``(directions, B, blocks, D)``."""
    batch, length, _ = x.shape
    directions, ndim, channels = log_decay.shape
    rows = directions, batch, ceil(length, block)
    sums = [log_decay.new_empty(*rows, ndim, channels) for _ in range(2)]
    sums.append(log_decay.new_empty(*rows, channels))
    grid = ceil(channels, CHANNELS) * directions * batch, rows[2]
    strides = *x.stride()[:2], *grad_y.stride()[:2]
    sizes = batch, length, channels, ndim, block, delay, int(reverse), *strides
    starts = (log_decay, log_decay) if states is None else states  # pointers that are not read
    tensors = x, as_bytes(padding, x), grad_y, log_decay, decay, *starts, *sums
    constants = dict(PADDED=padding is not None, DELAYED=delay > 0, STARTS=states is not None)
    _launch("gradients", x, grid, *tensors, *sizes, **constants, ROWS=ROWS, **_ndim(log_decay))
    return sums[0], sums[1], sums[2]
