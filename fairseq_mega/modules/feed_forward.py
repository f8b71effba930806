"""The feed-forward sublayer (Mega, section "Mega Blocks")."""

import torch.nn.functional as F
from torch import Tensor, nn

from ..ops.gating import formulas
from ..ops.recompute import recomputed
from .activations import ACTIVATIONS
from .checks import check_choice, check_positive
from .dropout import make_dropout
from .linear import make_linear
from .norm import SequenceNorm


class NormalizedFeedForwardNetwork(nn.Module):
    """``x + fc2(activation(fc1(x)))`` with its norm, before or after.

    Args:
        embed_dim, ffn_hidden_dim: dimensions ``D`` of the model and of the hidden layer.
        dropout, hidden_dropout: probabilities for the output and the hidden layer.
        activation: name of the activation function.
        norm_type, prenorm, norm_affine: the norm, before the layer or after it.
        feature_dropout: drop whole channels instead of single values.
    """

    def __init__(
        self,
        embed_dim: int,
        ffn_hidden_dim: int,
        dropout: float = 0.0,
        hidden_dropout: float = 0.0,
        activation: str = "silu",
        norm_type: str = "layernorm",
        prenorm: bool = True,
        norm_affine: bool = True,
        feature_dropout: bool = False,
    ):
        super().__init__()
        check_positive(embed_dim=embed_dim, ffn_hidden_dim=ffn_hidden_dim)
        check_choice("activation", activation, ACTIVATIONS)
        self.prenorm = prenorm
        self.activation = ACTIVATIONS[activation]
        self.plain_silu = self.activation is F.silu and not feature_dropout
        self.dropout = make_dropout(dropout, self, feature_dropout)
        self.hidden_dropout = make_dropout(hidden_dropout, self, feature_dropout)
        self.norm = SequenceNorm(norm_type, embed_dim, affine=norm_affine)
        self.fc1 = make_linear(embed_dim, ffn_hidden_dim)
        self.fc2 = make_linear(ffn_hidden_dim, embed_dim)

    def forward(self, x: Tensor) -> Tensor:
        """``(B, L, D)`` to ``(B, L, D)``."""
        residual = x
        h = self._hidden(x)
        y = residual + self.dropout(self._output(h, formulas(x, self.plain_silu)))
        return y if self.prenorm else self.norm(y)

    @recomputed
    def _hidden(self, x: Tensor) -> Tensor:
        """The hidden layer before its activation, ``(B, L, H)``."""
        return self.fc1(self.norm(x) if self.prenorm else x)

    @recomputed
    def _output(self, h: Tensor, formulas) -> Tensor:
        return self.fc2(formulas.activated(h, self.activation, self.hidden_dropout))
