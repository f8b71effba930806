"""Padding of batches: positions count from the first token, whichever side fairseq pads."""

from typing import Optional

import torch
from torch import Tensor


def may_have_padding(padding_mask: Tensor) -> bool:
    """Tells whether any element is true. In training on a GPU the answer is always yes, which
    avoids a host-device synchronisation: masks without padding change no result."""
    if padding_mask.device.type != "cpu" and torch.is_grad_enabled():
        return True
    return bool(padding_mask.any())


def left_padding(padding_mask: Tensor) -> Optional[Tensor]:
    """The amount of padding before each row of ``padding_mask (B, L)``: ``(B,)``, or None where a
    CPU finds none."""
    shifts = padding_mask.long().cumprod(dim=1).sum(dim=1)
    return None if shifts.device.type == "cpu" and not shifts.any() else shifts


def move_left(x: Tensor, shifts: Tensor) -> Tensor:
    """Moves each row of ``x (B, L, ...)`` by ``shifts (B,)`` positions left, around the edge."""
    index = (torch.arange(x.size(1), device=x.device) + shifts.unsqueeze(1)) % x.size(1)  # (B, L)
    return x.gather(1, index.view(*index.shape, *[1] * (x.dim() - 2)).expand_as(x))


def move_right(x: Tensor, shifts: Tensor) -> Tensor:
    """Inverts ``move_left``."""
    return move_left(x, -shifts)


def zero_padding(x: Tensor, padding_mask: Tensor) -> Tensor:
    """``x (..., D)`` with zeros where ``padding_mask (...)`` is true."""
    return x.masked_fill(padding_mask.unsqueeze(-1), 0.0)
