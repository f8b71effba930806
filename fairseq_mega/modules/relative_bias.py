"""Relative positional biases: modules that give the bias for a range of offsets ``j - i``."""

import torch
from torch import Tensor, nn

from ..ops.autocast import without_autocast
from ..ops.positions import rotary_bias
from ..ops.toeplitz import toeplitz
from .checks import check_choice, check_positive, check_rotary
from .linear import INIT_STD


class RelativePositionalBias(nn.Module):
    """A bias of query ``i`` and key ``j`` that depends on ``j - i``."""

    def offsets(self, first: int, last: int) -> Tensor:
        """The bias of the offsets ``first .. last``: ``(last - first + 1,)``."""
        raise NotImplementedError

    def forward(self, queries: int, keys: int, start: int = 0, causal: bool = False) -> Tensor:
        """The bias ``(L, S)`` of ``queries`` positions from ``start`` on and ``keys`` from 0 on; if
        ``causal``, minus infinity where the key comes after the query."""
        last = keys - 1 - start
        if queries == 1:
            return self.offsets(-start, last).unsqueeze(0)
        diagonals = self.offsets(1 - start - queries, 0 if causal else last)
        return toeplitz(diagonals, queries, keys)


class SimpleRelativePositionalBias(RelativePositionalBias):
    """A learned bias for each offset, up to ``max_positions - 1`` either way."""

    def __init__(self, max_positions: int):
        super().__init__()
        check_positive(max_positions=max_positions)
        self.max_positions = max_positions
        # names fixed by published checkpoints
        self.rel_pos_bias = nn.Parameter(torch.empty(2 * max_positions - 1))
        nn.init.normal_(self.rel_pos_bias, std=INIT_STD)

    def offsets(self, first: int, last: int) -> Tensor:
        needed = max(-first, last) + 1
        if needed > self.max_positions:
            raise ValueError(
                f"the simple positional bias has {self.max_positions} positions, but the input "
                f"needs {needed}: raise --max-source-positions and --max-target-positions (in "
                "language models --tokens-per-sample, in masked language models --max-positions), "
                "or use --rel-pos-bias rotary, which has no limit"
            )
        zero = self.max_positions - 1
        return self.rel_pos_bias[zero + first : zero + last + 1]


class RotaryRelativePositionalBias(RelativePositionalBias):
    """``<R_i alpha, R_j beta>`` with rotations ``R``; for inputs of any length."""

    def __init__(self, dim: int):
        super().__init__()
        check_rotary("zdim", dim)
        self.alpha = nn.Parameter(torch.empty(1, dim))
        self.beta = nn.Parameter(torch.empty(1, dim))
        nn.init.normal_(self.alpha, std=INIT_STD)
        nn.init.normal_(self.beta, std=INIT_STD)
        self.register_load_state_dict_pre_hook(_drop_bookkeeping)

    def offsets(self, first: int, last: int) -> Tensor:
        with without_autocast(self.alpha):
            return rotary_bias(self.alpha, self.beta, first, last)


def _drop_bookkeeping(module, state_dict, prefix, *_) -> None:
    """Published checkpoints hold a buffer that carried the device."""
    state_dict.pop(f"{prefix}_float_tensor", None)


BIASES = ("simple", "rotary")


def make_relative_bias(kind: str, zdim: int, max_positions: int) -> RelativePositionalBias:
    check_choice("rel_pos_bias", kind, BIASES)
    if kind == "simple":
        return SimpleRelativePositionalBias(max_positions)
    return RotaryRelativePositionalBias(zdim)
