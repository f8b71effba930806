"""Attention tile by tile: less memory and time than the whole table of scores.

A tile is some queries of some sequences, with the keys that they see. Its weights are dropped after
use; the backward pass recomputes them.
"""

from typing import Callable, List, NamedTuple, Optional, Tuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..autocast import in_autocast_type, is_autocast_on, without_autocast
from ..dropout import DropoutMask, apply_mask, draw_mask
from ..dropout import dropout as apply_dropout
from ..recompute import RandomNumbers, is_large
from .functions import ATTENTION_FUNCTIONS, attention_scale, attention_scores

# Queries of a causal tile. On a CPU, small tiles save computation; on a GPU they cost launches, and
# only save memory.
TILE_QUERIES, TILE_QUERIES_GPU = 256, 2048
# Weights of a tile that a CPU's caches hold, and sequences below which matrix products get slow.
TILE_WEIGHTS, TILE_SEQUENCES = 2**20, 4


class Tile(NamedTuple):
    """Queries of some sequences, and the keys that they see."""

    sequences: slice
    queries: slice
    keys: slice

    def of_queries(self, x: Tensor) -> Tensor:
        return x[self.sequences, self.queries]

    def of_keys(self, x: Tensor) -> Tensor:
        return x[self.sequences, self.keys]

    def of_bias(self, bias: Tensor) -> Tensor:
        return (bias if bias.dim() == 2 else bias[self.sequences])[..., self.queries, self.keys]


def make_tiles(
    batch: int, queries: int, keys: int, causal: bool, tile_queries: int, tile_weights: int
) -> List[Tile]:
    """Tiles with at most ``tile_queries`` queries if causal, and about ``tile_weights`` weights (0:
    no limit)."""
    rows = max(min(tile_queries, queries) if causal else queries, 1)
    sequences = max(batch, 1)
    if tile_weights:
        sequences = max(TILE_SEQUENCES, tile_weights // max(rows * keys, 1))
    return [
        Tile(
            slice(b, b + sequences),
            slice(i, i + rows),
            slice(keys - queries + min(i + rows, queries) if causal else keys),
        )
        for b in range(0, max(batch, 1), sequences)
        for i in range(0, max(queries, 1), rows)
    ]


def unchanged(v: Tensor) -> Tensor:
    return v


def tiled_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor,
    function: str,
    causal: bool = False,
    key_padding_mask: Optional[Tensor] = None,
    dropout: float = 0.0,
    need_weights: bool = False,
    scale: Optional[float] = None,
    values: Callable[[Tensor], Tensor] = unchanged,
    tiles: Optional[List[Tile]] = None,
) -> Tuple[Tensor, Optional[Tensor]]:
    """``naive.attention`` with dropout: ``(B, L, H)``, and the weights ``(B, L, S)`` or None.

    Small inputs, compilers and ``need_weights`` do without tiles. Tiles, and so dropout masks, are
    the same with and without gradients: activation checkpointing relies on it.

    Args:
        q: ``(B, L, Z)``.
        k: ``(B, S, Z)``.
        v: ``(B, S, H)``, or the argument of ``values``.
        bias: ``(L, S)`` or ``(B, L, S)``, minus infinity where a query may not see a key: the
            weight is then exactly 0.
        function: ``softmax``, ``relu2`` or ``laplace``.
        causal: the queries are the last ``L`` of the ``S`` positions; ``bias`` hides later keys.
        key_padding_mask: ``(B, S)``, true at keys that no query sees, or None.
        dropout: probability for the weights.
        need_weights: also return the weights, before dropout.
        scale: replaces ``attention_scale``, which also counts keys that ``bias`` hides.
        values: computes the values ``(B, S, H)`` from ``v``, of any shape. The backward pass calls
            it again, with the same random numbers.
        tiles: ``make_tiles`` for the device by default.
    """
    if scale is None:
        by_query = attention_scale(function, q, k.size(1), causal, key_padding_mask)
        if isinstance(by_query, Tensor):
            q, by_query = (q * by_query).to(q.dtype), 1.0
        scale = by_query
    if is_autocast_on(q):
        q, k, v, bias = (in_autocast_type(t) for t in (q, k, v, bias))

    def weights(q: Tensor, k: Tensor, bias: Tensor, tile: Optional[Tile] = None) -> Tensor:
        """Weights ``(b, l, s)`` of a tile, or of all."""
        mask = key_padding_mask
        if mask is not None and tile is not None:
            mask = tile.of_keys(mask)
        scores = attention_scores(q, k, bias, function, scale, mask)
        return ATTENTION_FUNCTIONS[function](scores)

    batch, queries, keys = q.size(0), q.size(1), k.size(1)
    in_one = need_weights or torch.compiler.is_compiling()
    with without_autocast(q):
        if in_one or (tiles is None and not is_large(v, max(batch * queries * keys, v.numel()))):
            v, w = values(v), weights(q, k, bias)
            return torch.bmm(apply_dropout(w, dropout), v), w if need_weights else None
        if tiles is None:
            sizes = (TILE_QUERIES, TILE_WEIGHTS) if q.is_cpu else (TILE_QUERIES_GPU, 0)
            tiles = make_tiles(batch, queries, keys, causal, *sizes)
        return _TiledAttention.apply(q, k, v, bias, weights, dropout, values, tiles), None


