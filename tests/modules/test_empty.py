"""Layers accept a batch of no sequences, and sequences of no positions."""

import pytest
import torch
from helpers import (
    FUNCTIONS,
    first,
    make_cross,
    make_ema,
    make_feed_forward,
    make_gated,
    padding,
    pairwise,
    randn,
)

from fairseq_mega.modules.state import LayerState


@pairwise(
    shape=[(0, 2), (5, 0), (0, 0)],
    attention_activation=FUNCTIONS,
    bidirectional=[False, True],
    chunk_size=[-1, 3],
    masked=[False, True],
)
def test_mega_layer(shape, masked, options):
    layer, _ = make_gated(**options)
    length, batch = shape
    x = randn(batch, length, 6, requires_grad=True)
    mask = padding(length, [length] * batch) if masked and batch else None
    y, weights = layer(x, mask, need_weights=True)
    assert y.shape == x.shape and weights.shape == (batch, length, length)
    layer(x, mask)[0].sum().backward()


@pytest.mark.parametrize("length, batch", [(0, 2), (5, 0), (0, 0)])
def test_other_layers(length, batch):
    x, source = randn(batch, length, 6, requires_grad=True), randn(batch, 4, 6)
    for make in (make_ema, make_feed_forward, make_cross):
        layer = make(6) if make is make_ema else make()[0]
        y = first(layer(x, source) if make is make_cross else layer(x))
        assert y.shape == x.shape
        y.sum().backward()


@torch.no_grad()
def test_a_state_that_reads_nothing_stays_as_it_is():
    layer, _ = make_gated(chunk_size=4)
    x, state = randn(2, 6, 6), LayerState()
    parts = [layer(part, state=state)[0] for part in x.split([3, 0, 3], 1)]
    assert torch.allclose(torch.cat(parts, dim=1), layer(x)[0])
    _, weights = layer(x[:, :0], state=state, need_weights=True)
    assert weights.shape == (2, 0, 2)  # of the last chunk, there are two in the cache
