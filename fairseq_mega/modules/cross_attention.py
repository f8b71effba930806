"""Gated cross attention: the decoder's view of the encoder (Mega, section "Mega Blocks")."""

from typing import Dict, NamedTuple, Optional, Tuple

import torch
from fairseq.incremental_decoding_utils import with_incremental_state
from torch import Tensor, nn

from ..ops.attention import ATTENTION_FUNCTIONS, attend
from .activations import ACTIVATIONS
from .checks import check_choice, check_positive
from .dropout import make_dropout
from .gating import gated_linear, gated_update
from .linear import make_linear
from .norm import SequenceNorm
from .relative_bias import make_relative_bias


class SharedSource(NamedTuple):
    """Which sequence each query attends to: in beam search, many of them to one.

    ``index (B / width,)``: queries ``b width .. (b + 1) width - 1`` attend to sequence
    ``index[b]``.
    """

    index: Tensor
    width: int

    @classmethod
    def of(cls, rows: Tensor) -> "SharedSource":
        """From the sequence that each query attends to, ``(B,)``."""
        index, counts = torch.unique_consecutive(rows, return_counts=True)
        width = int(counts[0])
        if bool((counts == width).all()):
            return cls(index, width)
        return cls(rows, 1)


@with_incremental_state
class GatedCrossAttention(nn.Module):
    """Single-head attention to another sequence, with a gated residual connection.

    Args:
        embed_dim, zdim: dimensions ``D`` of the model and values, ``Z`` of queries and keys.
        dropout, attention_dropout, hidden_dropout: probabilities for the output, the attention
            weights, and the values.
        norm_type, prenorm, norm_affine: the norm, before the layer or after it.
        feature_dropout: drop whole channels instead of single values (not in the attention).
        rel_pos_bias, max_positions: ``rotary``, or ``simple`` with a table of ``max_positions``.
        activation, attention_activation: names of the activation and the attention function.

    Raises:
        ValueError: at a hyperparameter out of range, or an input longer than a ``simple`` bias.
    """

    def __init__(
        self,
        embed_dim: int,
        zdim: int,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        hidden_dropout: float = 0.0,
        norm_type: str = "layernorm",
        prenorm: bool = True,
        norm_affine: bool = True,
        feature_dropout: bool = False,
        rel_pos_bias: str = "simple",
        max_positions: int = 1024,
        activation: str = "silu",
        attention_activation: str = "softmax",
    ):
        super().__init__()
        check_positive(embed_dim=embed_dim, zdim=zdim)
        check_choice("activation", activation, ACTIVATIONS)
        check_choice("attention_activation", attention_activation, ATTENTION_FUNCTIONS)
        self.embed_dim, self.zdim = embed_dim, zdim
        self.prenorm = prenorm
        self.activation = ACTIVATIONS[activation]
        self.attention_activation = attention_activation
        self.dropout = make_dropout(dropout, self, feature_dropout)
        self.hidden_dropout = make_dropout(hidden_dropout, self, feature_dropout)
        self.attention_dropout = make_dropout(attention_dropout, self)

        self.norm = SequenceNorm(norm_type, embed_dim, affine=norm_affine)
        self.k_proj = make_linear(embed_dim, zdim)
        self.v_proj = make_linear(embed_dim, embed_dim)
        self.q_proj = make_linear(embed_dim, 2 * embed_dim + zdim)
        self.h_proj = make_linear(embed_dim, embed_dim)
        self.rel_pos_bias = make_relative_bias(rel_pos_bias, zdim, max_positions)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        key_padding_mask: Optional[Tensor] = None,
        incremental_state: Optional[Dict] = None,
        need_weights: bool = False,
        shared: Optional[SharedSource] = None,
    ) -> Tuple[Tensor, Optional[Tensor]]:
        """
        Args:
            query: ``(L, B, D)``.
            key: ``(S, B, D)``, of which keys and values are made.
            key_padding_mask: ``(B, S)``, true at padding.
            incremental_state: ``query`` continues (any number of positions) what was there before;
                keys and values are made once.
            need_weights: also return the attention weights.
            shared: which of the sequences in ``key`` each query attends to, where those are fewer
                than ``B``; None: each to its own.

        Returns:
            y ``(L, B, D)`` and, if asked for, the weights ``(B, L, S)``.
        """
        x = query.transpose(0, 1)  # (B, L, D) from here on
        residual = x
        if self.prenorm:
            x = self.norm(x)
        sizes = [self.embed_dim, self.embed_dim, self.zdim]
        u, r, q = self.q_proj(x, incremental_state).split(sizes, dim=-1)

        k, v, start = self._keys_and_values(key, q.size(1), incremental_state, shared)
        bias = self.rel_pos_bias(q.size(1), k.size(1), start)  # (L, S)
        batch, length = q.shape[:2]
        if shared is not None:  # the queries of a sequence follow each other
            q = q.reshape(-1, shared.width * length, self.zdim)
            bias = bias if length == 1 else bias.repeat(shared.width, 1)
            if key_padding_mask is not None:
                key_padding_mask = key_padding_mask.index_select(0, shared.index)
        o, weights = attend(
            q,
            k,
            v,
            bias,
            self.attention_activation,
            padding=key_padding_mask,
            draw=self.attention_dropout.draw,
            need_weights=need_weights,
        )
        o = o.view(batch, length, self.embed_dim)
        if need_weights:
            weights = weights.view(batch, length, -1)

        h = gated_linear(o, r, self.h_proj, incremental_state)
        y = gated_update(residual, h, u, self.activation, self.dropout)
        if not self.prenorm:
            y = self.norm(y)
        return y.transpose(0, 1), weights

    def _keys_and_values(self, key, length: int, incremental_state, shared):
        """Keys ``(B, S, Z)``, values ``(B, S, D)``, and the position of the first query.

        The incremental state keeps them as they were made, and as the queries last shared them.
        """
        saved = self.get_incremental_state(incremental_state, "source")
        if saved is None:
            source = key.transpose(0, 1)
            made = self.k_proj(source), self.activation(self.v_proj(source))
            index = torch.arange(key.size(1), device=key.device)
            saved = {"made": made, "used": made, "index": index, "start": 0}
        if shared is not None and not torch.equal(shared.index, saved["index"]):
            used = tuple(t.index_select(0, shared.index) for t in saved["made"])
            saved = {**saved, "used": used, "index": shared.index}
        start = saved["start"]
        saved = {**saved, "start": start + length, "shared": shared is not None}
        self.set_incremental_state(incremental_state, "source", saved)
        k, v = saved["used"]
        return k, self.hidden_dropout(v), start

    def reorder_incremental_state(self, incremental_state: Dict, new_order: Tensor) -> None:
        saved = self.get_incremental_state(incremental_state, "source")
        if saved is not None and not saved["shared"]:  # else `shared` tells what is attended to
            made = tuple(t.index_select(0, new_order) for t in saved["made"])
            saved = {**saved, "made": made, "used": made}
            self.set_incremental_state(incremental_state, "source", saved)