class _TiledAttention(torch.autograd.Function):
    """Keeps ``q, k, v, bias`` and dropout masks, to recompute values and weights."""

    @staticmethod
    def forward(ctx, q, k, v, bias, weights, dropout, values, tiles):
        masks = []
        ctx.weights, ctx.values, ctx.tiles, ctx.scales = weights, values, tiles, []
        ctx.random = RandomNumbers(v.device)
        seen = values(v)
        o = seen.new_empty(q.size(0), q.size(1), seen.size(2))
        for tile in tiles:
            w = weights(tile.of_queries(q), tile.of_keys(k), tile.of_bias(bias), tile)
            if dropout > 0:
                mask = draw_mask(w, dropout)
                w = apply_mask(w, mask)
                masks.append(mask.keep)
                ctx.scales.append(mask.scale)
            torch.bmm(w, tile.of_keys(seen), out=tile.of_queries(o))
        ctx.save_for_backward(q, k, v, bias, *masks)
        return o

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_o):
        q, k, v, bias, *masks = ctx.saved_tensors
        drops = [*map(DropoutMask, masks, ctx.scales)] or [None] * len(ctx.tiles)
        leaf = v.detach().requires_grad_()
        with torch.enable_grad(), ctx.random.again():
            values = ctx.values(leaf)
        inputs = q, k, values.detach(), bias
        if len(ctx.tiles) == 1:  # nothing to add up
            w, grads = _tile_gradients(ctx.weights, inputs, ctx.tiles[0], drops[0], grad_o)
            grad_q, grad_k, grad_bias = grads
            grad_values = torch.bmm(w.transpose(1, 2), grad_o)
        else:
            # In at least float32, or the rounding errors of tiles would add up.
            grad_q, grad_k, grad_values, grad_bias = (
                torch.zeros_like(t, dtype=torch.promote_types(t.dtype, torch.float32))
                for t in inputs
            )
            for tile, mask in zip(ctx.tiles, drops):
                grad = tile.of_queries(grad_o)
                w, grads = _tile_gradients(ctx.weights, inputs, tile, mask, grad)
                _add_product(tile.of_keys(grad_values), w.transpose(1, 2), grad)
                totals = tile.of_queries(grad_q), tile.of_keys(grad_k), tile.of_bias(grad_bias)
                for total, part in zip(totals, grads):
                    total += part
        (grad_v,) = torch.autograd.grad(values, leaf, grad_values.to(values.dtype))
        grads = grad_q.to(q.dtype), grad_k.to(k.dtype), grad_v.to(v.dtype), grad_bias.to(bias.dtype)
        return *grads, None, None, None, None


def _tile_gradients(weights, inputs, tile: Tile, mask: Optional[DropoutMask], grad: Tensor):
    """The weights of a tile after dropout, and the gradients of its ``q, k, bias``, from the
    gradient of its outputs and ``inputs``, the ``q``, ``k``, values and ``bias`` of all tiles."""
    q, k, v, bias = inputs
    with torch.enable_grad():
        parts = tile.of_queries(q), tile.of_keys(k), tile.of_bias(bias)
        q, k, bias = (t.detach().requires_grad_() for t in parts)
        w = weights(q, k, bias, tile)
        w = w if mask is None else apply_mask(w, mask)
    grad_w = torch.bmm(grad, tile.of_keys(v).transpose(1, 2))
    return w.detach(), torch.autograd.grad(w, (q, k, bias), grad_w)


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """``total += a b``, in one pass if the types are the same."""
    if total.dtype == a.dtype:
        total.baddbmm_(a, b)
    else:
        total += torch.bmm(a, b)
