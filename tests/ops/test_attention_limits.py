"""Attention at extreme scores, and where padding hides almost everything."""

import pytest
import torch
from helpers import FUNCTIONS, assert_close, padding, randn

from fairseq_mega.ops.attention.naive import attention, visible_keys
from fairseq_mega.ops.attention.tiled import make_tiles, tiled_attention

functions = pytest.mark.parametrize("function", FUNCTIONS)
BATCH, LENGTH = 5, 11
TILES = make_tiles(BATCH, LENGTH, LENGTH, causal=True, tile_queries=4, tile_weights=1)
in_tiles = pytest.mark.parametrize("tiles", [None, TILES], ids=["whole", "tiles"])


def inputs(dtype, size=1.0):
    """q, k, v and a bias; scores of about ``size``, before their scale."""
    q, k, v = (randn(BATCH, LENGTH, 4, seed=seed, dtype=dtype) for seed in (1, 2, 3))
    bias = size * randn(LENGTH, LENGTH, seed=9, dtype=dtype)
    return [t.requires_grad_() for t in (size * q, k, v, bias)]


def causal(bias):
    future = torch.ones_like(bias, dtype=torch.bool).triu(1)
    return bias.masked_fill(future, -torch.inf)


def masks():
    """All of some rows, all but one key, the middle, and nothing."""
    mask = padding(LENGTH, [LENGTH, 0, 1, LENGTH, LENGTH])
    mask[3, 3:8] = True
    mask[4, :-1] = True
    return mask


def run(tensors, function, mask=None, tiles=None):
    q, k, v, bias = tensors
    return tiled_attention(q, k, v, causal(bias), function, True, mask, tiles=tiles)[0]


@in_tiles
@functions
@pytest.mark.parametrize("size", [1e2, 1e4])
def test_extreme_scores_are_the_papers(function, size, tiles):
    """Softmax of scores of ten thousand is the largest one; relu2 of them, a hundred million."""
    exact, rough = inputs(torch.float64, size), inputs(torch.float32, size)
    visible = visible_keys(BATCH, LENGTH, LENGTH, causal=True)
    expected, weights = attention(*exact, function, visible)
    if function == "softmax" and size == 1e4:
        assert (weights.max(-1).values > 0.99).double().mean() > 0.9
    assert_close(run(exact, function, tiles=tiles), expected, 1e-12, floor=0.0)
    o = run(rough, function, tiles=tiles)
    # A score of 1e4 has an error of 1e-3 in float32, and its softmax that in relation.
    assert_close(o.double(), expected, 1e-7 * size + 1e-6, floor=0.0)
    for tensors, result in ((exact, expected), (rough, o)):
        result.backward(torch.ones_like(result))
        assert all(torch.isfinite(t.grad).all() for t in tensors)
    for ours, theirs in zip(rough, exact):
        assert_close(ours.grad.double(), theirs.grad, 1e-6 * size + 1e-5)


@functions
def test_one_score_far_from_the_others(function):
    """Far above, softmax gives it all the weight; far below, none; and never a NaN."""
    q, k, v, bias = (t.detach() for t in inputs(torch.float32))
    for offset in (1e4, -1e4, 1e30, -1e30):
        moved = bias.clone()
        moved[:, 0] = offset
        o, weights = tiled_attention(q, k, v, moved, function, need_weights=True)
        if function != "relu2" or offset < 1e10:  # whose square is beyond float32
            assert torch.isfinite(o).all() and torch.isfinite(weights).all()
        expected = {"softmax": 1.0, "laplace": 1.0, "relu2": offset**2}[function]
        first = weights[..., 0]
        if offset < 0:
            assert (first == 0).all()
        elif offset < 1e10:
            assert_close(first, torch.full_like(first, expected), 1e-3)


@in_tiles
@functions
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_padding_of_rows_and_in_the_middle(function, dtype, tiles):
    """Outputs where something is seen are the paper's; all of them, and gradients, are finite."""
    mask = masks()
    visible = visible_keys(BATCH, LENGTH, LENGTH, True, mask)
    some = visible.any(-1)
    tensors = inputs(dtype)
    exact = [t.detach().double() for t in tensors]
    expected, _ = attention(*exact, function, visible)
    o = run(tensors, function, mask, tiles)
    tolerance = 4 * torch.finfo(dtype).eps + 1e-12
    assert_close(o.double()[some], expected[some], 4 * tolerance)
    assert torch.isfinite(o).all()
    o.float()[some].sum().backward()
    assert all(torch.isfinite(t.grad).all() for t in tensors)
    _, k, v, _ = tensors
    assert (k.grad[mask] == 0).all() and (v.grad[mask] == 0).all()
    assert (v.grad[~mask] != 0).any()


@functions
@pytest.mark.parametrize("masked", [False, True])
def test_gradients_are_those_of_finite_differences(function, masked):
    """The tests against the naive form compare with autograd; this one does not use it."""
    mask = padding(LENGTH, [LENGTH, 3, LENGTH - 2, 1, 5]) if masked else None
    tensors = inputs(torch.float64)
    assert torch.autograd.gradcheck(
        lambda *given: run(given, function, mask, TILES), tensors, atol=1e-6
    )
