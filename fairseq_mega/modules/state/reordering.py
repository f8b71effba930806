"""How beam search reorders the rows of a state, worked out once for all layers."""

from typing import List, NamedTuple, Optional

import torch
from torch import Tensor


class Reordering(NamedTuple):
    """Row ``b`` of the new state goes on from row ``rows[b]`` of the old one.

    In beam search every ``beam`` rows that follow each other are the hypotheses of one sentence. As
    long as they all go on from hypotheses of one sentence, ``sentences`` says where each sentence
    was before.
    """

    rows: Tensor  # (B,)
    sentences: Optional[Tensor]  # (B / beam,), or None: from then on, rows share nothing
    sentence_list: List[int]  # the same on the host

    @classmethod
    def of(cls, rows: Tensor, beam: int) -> "Reordering":
        """Copies the rows to the host: one wait for the device."""
        order = rows.tolist()
        sentences = [row // beam for row in order[::beam]]
        parted = len(order) % beam > 0 or any(
            row // beam != sentences[i // beam] for i, row in enumerate(order)
        )
        return cls(rows, None if parted else rows[::beam] // beam, sentences)

    def moves(self, count: int) -> bool:
        """Whether any of ``count`` sentences changes its place, or goes."""
        return self.sentence_list != list(range(count))


def persistent(x: Tensor) -> Tensor:
    """``x`` without gradients, for a state to keep.

    Tensors that ``torch.inference_mode`` makes can be used nowhere else; a state may be read on
    anywhere, so it keeps copies of them.
    """
    if not x.is_inference():
        return x.detach()
    return empty_buffer(x, *x.shape).copy_(x)


def empty_buffer(like: Tensor, *shape: int) -> Tensor:
    """Uninitialised memory that can be written in place inside and outside of inference mode."""
    with torch.inference_mode(False):
        return torch.empty(shape, dtype=like.dtype, device=like.device)
