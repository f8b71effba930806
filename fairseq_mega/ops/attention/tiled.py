"""Attention tile by tile: less memory and time than the whole table of scores.

A tile is some queries of some sequences, with the keys that they see. Its weights are computed from
its scores, used, and forgotten; the backward pass recomputes them.
"""

from typing import Callable, List, NamedTuple, Optional, Sequence, Tuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..autocast import in_autocast_type, is_autocast_on, without_autocast
from ..dropout import DropoutMask, apply_mask, draw_mask, dropout
from ..recompute import RandomNumbers, is_large
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
    """``naive.attention``, with dropout of the weights.

    Few weights and values are computed in one piece, and so is all for a compiler and with
    ``need_weights``. Tiles, and so the order in which dropout masks are drawn, are the same with
    and without gradients: activation checkpointing relies on it.

    Args:
        q: ``(B, L, Z)``.
        k: ``(B, S, Z)``.
        v: ``(B, S, H)``, or the argument of ``values``.
        bias: ``(L, S)`` or ``(B, L, S)``, minus infinity where a query may not see a key, which
            all attention functions turn into a weight of exactly 0.
        function: ``softmax``, ``relu2`` or ``laplace``.
        causal: the queries are the last ``L`` of the ``S`` positions, and see no later key: there,
            ``bias`` is minus infinity.
        key_padding_mask: ``(B, S)``, true at keys that no query sees, or None.
        dropout: probability for the weights.
        need_weights: also return the weights, before dropout.
        scale: replaces ``attention_scale``'s, which would also count keys that ``bias`` hides.
        values: a function of ``v`` that returns the values ``(B, S, H)``. Tiles keep ``v``, of any
            shape, and the backward pass calls the function again, with the same random numbers.
        tiles: by default those of ``make_tiles`` that suit the device.

    Returns:
        ``(B, L, H)`` and, if asked for, the weights ``(B, L, S)``.
    """
    if scale is None:
        by_query = attention_scale(function, q, k.size(1), causal, key_padding_mask)
        if isinstance(by_query, Tensor):
            q, scale = (q * by_query).to(q.dtype), 1.0
        else:
            scale = by_query
    weights = _Weights(function, scale, key_padding_mask, dropout)
    if not is_autocast_on(q):
        return _attention(q, k, v, bias, weights, causal, need_weights, values, tiles)
    q, k, v, bias = (in_autocast_type(t) for t in (q, k, v, bias))
    with without_autocast(q):
        return _attention(q, k, v, bias, weights, causal, need_weights, values, tiles)


def _attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor,
    weights: _Weights,
    causal: bool,
    need_weights: bool,
    values: Callable[[Tensor], Tensor],
    tiles: Optional[List[Tile]],
) -> Tuple[Tensor, Optional[Tensor]]:
    batch, queries, keys = q.size(0), q.size(1), k.size(1)
    in_one = need_weights or torch.compiler.is_compiling()
    if in_one or (tiles is None and not is_large(v, max(batch * queries * keys, v.numel()))):
        v, w = values(v), weights.of(q, k, bias)
        return torch.bmm(dropout(w, weights.dropout), v), w if need_weights else None
    if tiles is None:
        cpu = q.device.type == "cpu"
        sizes = (TILE_QUERIES, TILE_WEIGHTS) if cpu else (TILE_QUERIES_GPU, 0)
        tiles = make_tiles(batch, queries, keys, causal, *sizes)
    return _TiledAttention.apply(q, k, v, bias, weights, values, tiles), None


class _TiledAttention(torch.autograd.Function):
    """Keeps ``q, k, v, bias`` and dropout masks for the backward pass, which recomputes the values
    and the weights of each tile: one product of width ``Z`` more than the three of width ``Z`` and
    three of width ``H`` that there are."""

    @staticmethod
    def forward(ctx, q, k, v, bias, weights, values, tiles):
        masks = []
        ctx.weights, ctx.values, ctx.tiles, ctx.scales = weights, values, tiles, []
        ctx.random = RandomNumbers(v.device)
        seen = values(v)
        o = seen.new_empty(q.size(0), q.size(1), seen.size(2))
        for tile in tiles:
            w = weights.of(tile.of_queries(q), tile.of_keys(k), tile.of_bias(bias), tile)
            if weights.dropout > 0:
                mask = draw_mask(w, weights.dropout)
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
        drops = [DropoutMask(*each) for each in zip(masks, ctx.scales)] or [None] * len(ctx.tiles)
        leaf = v.detach().requires_grad_()
        with torch.enable_grad(), ctx.random.again():
            values = ctx.values(leaf)
        inputs = q, k, values.detach(), bias
        if len(ctx.tiles) == 1:  # nothing to add up
            w, grads = _tile_gradients(ctx.weights, inputs, ctx.tiles[0], drops[0], grad_o)
            grad_q, grad_k, grad_bias = grads
            grad_values = torch.bmm(w.transpose(1, 2), grad_o)
        else:
            grad_q, grad_k, grad_values, grad_bias = (_zero_gradient(t) for t in inputs)
            for tile, mask in zip(ctx.tiles, drops):
                grad = tile.of_queries(grad_o)
                w, grads = _tile_gradients(ctx.weights, inputs, tile, mask, grad)
                _add_product(tile.of_keys(grad_values), w.transpose(1, 2), grad)
                totals = tile.of_queries(grad_q), tile.of_keys(grad_k), tile.of_bias(grad_bias)
                for total, part in zip(totals, grads):
                    total += part
        (grad_v,) = torch.autograd.grad(values, leaf, grad_values.to(values.dtype))
        grads = (grad_q, q), (grad_k, k), (grad_v, v), (grad_bias, bias)
        return *(grad.to(t.dtype) for grad, t in grads), None, None, None


def _tile_gradients(
    weights: _Weights,
    inputs: Sequence[Tensor],
    tile: Tile,
    mask: Optional[DropoutMask],
    grad: Tensor,
) -> Tuple[Tensor, Sequence[Tensor]]:
    """The weights of a tile again, after dropout, and its gradients of ``q, k, bias``.

    Args:
        inputs: ``q``, ``k``, the values and ``bias``, whole.
        grad: of the tile's outputs.
    """
    q, k, v, bias = inputs
    with torch.enable_grad():
        q, k, bias = (
            t.detach().requires_grad_()
            for t in (tile.of_queries(q), tile.of_keys(k), tile.of_bias(bias))
        )
        w = weights.of(q, k, bias, tile)
        w = w if mask is None else apply_mask(w, mask)
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
