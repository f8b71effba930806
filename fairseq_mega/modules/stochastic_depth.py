"""Stochastic depth (Huang et al., 2016), for images: in training, the new value of a sublayer is
dropped for entire samples, and scaled by ``1 / (1 - p)`` for the others.

As in the published image models, the Mega layer drops ``H`` before its gate, which leaves
``(1 - u) residual``.
"""

from typing import Optional

from torch import Tensor

from ..ops.dropout import DropoutMask, draw_mask, dropout
from .dropout import Dropout
from .sublayer import Sublayer


class PathDropout(Dropout):
    """The dropout ``values`` and, in training, dropout of entire samples, with the probability
    ``path_p``."""

    def __init__(self, values: Dropout, path_p: float):
        super().__init__(values.p, module_name=values.module_name)
        if not 0 <= path_p < 1:
            raise ValueError(f"path_p is {path_p}, but must be at least 0 and below 1")
        self.values, self.path_p = values, path_p

    def forward(self, x: Tensor) -> Tensor:
        """``(B, L, D)`` to ``(B, L, D)``."""
        x = self.values(x)
        if not self.training or self.path_p == 0:
            return x
        return x * dropout(x.new_ones(x.size(0), 1, 1), self.path_p)

    def mask(self, x: Tensor) -> Optional[DropoutMask]:
        values = self.values.mask(x)
        if not self.training or self.path_p == 0:
            return values
        keep, scale = draw_mask(x.new_empty(x.size(0), 1, 1), self.path_p)
        if values is None:
            return DropoutMask(keep.expand(x.shape), scale)
        return DropoutMask(keep & values.keep, scale * values.scale)


def drop_paths_(sublayer: Sublayer, p: float) -> None:
    """Drops the new value of a sublayer for entire samples with the probability ``p``."""
    sublayer.output_dropout = PathDropout(sublayer.output_dropout, p)
