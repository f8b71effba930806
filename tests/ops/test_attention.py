"""Tiled attention against the paper's, outputs and gradients, in any tiles."""

import helpers
import pytest
import torch
from helpers import FUNCTIONS, assert_close, assert_same_function, padding, pairwise, randn

from fairseq_mega.ops.attention.naive import attention, visible_keys
from fairseq_mega.ops.attention.tiled import make_tiles, tiled_attention
from fairseq_mega.ops.dropout import LEAST_FOR_BITS, apply_mask, draw_mask

functions = pytest.mark.parametrize("function", FUNCTIONS)
masks = pytest.mark.parametrize("causal", [False, True])
# Queries and weights of a tile; None: few weights are in none.
sizes = pytest.mark.parametrize("tile_sizes", [None, (256, 0), (4, 1)], ids=str)
BATCH = 5


def inputs(queries, keys, requires_grad=True, of_each=False):
    """q, k, v and a bias; one for each sequence if `of_each`."""
    q, k, v = (
        randn(BATCH, n, size, seed=n + size, requires_grad=requires_grad)
        for n, size in ((queries, 4), (keys, 4), (keys, 6))
    )
    shape = (BATCH, queries, keys) if of_each else (queries, keys)
    return q, k, v, randn(*shape, seed=9, requires_grad=requires_grad)


def tiles_of(queries, keys, causal, tile_sizes):
    return tile_sizes and make_tiles(BATCH, queries, keys, causal, *tile_sizes)


def hide_future(bias, causal):
    """The bias with the causal mask in it."""
    queries, keys = bias.shape[-2:]
    future = torch.ones(queries, keys, dtype=torch.bool).triu(keys - queries + 1)
    return bias.masked_fill(future, -torch.inf) if causal else bias


@pairwise(
    lengths=[(11, 11), (3, 11), (1, 4), (1, 1)],
    tile_sizes=[None, "default", (256, 0), (4, 1), (4, 0), (256, 1)],
    function=FUNCTIONS,
    causal=[False, True],
    padded=[False, True],
    of_each=[False, True],
)
def test_tiles_equal_the_paper(lengths, tile_sizes, function, causal, padded, of_each, request):
    (queries, keys), tiles = lengths, None
    if tile_sizes == "default":
        request.getfixturevalue("recomputing")
    else:
        tiles = tiles_of(queries, keys, causal, tile_sizes)
    q, k, v, bias = inputs(queries, keys, of_each=of_each)
    mask = padding(keys, [keys, keys, max(keys - 3, 1), 1, keys]) if padded else None
    visible = visible_keys(BATCH, queries, keys, causal, mask)
    # Queries whose visible keys are all padding have no meaning under softmax, but are finite.
    some = visible.any(-1)
    leaves = {"q": q, "k": k, "v": v, "bias": bias}
    for need_weights in (False, True):
        options = dict(need_weights=need_weights, tiles=tiles)
        seen = hide_future(bias, causal)
        o, weights = tiled_attention(q, k, v, seen, function, causal, mask, **options)
        expected, expected_weights = attention(q, k, v, bias, function, visible)
        assert_same_function(o, expected, leaves, some)
        if need_weights:
            assert_close(weights[some], expected_weights[some], what="weights")
        else:
            assert weights is None and torch.isfinite(o).all()


@masks
def test_tiles_cover_everything_once(causal):
    for batch, queries, keys in ((1, 1, 1), (7, 13, 13), (9, 3, 20)):
        seen = torch.zeros(batch, queries, keys)
        visible = visible_keys(batch, queries, keys, causal)
        for tile in make_tiles(batch, queries, keys, causal, 4, 1):
            seen[tile.sequences, tile.queries, tile.keys] += 1
            # Some query of the tile sees each of its keys: none are computed only to be hidden.
            assert visible[tile.sequences, tile.queries, tile.keys].any(1).all()
        assert (seen[visible] == 1).all() and (seen <= 1).all()


def turned(v):
    """Values ``(B, S, H)`` of another shape and layout."""
    return torch.tanh(v.squeeze(0).transpose(0, 1))


@pairwise(
    function=FUNCTIONS,
    causal=[False, True],
    tile_sizes=[None, (256, 0), (4, 1)],
    need_weights=[False, True],
)
def test_values_can_be_a_function(function, causal, tile_sizes, need_weights):
    """Tiles recompute the values, and keep only the function's argument."""
    queries, keys = 7, 11
    q, k, _, bias = inputs(queries, keys)
    v = randn(1, keys, BATCH, 6, seed=3, requires_grad=True)
    calls, kept = [], []

    def values(v):
        calls.append(turned(v))
        return calls[-1]

    tiles = tiles_of(queries, keys, causal, tile_sizes)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        o, weights = tiled_attention(
            q, k, v, hide_future(bias, causal), function, causal,
            need_weights=need_weights, values=values, tiles=tiles,
        )  # fmt: skip
    assert len(calls) == 1
    visible = visible_keys(BATCH, queries, keys, causal)
    expected, expected_weights = attention(q, k, turned(v), bias, function, visible)
    assert_same_function(o, expected, {"q": q, "k": k, "v": v, "bias": bias})
    if need_weights:
        assert_close(weights, expected_weights)
    in_tiles = tiles is not None and not need_weights
    assert len(calls) == (2 if in_tiles else 1)
    if in_tiles:
        memory = {t.untyped_storage().data_ptr() for t in kept}
        assert v.untyped_storage().data_ptr() in memory
        assert calls[0].untyped_storage().data_ptr() not in memory


