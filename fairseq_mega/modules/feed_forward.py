"""The feed-forward sublayer (Mega, section "Mega Blocks")."""

from typing import Dict, Optional

from torch import Tensor, nn

from .activations import ACTIVATIONS
from .checks import check_choice, check_positive
from .dropout import make_dropout
from .linear import make_linear
from .norm import SequenceNorm
from .recompute import recompute


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
        self.dropout = make_dropout(dropout, self, feature_dropout)
        self.hidden_dropout = make_dropout(hidden_dropout, self, feature_dropout)
        self.norm = SequenceNorm(norm_type, embed_dim, affine=norm_affine)
        self.fc1 = make_linear(embed_dim, ffn_hidden_dim)
        self.fc2 = make_linear(ffn_hidden_dim, embed_dim)

    def forward(self, x: Tensor, incremental_state: Optional[Dict] = None) -> Tensor:
        """``(L, B, D)`` to ``(L, B, D)``; ``incremental_state`` makes many short calls faster."""
        x = x.transpose(0, 1)  # (B, L, D), the order in memory inside the models
        residual = x
        if self.prenorm:
            _, x = self.norm.project(x, self.fc1, incremental_state)
        else:
            x = self.fc1(x, incremental_state)
        x = recompute(self._second_half, x, incremental_state, draws=self.hidden_dropout.active)
        x = residual + self.dropout(x)
        if not self.prenorm:
            x = self.norm(x)
        return x.transpose(0, 1)

    def _second_half(self, x: Tensor, incremental_state: Optional[Dict]) -> Tensor:
        return self.fc2(self.hidden_dropout(self.activation(x)), incremental_state)
