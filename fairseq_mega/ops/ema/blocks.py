"""The EMA by blocks of ``C`` positions: products of small matrices, one hidden state a block.

The form is known as the chunked scan of linear attention, or the state space dual of Mamba-2. For
inputs ``x`` of a block and the hidden state ``h`` before it, ``y`` is made in four steps:

1. output within a block: the convolution of the block's own inputs;
2. hidden state of each block: what its inputs add to it at the end of the block;
3. recurrence between blocks: ``h_{b+1} = q^C h_b + (share of block b)``;
4. output from the hidden state before: what all earlier blocks add.

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

    ``K`` is ``N``, or ``2 N`` if bidirectional: the hidden states of the forward EMA, then those of
    the backward EMA, which counts blocks and their positions from the end.
    """

    within: Tensor  # (D, C, C): output at column i for the input at row j
    to_state: Tensor  # (D, C, K): p beta q^(C-1-j), what the input at row j adds to the state
    decay: Tensor  # (D, 1, K): q^C - 1, of which float32 holds more digits where q is near 1
    from_state: Tensor  # (D, K, C): gamma q^(i+1), the output at column i for the state before


def block_matrices(
    directions: Sequence[EMACoefficients], size: int, omega: Optional[Tensor] = None
) -> BlockMatrices:
    """For blocks of ``size`` positions.

    Args:
        directions: coefficients of the forward EMA, and of the backward EMA if bidirectional.
        omega: ``(D,)``: the output gets ``omega x`` added, too.
    """
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
    """The EMA of ``x (B, L, D)``: ``naive.ema_recurrence`` from an ``h`` of zero, or both ways."""
    h = x.new_zeros(x.size(2), x.size(0), matrices.decay.size(2))
    y, _, _ = _run_blocks(x, matrices, h, bidirectional)
    return y


def ema_segment_by_blocks(
    x: Tensor, coefficients: EMACoefficients, h: Tensor, size: int
) -> Tuple[Tensor, Tensor]:
    """``naive.ema_recurrence`` of ``x (B, L, D)`` from ``h (B, D, N)`` on: y, and the new ``h``."""
    matrices = block_matrices([coefficients], size)
    y, last, states = _run_blocks(x, matrices, h.transpose(0, 1))
    rest = x.size(1) % size
    if rest == 0:
        h = states[-1]
    else:  # the last block is not full: take `rest` steps from the state before it
        decay = torch.expm1(rest * coefficients.log_decay).unsqueeze(1)
        h = (
            states[-2]
            + decay * states[-2]
            + torch.bmm(last[..., :rest], matrices.to_state[:, -rest:])
        )
    # A copy, as a view would keep the states of all blocks.
    return y, h.transpose(0, 1).clone(memory_format=torch.contiguous_format)


def _run_blocks(
    x: Tensor, matrices: BlockMatrices, h: Tensor, bidirectional: bool = False
) -> Tuple[Tensor, Tensor, Tensor]:
    """The four steps for ``x (B, L, D)``, from the hidden state ``h (D, B, K)``.

    Returns:
        y ``(B, L, D)``, the last block of x ``(D, B, C)``, and the hidden states before the first
        block, between blocks and after the last ``(blocks + 1, D, B, K)``.
    """
    batch, length, channels = x.shape
    size = matrices.within.size(1)
    if length % size:
        x = F.pad(x, (0, 0, 0, -length % size))
    blocks = x.size(1) // size
    x = channels_first(x).reshape(channels, batch * blocks, size)

    # 2. The hidden state of each block. (Step 1 is last: its product adds to that of step 4.)
    added = torch.bmm(x, matrices.to_state).view(channels, batch, blocks, -1).permute(2, 0, 1, 3)
    if bidirectional:
        added = _reverse_backward_blocks(added)
    # 3. The recurrence between blocks.
    states = _Recurrence.apply(added, matrices.decay, h)  # (blocks + 1, D, B, K)
    before = states[:-1]
    if bidirectional:
        before = _reverse_backward_blocks(before)
    before = before.permute(1, 2, 0, 3).reshape(channels, batch * blocks, -1)
    # 1. The output within a block, and 4. the output from the state before.
    y = torch.baddbmm(torch.bmm(x, matrices.within), before, matrices.from_state)

    y = channels_last(y.view(channels, batch, blocks * size))[:, :length]
    return y, x.view(channels, batch, blocks, size)[:, :, -1], states


class _Recurrence(torch.autograd.Function):
    """``h_{b+1} = q^C h_b + added_b``: all hidden states ``(blocks + 1, ...)``, with the first.

    With ``q^C`` itself, a hidden state that forgets over a million positions would lose a rounding
    error of it, always the same one, in every block.

    Args:
        added: ``(blocks, D, B, K)``.
        decay: ``q^C - 1``, ``(D, 1, K)``.
        h: ``(D, B, K)``.
    """

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

    In ``2 log2(blocks)`` steps (Brent and Kung, 1982, "A regular layout for parallel adders"): sums
    over pairs, pairs of pairs and so on, and then what lies between their ends.
    """
    blocks = len(states)
    strides = [1 << level for level in range((blocks - 1).bit_length())]
    powers = [decay]
    for _ in strides[1:]:
        powers.append(powers[-1] * (2 + powers[-1]))  # (1 + p)^2 - 1
    pairs = [(2 * s - 1, s, power) for s, power in zip(strides, powers)]
    between = [(3 * s - 1, s, power) for s, power in zip(strides[::-1], powers[::-1])]
    for first, s, power in pairs + between:
        if first >= blocks:
            continue
        count = (blocks - 1 - first) // (2 * s) + 1
        if reverse:
            last = blocks - 1 - first
            first, s = last - 2 * s * (count - 1), -s
        to, source = (states[i :: 2 * abs(s)][:count] for i in (first, first - s))
        to.add_(source).addcmul_(power, source)
    return states


def _reverse_backward_blocks(states: Tensor) -> Tensor:
    """``(blocks, D, B, 2 N)`` with the blocks of the last ``N``, the backward EMA's, reversed."""
    forward, backward = states.chunk(2, dim=-1)
    return torch.cat([forward, backward.flip(0)], dim=-1)
