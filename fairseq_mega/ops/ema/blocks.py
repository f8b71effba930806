"""The EMA by blocks of ``C`` positions, as in the chunked scan of linear attention or Mamba-2.

1. Output within a block: the convolution of the block's own inputs.
2. Hidden state of each block: the share of its inputs.
3. Recurrence between blocks: ``h_{b+1} = q^C h_b + (share of block b)``.
4. Output from the hidden state before the block.

Channels come first here, ``(D, B blocks, C)``.
"""

from typing import NamedTuple, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..toeplitz import toeplitz
from .coefficients import EMACoefficients
from .convolution import kernel_diagonals
from .layout import channels_first, channels_last


class BlockMatrices(NamedTuple):
    """The matrices of the four steps, for each channel.

    ``K`` is ``N``, or ``2 N`` with the backward EMA, which counts positions from the end.
    """

    within: Tensor  # (D, C, C): output at column i for the input at row j
    to_state: Tensor  # (D, C, K): p beta q^(C-1-j), the share of the input at row j
    decay: Tensor  # (D, 1, K): q^C - 1, of which float32 holds more digits where q is near 1
    from_state: Tensor  # (D, K, C): gamma q^(i+1), the output at column i for h before


def block_matrices(
    directions: Sequence[EMACoefficients], size: int, omega: Optional[Tensor] = None
) -> BlockMatrices:
    """Matrices for blocks of ``size`` positions, whose output includes ``omega x``."""
    kernel, to_state, from_state, decay = _powers(directions[0], size)
    parts = [(to_state.flip(1), from_state, decay)]
    channels = kernel.size(0)
    if len(directions) > 1:
        backward_kernel, to_state, from_state, decay = _powers(directions[1], size)
        kernel = torch.cat([kernel, backward_kernel])
        parts.append((to_state, from_state.flip(1), decay))
    to_state, from_state, decay = (
        each[0] if len(each) == 1 else torch.cat(each, dim=2) for each in zip(*parts)
    )
    within = toeplitz(kernel_diagonals(kernel, channels, size, omega), size, size)
    return BlockMatrices(within, to_state, decay, from_state.transpose(1, 2))


def _powers(coefficients: EMACoefficients, size: int) -> Tuple[Tensor, Tensor, Tensor, Tensor]:
    """Taps ``(D, C)``, ``p beta q^i`` and ``gamma q^(i+1) (D, C, N)``, ``q^C - 1 (D, 1, N)``."""
    log_decay, input_weight, output_weight = (t.unsqueeze(1) for t in coefficients)
    steps = torch.arange(size + 1, dtype=log_decay.dtype, device=log_decay.device)
    powers = torch.exp(log_decay * steps.unsqueeze(1))  # (D, C+1, N)
    decay = torch.expm1(log_decay * size)
    to_state = powers[:, :-1] * input_weight
    taps = torch.bmm(to_state, output_weight.transpose(1, 2)).squeeze(2)
    return taps, to_state, powers[:, 1:] * output_weight, decay


def ema_by_blocks(x: Tensor, matrices: BlockMatrices, bidirectional: bool = False) -> Tensor:
    """The EMA of ``x (B, L, D)``, from a hidden state of zero."""
    h = x.new_zeros(x.size(2), x.size(0), matrices.decay.size(2))
    y, _, _ = _run_blocks(x, matrices, h, bidirectional)
    return y


def ema_segment_by_blocks(
    x: Tensor, coefficients: EMACoefficients, h: Tensor, size: int
) -> Tuple[Tensor, Tensor]:
    """``naive.ema_recurrence`` of ``x (B, L, D)`` from ``h (B, D, N)`` on: y and the new ``h``."""
    matrices = block_matrices([coefficients], size)
    y, last, states = _run_blocks(x, matrices, h.transpose(0, 1))
    h, rest = states[-1], x.size(1) % size
    if rest:  # the last block is not full: `rest` steps from the hidden state before it
        h, decay = states[-2], torch.expm1(rest * coefficients.log_decay).unsqueeze(1)
        h = h + decay * h + torch.bmm(last[..., :rest], matrices.to_state[:, -rest:])
    # A copy: a view would keep the hidden states of all blocks.
    return y, h.transpose(0, 1).clone(memory_format=torch.contiguous_format)


