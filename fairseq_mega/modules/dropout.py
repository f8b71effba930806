"""Dropout, of single values or of whole channels."""

from typing import Callable

from fairseq.modules import FairseqDropout
from torch import Tensor

from ..ops.dropout import DropoutMask, dropout, keep


class Dropout(FairseqDropout):
    """Dropout of single values. Being a ``FairseqDropout`` it obeys ``--retain-dropout``."""

    @property
    def active(self) -> bool:
        return self.p > 0 and (self.training or self.apply_during_inference)

    def forward(self, x: Tensor) -> Tensor:
        return dropout(x, self.p) if self.active else x

    def draw(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        """Dropout for tensors of the shape of ``x``, of the same values in every call."""
        return DropoutMask(x, self.p) if self.active else keep


class FeatureDropout(Dropout):
    """Dropout of whole channels: a channel of ``x (B, L, D)`` is dropped in every position of a
    sequence."""

    def forward(self, x: Tensor) -> Tensor:
        return self.draw(x)(x)

    def draw(self, x: Tensor) -> Callable[[Tensor], Tensor]:
        if not self.active:
            return keep
        channels = dropout(x.new_ones(x.size(0), 1, x.size(2)), self.p)
        return lambda x: x * channels.to(x.dtype)


def make_dropout(p: float, owner: object, feature_dropout: bool = False) -> Dropout:
    """The dropout of a module, named after its owner for ``--retain-dropout-modules``."""
    kind = FeatureDropout if feature_dropout else Dropout
    return kind(p, module_name=type(owner).__name__)
