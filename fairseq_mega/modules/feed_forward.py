"""The feed-forward sublayer (Mega, section "Mega Blocks")."""

from torch import Tensor

from ..ops.gating import formulas
from ..ops.recompute import recomputed
from .checks import check_positive
from .linear import make_linear
from .sublayer import Sublayer


class NormalizedFeedForwardNetwork(Sublayer):
    """``x + fc2(activation(fc1(x)))`` with its norm, before or after.

    Args:
        embed_dim, ffn_hidden_dim: dimensions ``D`` of the model and of the hidden layer.
        **sublayer: see ``Sublayer``.
    """

    def __init__(self, embed_dim: int, ffn_hidden_dim: int, **sublayer):
        super().__init__(embed_dim, **sublayer)
        check_positive(ffn_hidden_dim=ffn_hidden_dim)
        self.fc1 = make_linear(embed_dim, ffn_hidden_dim)
        self.fc2 = make_linear(ffn_hidden_dim, embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, L, D)`` to ``(B, L, D)``."""
        residual = x
        h = self._hidden(x)
        y = residual + self.output_dropout(self._output(h, formulas(x, self.plain_silu)))
        return y if self.prenorm else self.norm(y)

    @recomputed
    def _hidden(self, x: Tensor) -> Tensor:
        """The hidden layer before its activation, ``(B, L, H)``."""
        return self.fc1(self.norm(x) if self.prenorm else x)

    @recomputed
    def _output(self, h: Tensor, formulas) -> Tensor:
        return self.fc2(formulas.activated(h, self.activation, self.hidden_dropout))
