"""Dropout, of single values or of whole channels."""

from typing import Any, Optional

from fairseq.modules import FairseqDropout
from torch import Tensor

from ..ops.dropout import DropoutMask, draw_mask, dropout


class _Dropout(FairseqDropout):
    """Obeys ``--retain-dropout``."""

    @property
    def rate(self) -> float:
        """The probability in the present mode: 0 in evaluation, unless dropout is retained."""
        return self.p if self.training or self.apply_during_inference else 0.0


class Dropout(_Dropout):
    """Dropout of single values."""

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.p) if self.training or self.apply_during_inference else x

    def mask(self, x: Tensor) -> Optional[DropoutMask]:
        """Draws which values of ``x`` are kept; None where nothing is dropped."""
        rate = self.rate
        return draw_mask(x, rate) if rate > 0 else None


class FeatureDropout(_Dropout):
    """Dropout of channels of ``x (B, L, D)``, in all positions of a sequence."""

    def forward(self, x: Tensor) -> Tensor:
        rate = self.rate
        return x * dropout(x.new_ones(x.size(0), 1, x.size(2)), rate) if rate > 0 else x


def make_dropout(p: float, owner: object, feature_dropout: bool = False) -> Any:
    """The dropout of a module, named after its owner for ``--retain-dropout-modules``."""
    kind = FeatureDropout if feature_dropout else Dropout
    return kind(p, module_name=type(owner).__name__)