@functions
@sizes
def test_values_have_the_same_type_in_both_passes(function, tile_sizes):
    """The backward pass uses autocast's type, although autocast has ended."""
    q, k, v, bias = (t.detach().float().requires_grad_() for t in inputs(9, 9))
    seen = []

    def values(v):
        with torch.no_grad():
            seen.append((v.dtype, (v @ v.transpose(1, 2)).dtype))
        return torch.tanh(v)

    with helpers.autocast():
        tiles = tiles_of(9, 9, False, tile_sizes)
        o, _ = tiled_attention(q, k, v, bias, function, values=values, tiles=tiles)
    o.backward(torch.ones_like(o))
    assert o.dtype == torch.bfloat16 and v.grad.dtype == torch.float32
    assert set(seen) == {(torch.bfloat16, torch.bfloat16)} and len(seen) == (2 if tiles else 1)


@pairwise(
    function=FUNCTIONS,
    causal=[False, True],
    tile_sizes=[None, (256, 0), (4, 1)],
)
def test_the_backward_pass_drops_the_same_weights(function, causal, tile_sizes):
    q, k, v, bias = inputs(5, 5)
    tiles = tiles_of(5, 5, causal, tile_sizes)

    def attended(q, k, v, bias):
        torch.manual_seed(1)
        options = dict(dropout=0.5, tiles=tiles)
        return tiled_attention(q, k, v, hide_future(bias, causal), function, causal, **options)[0]

    assert torch.autograd.gradcheck(attended, (q, k, v, bias), atol=1e-6)
    expected = attended(q, k, v, bias)
    with torch.no_grad():
        assert torch.equal(attended(q, k, v, bias), expected)


@masks
@pytest.mark.parametrize("length", [9, 64])
@pytest.mark.parametrize("tile_sizes", [(256, 0), (4, 1), (32, 0)])
def test_each_tile_has_a_dropout_mask_of_its_own(causal, length, tile_sizes):
    """Masks of outputs and gradients are drawn one tile after the other, some from random bits."""
    q, k, v, bias = inputs(length, length)
    tiles = tiles_of(length, length, causal, tile_sizes)
    options = dict(dropout=0.3, tiles=tiles)
    torch.manual_seed(1)
    o, _ = tiled_attention(q, k, v, hide_future(bias, causal), "softmax", causal, **options)
    torch.manual_seed(1)
    dropped, largest = torch.zeros(BATCH, length, length, dtype=q.dtype), 0
    _, weights = attention(q, k, v, bias, "softmax", visible_keys(BATCH, length, length, causal))
    for tile in tiles:
        part = weights[tile.sequences, tile.queries, tile.keys]
        dropped[tile.sequences, tile.queries, tile.keys] = apply_mask(part, draw_mask(part, 0.3))
        largest = max(largest, part.numel())
    if length == 64 and tile_sizes == (256, 0) and not causal:
        assert largest >= LEAST_FOR_BITS
    assert_same_function(o, dropped @ v, {"q": q, "k": k, "v": v, "bias": bias})


def test_dropout_falls_on_weights_alone():
    q, k, v, bias = inputs(11, 11, requires_grad=False)
    torch.manual_seed(1)
    _, weights = tiled_attention(q, k, v, bias, "softmax", dropout=0.5, need_weights=True)
    assert_close(weights.sum(-1), torch.ones(BATCH, 11, dtype=q.dtype))


@functions
def test_a_scale_that_is_given_is_used(function):
    q, k, v, bias = inputs(3, 8, requires_grad=False)
    given, _ = tiled_attention(q, k, v, bias, function, scale=0.0)
    without, _ = tiled_attention(0 * q, k, v, bias, function)
    assert_close(given, without)


@pairwise(function=FUNCTIONS, causal=[False, True], autocast=[False, True])
def test_half_precision_gradients_add_up_in_float32(function, causal, autocast):
    """The error does not grow with the number of tiles."""
    exact = [t.detach() for t in inputs(64, 64)]
    grad = randn(BATCH, 64, 6, seed=8)
    largest = []
    for tile_sizes in ((64, 0), (1, 1)):
        errors = []
        leaves = [t.clone().requires_grad_() for t in exact]
        typed = torch.float32 if autocast else torch.bfloat16
        rough = [t.to(typed).requires_grad_() for t in exact]
        for tensors, context in ((leaves, False), (rough, autocast)):
            with helpers.autocast(enabled=context):
                q, k, v, bias = tensors
                seen = hide_future(bias, causal)
                tiles = tiles_of(64, 64, causal, tile_sizes)
                o, _ = tiled_attention(q, k, v, seen, function, causal, tiles=tiles)
            o.backward(grad.to(o.dtype))
        for ours, expected in zip(rough, leaves):
            error = (ours.grad.double() - expected.grad).norm() / expected.grad.norm()
            errors.append(error.item())
        largest.append(max(errors))
    assert largest[1] < 1.3 * largest[0] + 1e-3 and largest[0] < 0.02
