"""Attention tile by tile: less memory and time than the whole table of scores.

A tile is some queries of some sequences, with the keys that they see. Its weights are computed from
its scores, used, and forgotten; the backward pass recomputes them.
"""

from typing import List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..autocast import in_autocast_type, without_autocast
from ..dropout import DropoutMask, apply_mask, draw_mask, dropout
from ..recompute import is_much
from .functions import ATTENTION_FUNCTIONS, attention_scale, attention_scores

# Queries of a tile where the mask is causal: on two CPU cores, tiles of 256 queries took two thirds
# of the time of the whole square at L 1024.
TILE_QUERIES = 256
# On a GPU they compute less and launch more: there, tiles are for what its memory would not hold.
TILE_QUERIES_GPU = 2048
# Weights of a tile on a CPU, what its caches hold, unless TILE_SEQUENCES sequences have more: fewer
# make products of matrices slow.
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
    """Tiles of all queries, of at most ``tile_queries`` each where the mask is causal, and of so
    many sequences as have ``tile_weights`` weights together (all of them if that is 0)."""
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


class _Weights(NamedTuple):
    """What the weights of a tile depend on, beside tensors with gradients."""

    function: str
    scale: float
    key_padding_mask: Optional[Tensor]
    dropout: float

    def of(self, q: Tensor, k: Tensor, bias: Tensor, tile: Optional[Tile] = None) -> Tensor:
        """From queries, keys and bias of the tile, or of all: ``(b, l, s)``."""
        mask = self.key_padding_mask
        if mask is not None and tile is not None:
            mask = tile.of_keys(mask)
        scores = attention_scores(q, k, bias, self.function, self.scale, mask)
        return ATTENTION_FUNCTIONS[self.function](scores)

    def draw(self, weights: Tensor) -> Optional[DropoutMask]:
        return draw_mask(weights, self.dropout) if self.dropout > 0 else None

    def dropped(self, weights: Tensor, small: bool) -> Tensor:
        """``weights`` after dropout. Activation checkpointing's first pass comes here, without
        gradients, its second to ``_TiledAttention``: for large weights, both draw the same mask."""
        if small and self.dropout > 0:
            return dropout(weights, self.dropout)
        return apply_mask(weights, self.draw(weights))


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
    tile_queries: Optional[int] = None,
    tile_weights: Optional[int] = None,
) -> Tuple[Tensor, Optional[Tensor]]:
    """``naive.attention``, with dropout of the weights.

    Tiles, and so the order in which dropout masks are drawn, are the same with and without
    gradients: activation checkpointing relies on it. With ``need_weights`` there are no tiles.

    Args:
        q: ``(B, L, Z)``.
        k: ``(B, S, Z)``.
        v: ``(B, S, H)``.
        bias: ``(L, S)`` or ``(B, L, S)``, minus infinity where a query may not see a key, which
            all attention functions turn into a weight of exactly 0.
        function: ``softmax``, ``relu2`` or ``laplace``.
        causal: the queries are the last ``L`` of the ``S`` positions, and see no later key: there,
            ``bias`` is minus infinity.
        key_padding_mask: ``(B, S)``, true at keys that no query sees, or None.
        dropout: probability for the weights.
        need_weights: also return the weights, before dropout.
        scale: replaces ``attention_scale``'s, which would also count keys that ``bias`` hides.
        tile_queries, tile_weights: as ``make_tiles`` has them; by default what suits the device.

    Returns:
        ``(B, L, H)`` and, if asked for, the weights ``(B, L, S)``.
    """
    if torch.compiler.is_compiling():  # a compiler makes tiles of its own
        tile_queries, tile_weights = q.size(1), 0
    if tile_queries is None:
        tile_queries = TILE_QUERIES if q.device.type == "cpu" else TILE_QUERIES_GPU
    if tile_weights is None:
        tile_weights = TILE_WEIGHTS if q.device.type == "cpu" else 0
    if scale is None:
        by_query = attention_scale(function, q, k.size(1), causal, key_padding_mask)
        if isinstance(by_query, Tensor):
            q, scale = (q * by_query).to(q.dtype), 1.0
        else:
            scale = by_query
    q, k, v, bias = (in_autocast_type(t) for t in (q, k, v, bias))
    weights = _Weights(function, scale, key_padding_mask, dropout)
    with without_autocast(q):
        tiles = make_tiles(q.size(0), q.size(1), k.size(1), causal, tile_queries, tile_weights)
        small = not is_much(q.size(0) * q.size(1) * k.size(1), q.device)
        plain = small or torch.compiler.is_compiling() or not torch.is_grad_enabled()
        if need_weights or (len(tiles) == 1 and plain):
            w = weights.of(q, k, bias)
            return torch.bmm(weights.dropped(w, small), v), w if need_weights else None
        return _TiledAttention.apply(q, k, v, bias, weights, tiles), None


