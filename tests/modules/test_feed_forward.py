"""NormalizedFeedForwardNetwork against the paper, and its dropouts."""

import pytest
import reference
import torch
from helpers import (
    FEED_FORWARD,
    NORMS,
    assert_close,
    assert_same_function,
    make_feed_forward,
    pairwise,
    randn,
    tensors_of,
)

from fairseq_mega.modules import NormalizedFeedForwardNetwork


@pairwise(
    norm_type=NORMS,
    prenorm=[True, False],
    activation=["silu", "relu", "tanh", "gelu"],
    shape=[(1, 1, 6), (3, 5, 6)],
)
def test_equals_reference(shape, options):
    module, config = make_feed_forward(**options)
    x = randn(*shape, requires_grad=True)
    expected = reference.feed_forward(tensors_of(module), config, x)
    assert_same_function(module(x), expected, {"x": x, **dict(module.named_parameters())})


def passes_a_constant(**options):
    """A network whose update is dropout(1 * hidden_dropout(1)), of x = 0: zero where dropped."""
    module, _ = make_feed_forward(embed_dim=40, ffn_hidden_dim=40, activation="relu", **options)
    with torch.no_grad():
        module.fc1.weight.zero_()
        module.fc1.bias.fill_(1.0)
        module.fc2.weight.copy_(torch.eye(40))
        module.fc2.bias.zero_()
    return module.train()(torch.zeros(2, 20, 40, dtype=torch.float64))


@pytest.mark.parametrize("kind", ["dropout", "hidden_dropout"])
def test_dropout_zeroes_and_scales(kind):
    torch.manual_seed(0)
    y = passes_a_constant(**{kind: 0.25})
    values = y.unique()
    assert_close(values, torch.tensor([0.0, 1 / 0.75], dtype=torch.float64))
    assert (y == 0).double().mean().item() == pytest.approx(0.25, abs=0.05)
    assert not (y == 0).all(dim=1).any()


@pytest.mark.parametrize("kind", ["dropout", "hidden_dropout"])
def test_feature_dropout_drops_whole_channels(kind):
    torch.manual_seed(0)
    dropped = passes_a_constant(feature_dropout=True, **{kind: 0.3}) == 0  # (B, L, D)
    assert (dropped.all(dim=1) == dropped.any(dim=1)).all()
    assert 0.15 < dropped.double().mean() < 0.45
    assert not (dropped[0, 0] == dropped[1, 0]).all()


def test_names_and_initialisation():
    torch.manual_seed(0)
    module = NormalizedFeedForwardNetwork(**{**FEED_FORWARD, "embed_dim": 64})
    values = dict(module.named_parameters())
    assert set(values) == {
        "norm.norm.weight",
        "norm.norm.bias",
        "fc1.weight",
        "fc1.bias",
        "fc2.weight",
        "fc2.bias",
    }
    for name in ("fc1", "fc2"):
        assert values[f"{name}.weight"].std().item() == pytest.approx(0.02, rel=0.15)
        assert (values[f"{name}.bias"] == 0).all()
