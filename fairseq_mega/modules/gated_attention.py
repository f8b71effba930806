"""The Mega layer (Mega, section "Moving Average Equipped Gated Attention", and "Mega-chunk")."""

import sys
from typing import Dict, Optional, Sequence, Tuple

import torch
import torch.nn.functional as F
from fairseq.incremental_decoding_utils import with_incremental_state
from torch import Tensor, nn

from ..ops.attention import ATTENTION_FUNCTIONS, attend
from .activations import ACTIVATIONS
from .cache import KeyValueCache
from .checks import check_choice, check_chunk_size, check_positive
from .dropout import make_dropout
from .ema import MultiHeadEMA
from .gating import gated_linear, gated_update
from .linear import INIT_STD, make_linear, split_linear
from .norm import SequenceNorm
from .recompute import recompute
from .relative_bias import make_relative_bias


@with_incremental_state
class MovingAverageGatedAttention(nn.Module):
    """Single-head attention with queries and keys from an EMA, and a gated residual connection.

    Args:
        embed_dim, zdim, hdim: dimensions ``D`` of the model, ``Z`` of queries and keys, ``H`` of
            values.
        ndim, truncation: EMA dimensions and kernel taps, see ``MultiHeadEMA``.
        dropout, attention_dropout, hidden_dropout: probabilities for the layer's input and output
            sides, the attention weights, and the values.
        chunk_size: ``C``: attention runs inside chunks of ``C`` positions; -1: over all of them.
        norm_type, prenorm, norm_affine: the norm, before the layer or after it.
        feature_dropout: drop whole channels instead of single values (not in the attention).
        rel_pos_bias, max_positions: ``rotary``, or ``simple`` with a table of ``max_positions``
            (of ``C`` when chunked).
        activation, attention_activation: names of the activation and the attention function.
        bidirectional: attend and average both ways; else causal.

    Raises:
        ValueError: at a hyperparameter out of range, or an input longer than a ``simple`` bias.
    """

    def __init__(
        self,
        embed_dim: int,
        zdim: int,
        hdim: int,
        ndim: int,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        hidden_dropout: float = 0.0,
        chunk_size: int = -1,
        truncation: Optional[int] = None,
        norm_type: str = "layernorm",
        prenorm: bool = True,
        norm_affine: bool = True,
        feature_dropout: bool = False,
        rel_pos_bias: str = "simple",
        max_positions: int = 1024,
        activation: str = "silu",
        attention_activation: str = "softmax",
        bidirectional: bool = False,
    ):
        super().__init__()
        check_positive(embed_dim=embed_dim, zdim=zdim, hdim=hdim)
        check_chunk_size("chunk_size", chunk_size)
        check_choice("activation", activation, ACTIVATIONS)
        check_choice("attention_activation", attention_activation, ATTENTION_FUNCTIONS)
        self.embed_dim, self.zdim, self.hdim = embed_dim, zdim, hdim
        self.chunk_size = chunk_size
        self.prenorm = prenorm
        self.bidirectional = bidirectional
        self.activation = ACTIVATIONS[activation]
        self.attention_activation = attention_activation

        self.dropout = make_dropout(dropout, self, feature_dropout)
        self.hidden_dropout = make_dropout(hidden_dropout, self, feature_dropout)
        self.attention_dropout = make_dropout(attention_dropout, self)

        self.norm = SequenceNorm(norm_type, embed_dim, affine=norm_affine)
        self.move = MultiHeadEMA(embed_dim, ndim, bidirectional, truncation)
        self.v_proj = make_linear(embed_dim, hdim)
        self.mx_proj = make_linear(embed_dim, zdim + hdim + 2 * embed_dim)
        self.h_proj = make_linear(hdim, embed_dim)
        self.gamma = nn.Parameter(torch.empty(2, zdim))
        self.beta = nn.Parameter(torch.zeros(2, zdim))
        nn.init.normal_(self.gamma, std=INIT_STD)
        table = max_positions if chunk_size < 0 else chunk_size
        self.rel_pos_bias = make_relative_bias(rel_pos_bias, zdim, table)

    def forward(
        self,
        x: Tensor,
        padding_mask: Optional[Tensor] = None,
        incremental_state: Optional[Dict] = None,
        need_weights: bool = False,
        hypotheses: int = 1,
    ) -> Tuple[Tensor, Optional[Tensor]]:
        """
        Args:
            x: ``(L, B, D)``.
            padding_mask: ``(B, L)``, true at padding.
            incremental_state: continues (any number of positions) what was read before. For
                inference: it holds no gradients.
            need_weights: also return the attention weights.
            hypotheses: of how many sequences, one after the other, it is expected that they go on
                from each other: the hypotheses of a sentence in beam search.

        Returns:
            y ``(L, B, D)`` and, if asked for, the weights ``(B, L, S)``: ``S`` is ``L``, preceded
            in incremental mode by the positions that are still cached.
        """
        x = x.transpose(0, 1)  # (B, L, D) from here on
        residual = x
        if self.prenorm:
            x, v = self.norm.project(x, self.v_proj, incremental_state)  # v (B, L, H)
        else:
            v = self.v_proj(x, incremental_state)
        averaged = self.move.average(x.transpose(0, 1), padding_mask, incremental_state)
        u, z, r, hx = self._project(averaged.transpose(0, 1), x.dtype, incremental_state)
        q, k = recompute(self._queries_and_keys, z)

        activation = self.activation  # left to the attention, which need not keep its result
        if incremental_state is not None or self.hidden_dropout.active:
            v, activation = self.hidden_dropout(activation(v)), None
        if incremental_state is None:
            o, weights = self._attend_in_chunks(q, k, v, padding_mask, need_weights, activation)
        else:
            cache = self._cache(incremental_state, hypotheses)
            o, weights = self._continue_chunks(cache, q, k, v, padding_mask, need_weights)

        h = hx + gated_linear(o, r, self.h_proj, incremental_state)
        y = gated_update(residual, h, u, self.activation, self.dropout)
        if not self.prenorm:
            y = self.norm(y)
        return y.transpose(0, 1), weights

    def _queries_and_keys(self, z: Tensor) -> Tuple[Tensor, Tensor]:
        """``q`` and ``k`` from ``z``, ``(B, L, Z)`` each."""
        z = F.silu(z)
        q, k = (torch.addcmul(b, z, g) for g, b in zip(self.gamma, self.beta))
        return q, k

    def _project(
        self, averaged: Tensor, dtype: torch.dtype, incremental_state: Optional[Dict]
    ) -> Sequence[Tensor]:
        """The parts ``u, z, r, hx`` of ``mx_proj``, ``(B, L, D | Z | H | D)``."""
        drop = self.dropout.draw(averaged)

        def activate(averaged: Tensor) -> Tensor:
            return drop(F.silu(averaged).to(dtype))

        sizes = [self.embed_dim, self.zdim, self.hdim, self.embed_dim]
        if incremental_state is None:
            return split_linear(averaged, self.mx_proj, sizes, activate)
        return self.mx_proj(activate(averaged), incremental_state).split(sizes, dim=-1)

    def _attend(self, q, k, v, padding_mask, need_weights, activation=None):
        """Attention of the last ``L`` positions ``q`` to all ``S``: ``(B, L, H), (B, L, S)``."""
        causal, queries, keys = not self.bidirectional, q.size(1), k.size(1)
        return attend(
            q,
            k,
            v,
            self.rel_pos_bias(queries, keys, start=keys - queries, causal=causal),
            self.attention_activation,
            causal,
            padding_mask,
            activation,
            self.attention_dropout.draw,
            need_weights,
        )

    def _attend_in_chunks(self, q, k, v, padding_mask, need_weights, activation=None):
        """Attention inside each chunk, or over the whole if that is one chunk."""
        batch, length, size = q.size(0), q.size(1), self.chunk_size
        if size < 0 or length <= size:
            return self._attend(q, k, v, padding_mask, need_weights, activation)
        excess = -length % size
        if padding_mask is None and excess and self.bidirectional:
            padding_mask = torch.zeros(batch, length, dtype=torch.bool, device=q.device)
        if padding_mask is not None:
            padding_mask = F.pad(padding_mask, (0, excess), value=True).reshape(-1, size)
        q, k, v = (_to_chunks(t, size, excess) for t in (q, k, v))
        o, weights = self._attend(q, k, v, padding_mask, need_weights, activation)
        o = o.view(batch, length + excess, -1)[:, :length]
        return o, _block_diagonal(weights, batch, length) if need_weights else None

    def _continue_chunks(self, cache: KeyValueCache, q, k, v, padding_mask, need_weights):
        """Attention that first fills the chunk in ``cache``, then starts new ones."""
        length, cached = q.size(1), cache.length
        size = self.chunk_size if self.chunk_size > 0 else sys.maxsize
        if cached == 0:
            o, weights = self._attend_in_chunks(q, k, v, padding_mask, need_weights)
            unfinished = slice(length - length % size, length)
            if length % size:
                cache.append(k[:, unfinished], v[:, unfinished], _columns(padding_mask, unfinished))
            return o, weights
        if cached + length <= size:
            cache.append(k, v, padding_mask)
            # Of the type of this step: autocast may have begun or ended since the others.
            k, v = cache.keys.to(k.dtype), cache.values.to(v.dtype)
            if cache.width > 1:
                attended = self._attend_to_hypotheses(cache, q, k, v, need_weights)
            else:
                attended = self._attend(q, k, v, cache.padding_mask, need_weights)
            if cache.length == size:
                cache.clear()
            return attended

        split, outputs = size - cached, []
        weights = q.new_zeros(q.size(0), length, cached + length) if need_weights else None
        for piece in (slice(0, split), slice(split, length)):
            parts = [_columns(t, piece) for t in (q, k, v, padding_mask)]
            o, w = self._continue_chunks(cache, *parts, need_weights)
            outputs.append(o)
            if need_weights:
                weights[:, piece, cached + piece.stop - w.size(2) : cached + piece.stop] = w
        return torch.cat(outputs, dim=1), weights

    def _attend_to_hypotheses(self, cache: KeyValueCache, q, k, v, need_weights):
        """Attention of one new position of each hypothesis ``q (B, 1, Z)`` to its own past, which
        is among the keys and values of its sentence."""
        width, keys = cache.width, cache.length
        bias = self.rel_pos_bias(1, keys, start=keys - 1).view(keys, 1) + cache.lineage
        o, weights = attend(
            q.view(-1, width, self.zdim),
            k,
            v,
            bias.view(-1, width, keys * width),
            self.attention_activation,
            draw=self.attention_dropout.draw,
            need_weights=need_weights,
            copies=width,
        )
        o = o.view(-1, 1, self.hdim)
        return o, weights.view(-1, 1, keys, width).sum(-1) if need_weights else None

    def _cache(self, incremental_state: Dict, hypotheses: int = 1) -> KeyValueCache:
        saved = self.get_incremental_state(incremental_state, "attention")
        if saved is None:
            saved = {"cache": KeyValueCache(hypotheses)}
            self.set_incremental_state(incremental_state, "attention", saved)
        return saved["cache"]

    def reorder_incremental_state(self, incremental_state: Dict, new_order: Tensor) -> None:
        saved = self.get_incremental_state(incremental_state, "attention")
        if saved is not None:
            saved["cache"].reorder(new_order)

    def carried(self, incremental_state: Dict) -> Tuple[Tensor, Tensor, Tensor]:
        """What a chunked layer keeps of the tokens without padding that the state has seen: the
        EMA's ``h (B, D, N)``, and the keys ``(B, C, Z)`` and values ``(B, C, H)`` of the chunk that
        is not full yet, followed by zeros."""
        h, cache = self.move.carried(incremental_state), self._cache(incremental_state)
        like = self.v_proj.weight  # of the model's type, in which keys and values are
        keys = like.new_zeros(h.size(0), self.chunk_size, self.zdim)
        values = like.new_zeros(h.size(0), self.chunk_size, self.hdim)
        if cache.length > 0:
            keys[:, : cache.length] = cache.keys
            values[:, : cache.length] = cache.values
        return h, keys, values

    def carry(
        self, incremental_state: Dict, h: Tensor, keys: Tensor, values: Tensor, length: int
    ) -> None:
        """Lets a state, in which something was read, go on from what another ``carried``.

        Args:
            length: how many positions of the chunk are filled.
        """
        self.move.carry(incremental_state, h)
        cache = self._cache(incremental_state)
        cache.clear()
        if length > 0:
            cache.append(keys[:, :length], values[:, :length], None)


def _columns(x: Optional[Tensor], columns: slice) -> Optional[Tensor]:
    return None if x is None else x[:, columns]


def _to_chunks(x: Tensor, size: int, excess: int) -> Tensor:
    """``(B, L, Z)`` padded with ``excess`` zeros to ``(B chunks, size, Z)``."""
    if excess:  # F.pad copies in any case
        x = F.pad(x, (0, 0, 0, excess))
    return x.reshape(-1, size, x.size(2))


def _block_diagonal(weights: Tensor, batch: int, length: int) -> Tensor:
    """Weights inside chunks ``(B chunks, C, C)`` as weights of the sequence ``(B, L, L)``."""
    size = weights.size(1)
    blocks = weights.view(batch, -1, size, size)
    whole = torch.stack([torch.block_diag(*b) for b in blocks])
    return whole[:, :length, :length]
