"""The reordering of a state's rows in beam search, computed once for all layers."""

from typing import List, NamedTuple, Optional

import torch
from torch import Tensor


class Reordering(NamedTuple):
    """Row ``b`` of the new state continues row ``rows[b]`` of the old one.

    Every ``beam`` consecutive rows are the hypotheses of one sentence, if they continue hypotheses
    of one sentence.
    """

    rows: Tensor  # (B,)
    sentences: Optional[Tensor]  # (B / beam,): old places; None: rows no longer share anything
    sentence_list: List[int]  # the same on the host

    @classmethod
    def of(cls, rows: Tensor, beam: int) -> "Reordering":
        """Copies the rows to the host: one host-device synchronisation."""
        order = rows.tolist()
        sentences = [row // beam for row in order[::beam]]
        parted = len(order) % beam > 0 or any(
            row // beam != sentences[i // beam] for i, row in enumerate(order)
        )
        return cls(rows, None if parted else rows[::beam] // beam, sentences)

    def moves(self, count: int) -> bool:
        """Tells whether any of ``count`` sentences changes its place or is dropped."""
        return self.sentence_list != list(range(count))


def persistent(x: Tensor) -> Tensor:
    """``x`` without gradients, for a state to keep; a copy if it is limited to inference mode."""
    if not x.is_inference():
        return x.detach()
    return empty_buffer(x, *x.shape).copy_(x)


def empty_buffer(like: Tensor, *shape: int) -> Tensor:
    """Uninitialised memory that is not limited to inference mode."""
    with torch.inference_mode(False):
        return torch.empty(shape, dtype=like.dtype, device=like.device)
