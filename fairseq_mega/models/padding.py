"""Padding of batches: positions count from the first token, whichever side fairseq pads."""

from typing import Optional

import torch
from torch import Tensor


def may_have_padding(padding_mask: Tensor) -> bool:
    """Whether any of it is true. In training on a GPU it is taken to be, as the host would have to
    wait for the answer; masks without padding change no result."""
    if padding_mask.device.type != "cpu" and torch.is_grad_enabled():
        return True
    return bool(padding_mask.any())


def left_padding(padding_mask: Tensor) -> Optional[Tensor]:
    """How much padding stands before each row of ``padding_mask (B, L)``: ``(B,)``.

    None if there is none, which the host asks for on a CPU alone.
    """
    shifts = padding_mask.long().cumprod(dim=1).sum(dim=1)
    return None if shifts.device.type == "cpu" and not shifts.any() else shifts


def move_left(x: Tensor, shifts: Tensor) -> Tensor:
    """The rows of ``x (B, L, ...)``, each moved ``shifts (B,)`` positions left, around the edge."""
    index = (torch.arange(x.size(1), device=x.device) + shifts.unsqueeze(1)) % x.size(1)  # (B, L)
    return x.gather(1, index.view(*index.shape, *[1] * (x.dim() - 2)).expand_as(x))


def move_right(x: Tensor, shifts: Tensor) -> Tensor:
    """The opposite of ``move_left``."""
    return move_left(x, -shifts)


def zero_padding(x: Tensor, padding_mask: Tensor) -> Tensor:
    """``x (..., D)`` with zeros where ``padding_mask (...)`` is true."""
    return x.masked_fill(padding_mask.unsqueeze(-1), 0.0)
