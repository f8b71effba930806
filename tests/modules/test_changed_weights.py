"""Evaluation sees the weights as they are, however they came to change."""

import copy

import pytest
import torch
from helpers import assert_close, autocast, make_gated, randn


def sgd_step(module, x):
    module.train()
    module(x)[0].square().sum().backward()
    torch.optim.SGD(module.parameters(), lr=0.1).step()
    module.eval()


def load_others(module, x):
    module.load_state_dict({n: p + 0.1 for n, p in module.state_dict().items()})


def edit_data(module, x):
    """What fairseq's half-precision optimizers do: autograd does not notice."""
    for parameter in module.parameters():
        parameter.data.mul_(1.1)


def round_trip(module, x):
    module.to(torch.bfloat16).to(torch.float64)


@pytest.mark.parametrize("change", [sgd_step, load_others, edit_data, round_trip])
@pytest.mark.parametrize("bidirectional", [True, False])
def test_changed_weights_are_noticed(change, bidirectional):
    module, config = make_gated(rel_pos_bias="rotary", bidirectional=bidirectional)
    module.eval()
    x = randn(2, 70, config["embed_dim"])
    with torch.no_grad():
        before = module(x)[0]
    change(module, x)
    with torch.no_grad():
        after = module(x)[0]
        fresh = copy.deepcopy(module)
        assert_close(after, fresh(x)[0], 1e-12)
    assert (after - before).abs().max() > 1e-6


@torch.no_grad()
def test_autocast_leaves_nothing_behind():
    module, config = make_gated(rel_pos_bias="rotary")
    module.float().eval()
    x = randn(2, 12, config["embed_dim"]).float()
    with autocast():
        rounded = module(x)[0]
    fresh = copy.deepcopy(module)
    assert torch.equal(module(x)[0], fresh(x)[0])
    assert_close(rounded.float(), module(x)[0], 0.05)