def _run_blocks(
    x: Tensor, matrices: BlockMatrices, h: Tensor, bidirectional: bool = False
) -> Tuple[Tensor, Tensor, Tensor]:
    """The four steps for ``x (B, L, D)``, from the hidden state ``h (D, B, K)``: y, the last block
    of x ``(D, B, C)``, and all hidden states ``(blocks + 1, D, B, K)``."""
    batch, length, channels = x.shape
    size = matrices.within.size(1)
    if length % size:
        x = F.pad(x, (0, 0, 0, -length % size))
    blocks = x.size(1) // size
    x = channels_first(x).reshape(channels, batch * blocks, size)

    # 2. The hidden state of each block.
    added = torch.bmm(x, matrices.to_state).view(channels, batch, blocks, -1).permute(2, 0, 1, 3)
    if bidirectional:
        added = _reverse_backward_blocks(added)
    # 3. The recurrence between blocks.
    states = _Recurrence.apply(added, matrices.decay, h)  # (blocks + 1, D, B, K)
    before = states[:-1]
    if bidirectional:
        before = _reverse_backward_blocks(before)
    before = before.permute(1, 2, 0, 3).reshape(channels, batch * blocks, -1)
    # 1. The output within a block, and 4. the output from the hidden state before.
    y = torch.baddbmm(torch.bmm(x, matrices.within), before, matrices.from_state)

    y = channels_last(y.view(channels, batch, blocks * size))[:, :length]
    return y, x.view(channels, batch, blocks, size)[:, :, -1], states


class _Recurrence(torch.autograd.Function):
    """``h_{b+1} = q^C h_b + added_b`` of ``added (blocks, D, B, K)``, ``decay = q^C - 1 (D, 1, K)``
    and the first ``h (D, B, K)``: all hidden states ``(blocks + 1, D, B, K)``."""

    @staticmethod
    def forward(ctx, added: Tensor, decay: Tensor, h: Tensor) -> Tensor:
        states = _scan_(torch.cat([h.unsqueeze(0), added]), decay)
        ctx.save_for_backward(states, decay)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_states: Tensor):
        states, decay = ctx.saved_tensors
        grads = _scan_(grad_states.clone(), decay, reverse=True)
        grad_decay = (grads[1:] * states[:-1]).sum((0, 2)).unsqueeze(1)
        return grads[1:], grad_decay, grads[0]


def _scan_(states: Tensor, decay: Tensor, reverse: bool = False) -> Tensor:
    """``states_b += (1 + decay) states_{b-1}`` in place, one after the other; reversed, ``b + 1``.

    The second of each pair gets its sum; these are scanned, two blocks a step, and then give the
    rest theirs (Brent and Kung, 1982, "A regular layout for parallel adders").
    """
    if len(states) == 1:
        return states
    first, second = states[::2], states[1::2]
    if reverse and len(first) == len(second):
        first, second = second, first
    _step_(second, first, decay, reverse)
    _scan_(second, decay * (2 + decay), reverse)  # (1 + decay)^2 - 1
    _step_(first[:-1] if reverse else first[1:], second, decay, reverse)
    return states


def _step_(to: Tensor, source: Tensor, decay: Tensor, reverse: bool) -> None:
    """``to += (1 + decay) source`` for as many as there are in both, from where a scan starts."""
    count = min(len(to), len(source))
    part = slice(-count, None) if reverse else slice(count)
    if count:
        to[part].add_(source[part]).addcmul_(decay, source[part])


def _reverse_backward_blocks(states: Tensor) -> Tensor:
    """``(blocks, D, B, 2 N)`` with the blocks of the backward EMA, the last ``N``, reversed."""
    forward, backward = states.chunk(2, dim=-1)
    return torch.cat([forward, backward.flip(0)], dim=-1)
