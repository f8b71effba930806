"""The Mega layer (Mega, section "Moving Average Equipped Gated Attention", and "Mega-chunk")."""

from typing import Callable, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..ops.attention import tiled_attention, unchanged
from ..ops.gating import formulas
from ..ops.recompute import recomputed
from .checks import check_chunk_size, check_chunks_before, check_positive
from .chunks import band, join_weights, to_chunks, to_windows, window_mask
from .ema import MultiHeadEMA
from .linear import INIT_STD, make_linear
from .relative_bias import make_relative_bias
from .state import BeamKVCache, LayerState
from .sublayer import AttentionSublayer

Attended = Tuple[Tensor, Optional[Tensor]]
Values = Callable[[Tensor], Tensor]


class MovingAverageGatedAttention(AttentionSublayer):
    """Single-head attention with queries and keys from an EMA, and a gated residual connection.

    Args:
        embed_dim, zdim, hdim: dimensions ``D`` of the model, ``Z`` of queries and keys, ``H`` of
            values.
        ndim, truncation, longest_memory: EMA dimensions, kernel taps and initial memories, see
            ``MultiHeadEMA``.
        chunk_size: ``C``: attention runs inside chunks of ``C`` positions; -1: over all of them.
        chunks_before: ``P``: attention also sees the ``P`` chunks before its own, and if
            bidirectional the ``P`` after it.
        rel_pos_bias, max_positions: ``rotary``, or ``simple`` with a table of ``max_positions``
            (of ``(P + 1) C`` when chunked).
        bidirectional: attend and average both ways; else causal.
        **sublayer: see ``AttentionSublayer``.
    """

    def __init__(
        self,
        embed_dim: int,
        zdim: int,
        hdim: int,
        ndim: int,
        chunk_size: int = -1,
        chunks_before: int = 0,
        truncation: Optional[int] = None,
        longest_memory: Optional[int] = None,
        rel_pos_bias: str = "simple",
        max_positions: int = 1024,
        bidirectional: bool = False,
        **sublayer,
    ):
        super().__init__(embed_dim, zdim, **sublayer)
        check_positive(hdim=hdim)
        check_chunk_size("chunk_size", chunk_size)
        check_chunks_before("chunks_before", chunks_before)
        self.hdim = hdim
        self.chunk_size = chunk_size
        self.chunks_before = chunks_before
        self.bidirectional = bidirectional
        # names fixed by published checkpoints
        self.move = MultiHeadEMA(embed_dim, ndim, bidirectional, truncation, longest_memory)
        self.v_proj = make_linear(embed_dim, hdim)
        self.mx_proj = make_linear(embed_dim, zdim + hdim + 2 * embed_dim)
        self.h_proj = make_linear(hdim, embed_dim)
        self.gamma = nn.Parameter(torch.empty(2, zdim))
        self.beta = nn.Parameter(torch.zeros(2, zdim))
        nn.init.normal_(self.gamma, std=INIT_STD)
        table = max_positions if chunk_size < 0 else self.span
        self.rel_pos_bias = make_relative_bias(rel_pos_bias, zdim, table)

    @property
    def span(self) -> int:
        """``(P + 1) C``, the number of positions that all see each other; negative without
        chunks."""
        return (self.chunks_before + 1) * self.chunk_size

    def forward(
        self,
        x: Tensor,
        padding_mask: Optional[Tensor] = None,
        state: Optional[LayerState] = None,
        need_weights: bool = False,
    ) -> Attended:
        """``x (B, L, D)`` to y ``(B, L, D)`` and the attention weights ``(B, L, S)`` or None, where
        ``S`` also counts the positions in the cache of a state.

        Args:
            padding_mask: ``(B, L)``, true at padding.
            state: continues from the positions that it has read, and reads these.
        """
        if x.numel() == 0:
            keys = x.size(1) + (0 if state is None else state.cache.length)
            return x, x.new_zeros(*x.shape[:2], keys) if need_weights else None
        paper = formulas(x, self.plain_silu)
        residual = x
        x, v = self._normalised_and_values(x)  # v = X W_v + b_v, (B, L, H)

        # X' = dropout(silu(EMA(X) + omega X));  u, z, r, hx = X' W + b
        average = self.move(x, padding_mask, state)
        u, z, r, hx = self._gates(average, x.dtype, paper)

        # Q = gamma_0 silu(z) + beta_0;  K = gamma_1 silu(z) + beta_1;  O = A activation(V)
        q, k = paper.queries_and_keys(z, self.gamma, self.beta)  # (B, L, Z)
        o, weights = self._attention(q, k, v, padding_mask, state, need_weights)

        # H = dropout(activation(hx + (O * silu(r)) W_h + b_h));  Y = (1 - u) X + u H
        h = self._output(o, r, paper)
        y = paper.gated_update(residual, hx, h, u, self.activation, self.output_dropout)
        return y if self.prenorm else self.norm(y), weights

    @recomputed
    def _normalised_and_values(self, x: Tensor) -> Tuple[Tensor, Tensor]:
        if self.prenorm:
            x = self.norm(x)
        return x, self.v_proj(x)

    @recomputed
    def _gates(self, average: Tensor, dtype: torch.dtype, paper) -> Sequence[Tensor]:
        """``u, z, r, hx``, each before its activation, of ``EMA(X) + omega X``."""
        gates = self.mx_proj(paper.ema_output(average, dtype, self.dropout))
        return paper.split(gates, [self.embed_dim, self.zdim, self.hdim, self.embed_dim])

    @recomputed
    def _output(self, o: Tensor, r: Tensor, paper) -> Tensor:
        return self.h_proj(paper.reset_gated(o, r))

    def _values(self, v: Tensor) -> Tensor:
        return self.hidden_dropout(self.activation(v))

    def _attention(self, q, k, v, padding_mask, state, need_weights) -> Attended:
        """Attention to the values of ``v``: ``(B, L, H)`` and the weights or None."""
        if state is None:
            return self._attend(q, k, v, padding_mask, need_weights, self._values)
        v = self._values(v)
        return self._continue_chunks(state.cache, q, k, v, padding_mask, need_weights)

    def _attend(self, q, k, v, padding_mask, need_weights, values: Values = unchanged) -> Attended:
        """Attention over all positions, or of each chunk to its window: ``(B, L, H)`` and the
        weights ``(B, L, L)`` or None."""
        batch, length, size = q.size(0), q.size(1), self.chunk_size
        before, causal = self.chunks_before, not self.bidirectional
        in_chunks = 0 < self.span < length
        if in_chunks:
            padding_mask = window_mask(padding_mask, q, size, before, causal)
            q, k = to_chunks(q, size), to_windows(k, size, before, causal)
        start = before * size if in_chunks else 0  # of the queries among their keys
        o, weights = tiled_attention(
            q,
            k,
            v,
            self.rel_pos_bias(q.size(1), k.size(1), start, causal),
            causal=causal,
            key_padding_mask=padding_mask,
            values=(lambda v: to_windows(values(v), size, before, causal)) if in_chunks else values,
            **self.attention_options(need_weights),
        )
        if not in_chunks:
            return o, weights
        o = o.reshape(batch, -1, self.hdim)[:, :length]
        return o, None if weights is None else band(weights, batch, length, before)

    def _continue_chunks(self, cache: BeamKVCache, q, k, v, padding_mask, need_weights) -> Attended:
        """Attention that first fills the chunk in the cache, then starts new ones."""
        length, cached, size = q.size(1), cache.length, self.chunk_size
        filled = cached % size if size > 0 else cached
        room = size - filled if size > 0 else length
        if length <= room and cached > 0:
            return self._fill_chunk(cache, q, k, v, padding_mask, need_weights)
        if filled == 0:
            return self._start_chunks(cache, q, k, v, padding_mask, need_weights)
        (q, q2), (k, k2), (v, v2) = (t.tensor_split([room], dim=1) for t in (q, k, v))
        first, rest = (None, None) if padding_mask is None else padding_mask.tensor_split([room], 1)
        o, weights = self._fill_chunk(cache, q, k, v, first, need_weights)
        o2, weights2 = self._start_chunks(cache, q2, k2, v2, rest, need_weights)
        if weights is not None and weights2 is not None:
            weights = join_weights(weights, weights2, cached + length)
        return torch.cat([o, o2], dim=1), weights

    def _start_chunks(self, cache: BeamKVCache, q, k, v, padding_mask, need_weights) -> Attended:
        """Attention of positions that begin a chunk. The cache keeps an unfinished chunk and the
        chunks before it."""
        cached = cache.length  # whole chunks
        if cached > 0:
            k, v, padding_mask = cache.continued_by(k, v, padding_mask)
            q = F.pad(q, (0, 0, cached, 0))
        o, weights = self._attend(q, k, v, padding_mask, need_weights)
        length, size = q.size(1), self.chunk_size
        start = max(length - length % size - self.chunks_before * size, 0) if size > 0 else 0
        cache.clear()
        if start < length:
            mask = None if padding_mask is None else padding_mask[:, start:]
            cache.append(k[:, start:], v[:, start:], mask)
        return o[:, cached:], None if weights is None else weights[:, cached:]

    def _fill_chunk(self, cache: BeamKVCache, q, k, v, padding_mask, need_weights) -> Attended:
        """Attention of positions that fit in the chunk in the cache. A full one replaces the first
        of the chunks before it."""
        cache.append(k, v, padding_mask)
        attended = cache.attend(q, self.rel_pos_bias, **self.attention_options(need_weights))
        if cache.length == self.span:
            cache.drop(self.chunk_size)
        return attended