class _TiledAttention(torch.autograd.Function):
    """Keeps ``q, k, v, bias`` and dropout masks for the backward pass, which recomputes the weights
    of each tile: one product of width ``Z`` more than the three of width ``Z`` and three of width
    ``H`` that there are."""

    @staticmethod
    def forward(ctx, q, k, v, bias, weights, tiles):
        masks = []
        ctx.weights, ctx.tiles, ctx.scale = weights, tiles, 1.0
        o = v.new_empty(q.size(0), q.size(1), v.size(2))
        for tile in tiles:
            w = weights.of(tile.of_queries(q), tile.of_keys(k), tile.of_bias(bias), tile)
            mask = weights.draw(w)
            torch.bmm(apply_mask(w, mask), tile.of_keys(v), out=tile.of_queries(o))
            if mask is not None:
                masks.append(mask.keep)
                ctx.scale = mask.scale
        ctx.save_for_backward(q, k, v, bias, *masks)
        return o

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_o):
        q, k, v, bias, *masks = ctx.saved_tensors
        drops = [DropoutMask(keep, ctx.scale) for keep in masks] or [None] * len(ctx.tiles)
        if len(ctx.tiles) == 1:  # nothing to add up
            w, grads = _tile_gradients(ctx.weights, (q, k, v, bias), ctx.tiles[0], drops[0], grad_o)
            return *grads[:2], torch.bmm(w.transpose(1, 2), grad_o), grads[2], None, None
        grad_q, grad_k, grad_v, grad_bias = (_zero_gradient(t) for t in (q, k, v, bias))
        for tile, mask in zip(ctx.tiles, drops):
            grad = tile.of_queries(grad_o)
            w, grads = _tile_gradients(ctx.weights, (q, k, v, bias), tile, mask, grad)
            _add_product(tile.of_keys(grad_v), w.transpose(1, 2), grad)
            totals = tile.of_queries(grad_q), tile.of_keys(grad_k), tile.of_bias(grad_bias)
            for total, part in zip(totals, grads):
                total += part
        grads = (grad_q, q), (grad_k, k), (grad_v, v), (grad_bias, bias)
        return *(grad.to(t.dtype) for grad, t in grads), None, None


def _tile_gradients(
    weights: _Weights,
    inputs: Sequence[Tensor],
    tile: Tile,
    mask: Optional[DropoutMask],
    grad: Tensor,
) -> Tuple[Tensor, Sequence[Tensor]]:
    """The weights of a tile again, after dropout, and its gradients of ``q, k, bias``.

    Args:
        inputs: ``q, k, v, bias``, whole.
        grad: of the tile's outputs.
    """
    q, k, v, bias = inputs
    with torch.enable_grad():
        q, k, bias = (
            t.detach().requires_grad_()
            for t in (tile.of_queries(q), tile.of_keys(k), tile.of_bias(bias))
        )
        w = apply_mask(weights.of(q, k, bias, tile), mask)
    grad_w = torch.bmm(grad, tile.of_keys(v).transpose(1, 2))
    return w.detach(), torch.autograd.grad(w, (q, k, bias), grad_w)


def _zero_gradient(x: Tensor) -> Tensor:
    """For sums over tiles: in at least float32, or rounding errors add up with their number."""
    return torch.zeros_like(x, dtype=torch.promote_types(x.dtype, torch.float32))


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """``total += a b``, in one pass where the types are the same."""
    if total.dtype == a.dtype:
        total.baddbmm_(a, b)
    else:
        total += torch.bmm(a, b)
