"""Layers keep little for the backward pass, and recomputation gives the right gradients."""

import gc

import pytest
import torch
from helpers import CROSS, FEED_FORWARD, GATED, Storages, first, randn, retain_dropout, scatter

from fairseq_mega.modules import (
    GatedCrossAttention,
    MovingAverageGatedAttention,
    NormalizedFeedForwardNetwork,
)

pytestmark = pytest.mark.usefixtures("recomputing")
DROPOUTS = dict(dropout=0.3, hidden_dropout=0.3)
ATTENTION_DROPOUTS = dict(DROPOUTS, attention_dropout=0.3)


def make(kind, feature_dropout=False, dtype=torch.float64):
    """A layer with all of its dropouts, as a function of its input ``(B, L, D)``."""
    options = dict(feature_dropout=feature_dropout)
    if kind in ("gated", "chunks"):
        options.update(chunk_size=3 if kind == "chunks" else -1)
        layer = MovingAverageGatedAttention(**{**GATED, **ATTENTION_DROPOUTS, **options})
    elif kind == "cross":
        layer = GatedCrossAttention(**{**CROSS, **ATTENTION_DROPOUTS, **options})
    else:
        layer = NormalizedFeedForwardNetwork(**{**FEED_FORWARD, **DROPOUTS, **options})
    layer = scatter(layer.to(dtype)).train()
    source = randn(2, 4, 6, seed=5, dtype=dtype)
    return layer, (lambda x: first(layer(x, source) if kind == "cross" else layer(x)))


kinds = pytest.mark.parametrize("kind", ["gated", "chunks", "cross", "feed forward"])
features = pytest.mark.parametrize("feature_dropout", [False, True])


@kinds
@features
def test_gradients_are_those_of_the_dropped_values(kind, feature_dropout):
    _, run = make(kind, feature_dropout)

    def dropped(x):
        torch.manual_seed(1)
        return run(x)

    assert torch.autograd.gradcheck(dropped, randn(2, 5, 6, requires_grad=True))


@kinds
@features
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_layers_of_half_precision_drop_too(kind, feature_dropout, dtype):
    layer, run = make(kind, feature_dropout, dtype)
    x = randn(2, 5, 6, dtype=dtype, requires_grad=True)
    y = run(x)
    y.sum().backward()
    assert y.dtype == x.grad.dtype == dtype and torch.isfinite(x.grad).all()
    retain_dropout(layer)
    with torch.no_grad():
        assert run(x).dtype == dtype


def test_the_backward_pass_can_run_twice():
    _, run = make("gated")
    x = randn(2, 5, 6, requires_grad=True)
    y = run(x).sum()
    once, twice = (torch.autograd.grad(y, x, retain_graph=True)[0] for _ in range(2))
    assert torch.equal(once, twice)


@features
def test_second_derivatives_of_a_feed_forward_layer(feature_dropout):
    _, run = make("feed forward", feature_dropout)

    def dropped(x):
        torch.manual_seed(1)
        return run(x)

    assert torch.autograd.gradgradcheck(dropped, randn(2, 5, 6, requires_grad=True))


@pytest.mark.parametrize("kind", ["gated", "chunks", "cross"])
def test_second_derivatives_of_tiled_attention_are_an_error(kind):
    _, run = make(kind)
    x = randn(2, 5, 6, requires_grad=True)
    (grad,) = torch.autograd.grad(run(x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        grad.sum().backward()


@pytest.mark.parametrize("chunk_size", [-1, 32])
def test_a_mega_layer_keeps_little(chunk_size):
    """Three values are kept for each position and hidden dimension: the values and the gate before
    their activations, and the output of attention. Nothing else is as wide, and no weights are
    kept."""
    length, hdim = 512, 256
    layer = MovingAverageGatedAttention(8, 4, hdim, 2, dropout=0.1, chunk_size=chunk_size)
    x = torch.randn(1, length, 8, requires_grad=True)
    with Storages() as made:
        y, _ = layer(x)
    bias = (length if chunk_size < 0 else chunk_size) ** 2
    numbers = (made.kept() - sum(p.nbytes for p in layer.parameters())) / 4 - bias
    assert 3 * hdim < numbers / length < 3.7 * hdim


def test_a_feed_forward_layer_keeps_little():
    """One value is kept for each position and hidden dimension."""
    length, hdim = 512, 256
    layer = NormalizedFeedForwardNetwork(8, hdim, dropout=0.1)
    x = torch.randn(1, length, 8, requires_grad=True)
    with Storages() as made:
        y = layer(x)
    assert y.requires_grad  # or it would keep nothing
    numbers = (made.kept() - sum(p.nbytes for p in layer.parameters())) / 4
    assert hdim < numbers / length < 1.2 * hdim


@kinds
def test_no_reference_cycles_remain(kind):
    """Reference cycles would free the memory of a step only when Python collects them, steps later.
    (torch's checkpointing leaves some that hold no tensor.)"""
    layer, run = make(kind)
    x = randn(2, 5, 6, requires_grad=True)
    for _ in range(3):  # on a GPU, the first ones leave what Triton needed to compile kernels
        run(x).sum().backward()
    gc.collect()
    gc.disable()
    try:
        with Storages() as made:
            run(x).sum().backward()
        kept = made.kept()
        gc.collect()
        assert made.storages and made.kept() == kept
    finally:
        gc.enable()
