"""The base classes of sublayers: norm, activation, dropout, and the options of attention."""

from typing import Any, Dict

import torch.nn.functional as F
from torch import nn

from ..ops.attention import ATTENTION_FUNCTIONS
from .activations import ACTIVATIONS
from .checks import check_choice, check_positive
from .dropout import make_dropout
from .norm import SequenceNorm


class Sublayer(nn.Module):
    """A sublayer with a residual connection and a norm, before the sublayer or after it.

    Args:
        embed_dim: dimension ``D`` of the model.
        dropout, hidden_dropout: probabilities for the output, and for the values or hidden layer.
        activation: name of the activation function.
        norm_type, prenorm, norm_affine: the norm, whether it comes first, and has weights.
        feature_dropout: drop whole channels instead of single values (not in the attention).
    """

    def __init__(
        self,
        embed_dim: int,
        dropout: float = 0.0,
        hidden_dropout: float = 0.0,
        activation: str = "silu",
        norm_type: str = "layernorm",
        prenorm: bool = True,
        norm_affine: bool = True,
        feature_dropout: bool = False,
    ):
        super().__init__()
        check_positive(embed_dim=embed_dim)
        check_choice("activation", activation, ACTIVATIONS)
        self.embed_dim = embed_dim
        self.prenorm = prenorm
        self.activation = ACTIVATIONS[activation]
        self.plain_silu = self.activation is F.silu and not feature_dropout
        self.dropout = make_dropout(dropout, self, feature_dropout)
        self.output_dropout = self.dropout  # of the new value alone; see ``drop_paths_``
        self.hidden_dropout = make_dropout(hidden_dropout, self, feature_dropout)
        self.norm = SequenceNorm(norm_type, embed_dim, affine=norm_affine)


class AttentionSublayer(Sublayer):
    """A sublayer with single-head attention.

    Args:
        zdim: dimension ``Z`` of queries and keys.
        attention_dropout: the probability for attention weights.
        attention_activation: name of the attention function.
        **sublayer: see ``Sublayer``.
    """

    def __init__(
        self,
        embed_dim: int,
        zdim: int,
        attention_dropout: float = 0.0,
        attention_activation: str = "softmax",
        **sublayer,
    ):
        super().__init__(embed_dim, **sublayer)
        check_positive(zdim=zdim)
        check_choice("attention_activation", attention_activation, ATTENTION_FUNCTIONS)
        self.zdim = zdim
        self.attention_activation = attention_activation
        self.attention_dropout = make_dropout(attention_dropout, self)

    def attention_options(self, need_weights: bool) -> Dict[str, Any]:
        """Arguments of ``tiled_attention``."""
        return dict(
            function=self.attention_activation,
            dropout=self.attention_dropout.rate,
            need_weights=need_weights,
        )
