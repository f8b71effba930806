"""Tiled attention against the paper's, outputs and gradients, in any tiles."""

import helpers
import pytest
import torch
from helpers import FUNCTIONS, assert_close, assert_same_function, padding, randn

from fairseq_mega.ops.attention.naive import attention, visible_keys
from fairseq_mega.ops.attention.tiled import make_tiles, tiled_attention

functions = pytest.mark.parametrize("function", FUNCTIONS)
masks = pytest.mark.parametrize("causal", [False, True])
BATCH = 5


def inputs(queries, keys, requires_grad=True, of_each=False):
    """q, k, v and a bias; of its own for each sequence if `of_each`."""
    q, k, v = (
        randn(BATCH, n, size, seed=n + size, requires_grad=requires_grad)
        for n, size in ((queries, 4), (keys, 4), (keys, 6))
    )
    shape = (BATCH, queries, keys) if of_each else (queries, keys)
    return q, k, v, randn(*shape, seed=9, requires_grad=requires_grad)


def hide_future(bias, causal):
    """The bias with the causal mask in it."""
    queries, keys = bias.shape[-2:]
    future = torch.ones(queries, keys, dtype=torch.bool).triu(keys - queries + 1)
    return bias.masked_fill(future, -torch.inf) if causal else bias


@functions
@masks
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("of_each", [False, True])
@pytest.mark.parametrize("queries, keys", [(11, 11), (3, 11), (1, 4), (1, 1)])
@pytest.mark.parametrize(
    "tile_queries, tile_weights, kept",  # weights that are few, and all in one tile, may be kept
    [(256, 0, False), (256, 0, True), (4, 1, False), (4, 0, False), (256, 1, False)],
)
def test_tiles_equal_the_paper(
    function, causal, padded, of_each, queries, keys, tile_queries, tile_weights, kept, request
):
    if not kept:
        request.getfixturevalue("recomputing")
    q, k, v, bias = inputs(queries, keys, of_each=of_each)
    mask = padding(keys, [keys, keys, max(keys - 3, 1), 1, keys]) if padded else None
    tiles = dict(tile_queries=tile_queries, tile_weights=tile_weights)
    visible = visible_keys(BATCH, queries, keys, causal, mask)
    # Queries whose visible keys are all padding have no meaning under softmax, but are finite.
    some = visible.any(-1)
    leaves = {"q": q, "k": k, "v": v, "bias": bias}
    for need_weights in (False, True):
        options = dict(need_weights=need_weights, **tiles)
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
        for tile in make_tiles(batch, queries, keys, causal, 4, 1):
            seen[tile.sequences, tile.queries, tile.keys] += 1
        visible = visible_keys(batch, queries, keys, causal)
        assert (seen[visible] == 1).all() and (seen <= 1).all()


@functions
@masks
@pytest.mark.parametrize("tile_queries, tile_weights", [(256, 0), (4, 1)])
@pytest.mark.usefixtures("recomputing")
def test_the_backward_pass_drops_the_same_weights(function, causal, tile_queries, tile_weights):
    q, k, v, bias = inputs(9, 9)

    def attended(q, k, v, bias):
        torch.manual_seed(1)
        options = dict(dropout=0.5, tile_queries=tile_queries, tile_weights=tile_weights)
        return tiled_attention(q, k, v, hide_future(bias, causal), function, causal, **options)[0]

    assert torch.autograd.gradcheck(attended, (q, k, v, bias), atol=1e-6)
    expected = attended(q, k, v, bias)
    with torch.no_grad():
        assert torch.equal(attended(q, k, v, bias), expected)


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


@functions
@masks
@pytest.mark.parametrize("autocast", [False, True])
def test_half_precision_gradients_add_up_in_float32(function, causal, autocast):
    """The error does not grow with the number of tiles."""
    exact = [t.detach() for t in inputs(64, 64)]
    grad = randn(BATCH, 64, 6, seed=8)
    largest = []
    for tile_queries, tile_weights in ((64, 0), (1, 1)):
        errors = []
        leaves = [t.clone().requires_grad_() for t in exact]
        typed = torch.float32 if autocast else torch.bfloat16
        rough = [t.to(typed).requires_grad_() for t in exact]
        for tensors, context in ((leaves, False), (rough, autocast)):
            with helpers.autocast(enabled=context):
                q, k, v, bias = tensors
                options = dict(tile_queries=tile_queries, tile_weights=tile_weights)
                seen = hide_future(bias, causal)
                o, _ = tiled_attention(q, k, v, seen, function, causal, **options)
            o.backward(grad.to(o.dtype))
        for ours, expected in zip(rough, leaves):
            error = (ours.grad.double() - expected.grad).norm() / expected.grad.norm()
            errors.append(error.item())
        largest.append(max(errors))
    assert largest[1] < 1.3 * largest[0] + 1e-3 and largest[0] < 0.02
