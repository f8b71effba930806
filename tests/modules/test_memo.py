"""Evaluation remembers kernels and biases, but never serves stale ones."""

import copy

import pytest
import torch
from helpers import assert_close, make_gated, randn

from fairseq_mega.modules import MultiHeadEMA


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
    x = randn(70, 2, config["embed_dim"])
    with torch.no_grad():
        before = module(x)[0]
    change(module, x)
    with torch.no_grad():
        after = module(x)[0]
        fresh = copy.deepcopy(module)
        fresh.move._memo.__init__()
        fresh.rel_pos_bias._memo.__init__()
        assert_close(after, fresh(x)[0], 1e-12)
    assert (after - before).abs().max() > 1e-6


@torch.no_grad()
def test_autocast_leaves_nothing_behind():
    module, config = make_gated(rel_pos_bias="rotary")
    module.float().eval()
    x = randn(12, 2, config["embed_dim"]).float()
    with torch.autocast("cpu", torch.bfloat16):
        rounded = module(x)[0]
    fresh = copy.deepcopy(module)
    fresh.rel_pos_bias._memo.__init__()
    assert torch.equal(module(x)[0], fresh(x)[0])
    assert_close(rounded.float(), module(x)[0], 0.05)


def test_kernels_are_remembered_in_evaluation_alone():
    ema, made = MultiHeadEMA(4, 2, truncation=69).eval(), []
    coefficients = ema.coefficients
    ema.coefficients = lambda: made.append(1) or coefficients()
    x = randn(70, 1, 4).float()
    with torch.no_grad():
        for _ in range(3):
            ema(x)
        assert len(made) == 1
        ema(x[:69])
        assert len(made) == 2
    for _ in range(2):
        ema(x).sum().backward()
    assert len(made) == 4
