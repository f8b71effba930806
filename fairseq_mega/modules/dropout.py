"""Dropout, of single values or of whole channels."""

import torch.nn.functional as F
from fairseq.modules import FairseqDropout
from torch import Tensor


class FeatureDropout(FairseqDropout):
    """Dropout of whole channels: a channel is dropped in every position of a sequence.

    Its input is ``(B, L, D)``. Being a ``FairseqDropout`` it obeys ``--retain-dropout``.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.p == 0 or not (self.training or self.apply_during_inference):
            return x
        channels = F.dropout(x.new_ones(x.size(0), 1, x.size(2)), self.p, training=True)
        return x * channels


def make_dropout(p: float, owner: object, feature_dropout: bool = False) -> FairseqDropout:
    """The dropout of a module, named after its owner for ``--retain-dropout-modules``."""
    kind = FeatureDropout if feature_dropout else FairseqDropout
    return kind(p, module_name=type(owner).__name__)
