"""Gated cross attention: the decoder's view of the encoder (Mega, section "Mega Blocks")."""

from typing import Optional, Tuple

from torch import Tensor

from ..ops.attention import tiled_attention
from ..ops.gating import formulas
from ..ops.recompute import recomputed
from .linear import make_linear
from .relative_bias import make_relative_bias
from .state import LayerState, SourceCache
from .sublayer import AttentionSublayer


class GatedCrossAttention(AttentionSublayer):
    """Single-head attention to another sequence, with a gated residual connection.

    Args:
        embed_dim, zdim: dimensions ``D`` of the model and values, ``Z`` of queries and keys.
        rel_pos_bias, max_positions: ``rotary``, or ``simple`` with a table of ``max_positions``.
        **sublayer: see ``AttentionSublayer``.
    """

    def __init__(
        self,
        embed_dim: int,
        zdim: int,
        rel_pos_bias: str = "simple",
        max_positions: int = 1024,
        **sublayer,
    ):
        super().__init__(embed_dim, zdim, **sublayer)
        # names fixed by published checkpoints
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
        state: Optional[LayerState] = None,
        need_weights: bool = False,
    ) -> Tuple[Tensor, Optional[Tensor]]:
        """``query (B, L, D)`` to y ``(B, L, D)`` and the attention weights ``(B, L, S)`` or None.

        Args:
            key: ``(B, S, D)``, the input of keys and values; with a state, ``(B / beam, S, D)``.
            key_padding_mask: ``(B, S)``, true at padding.
            state: continues from the positions that it has read. At the first ones it keeps keys,
                values and mask; later ``key`` and ``key_padding_mask`` are ignored.
        """
        if query.numel() == 0:
            known = None if state is None else state.source
            keys = key.size(1) if known is None else known.keys.size(1)
            return query, query.new_zeros(*query.shape[:2], keys) if need_weights else None
        paper = formulas(query, self.plain_silu)
        residual = query

        # u, r, Q = X W + b
        sizes = [self.embed_dim, self.embed_dim, self.zdim]
        u, r, q = self._gates(query).split(sizes, dim=-1)

        # K = E W_k + b_k;  V = activation(E W_v + b_v);  O = A V
        if state is None:
            o, weights = self._attend(q, key, key_padding_mask, need_weights)
        else:
            if state.source is None:
                keys, values = self.k_proj(key), self.activation(self.v_proj(key))
                state.source = SourceCache(keys, values, key_padding_mask, state.beam)
            o, weights = self._attend_to(state.source, q, need_weights)

        # Y = (1 - u) X + u dropout(activation((O * silu(r)) W_h + b_h))
        h = self._output(o, r, paper)
        y = paper.gated_update(residual, None, h, u, self.activation, self.output_dropout)
        return y if self.prenorm else self.norm(y), weights

    @recomputed
    def _gates(self, x: Tensor) -> Tensor:
        """``u``, ``r`` and ``Q``, the gates before their activations."""
        return self.q_proj(self.norm(x) if self.prenorm else x)

    @recomputed
    def _output(self, o: Tensor, r: Tensor, paper) -> Tensor:
        return self.h_proj(paper.reset_gated(o, r))

    def _attend(self, q, source, key_padding_mask, need_weights):
        """Attention of ``q (B, L, Z)`` to ``source (B, S, D)``."""
        k, v = self.k_proj(source), self.v_proj(source)
        return tiled_attention(
            q,
            k,
            v,
            self.rel_pos_bias(q.size(1), k.size(1)),
            key_padding_mask=key_padding_mask,
            values=lambda v: self.hidden_dropout(self.activation(v)),
            **self.attention_options(need_weights),
        )

    def _attend_to(self, source: SourceCache, q: Tensor, need_weights: bool):
        """Attention of the next positions ``q (B, L, Z)``."""
        bias = self.rel_pos_bias(q.size(1), source.keys.size(1), source.start)
        source.start += q.size(1)
        values = self.hidden_dropout(source.values)
        return source.attend(q, values, bias, **self.attention_options(need_weights))
