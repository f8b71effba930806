"""Weights packed for decoding give the same products, are never stale, and go with the decoding."""

import copy
import gc
import weakref

import pytest
import torch
from helpers import assert_close, autocast, randn
from torch import nn
from torch.nn.functional import linear as exact

from fairseq_mega.modules.projection import LEAST_PACKED, PackedWeights, apply_linear

SIDE = int(LEAST_PACKED**0.5)
pytestmark = pytest.mark.cpu_only
packs = torch.backends.mkldnn.is_available()


def make(bias=True, side=SIDE):
    torch.manual_seed(0)
    return nn.Linear(side, side, bias)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (1, 40), (2, 3)])
@torch.no_grad()
def test_packed_weights_give_the_same_product(bias, shape):
    linear, packed = make(bias), PackedWeights()
    for seed in (1, 2):
        x = randn(*shape, SIDE, seed=seed, dtype=torch.float32).transpose(0, 1)
        with packed.in_use():
            y = apply_linear(linear, x)
        assert_close(y, exact(x, linear.weight, linear.bias), 1e-5)
    assert len(packed) == packs


def replace_values(linear):
    linear.weight.data.mul_(2.0)


def load(linear):
    linear.load_state_dict({name: 2 * t for name, t in linear.state_dict().items()})


def replace_data(linear):
    linear.weight.data = 2 * linear.weight.data


def replace_parameter(linear):
    linear.weight = nn.Parameter(2 * linear.weight.detach())


def step(linear):
    with torch.enable_grad():
        linear.weight.grad = torch.ones_like(linear.weight)
        torch.optim.SGD(linear.parameters(), lr=0.5).step()


def round_to_half(linear):
    linear.half().float()


changes = [load, replace_data, replace_parameter, step, round_to_half]


@pytest.mark.parametrize("change", [replace_values, *changes])
@torch.no_grad()
def test_a_new_decoding_sees_the_weights_as_they_are_then(change):
    """However they came to change; and so does a call outside of decoding."""
    linear, x = make(), randn(3, SIDE, dtype=torch.float32)
    with PackedWeights().in_use():
        before = apply_linear(linear, x)
    change(linear)
    expected = exact(x, linear.weight, linear.bias)
    assert (expected - before).abs().max() > 1e-5
    assert torch.equal(linear(x), expected)
    with PackedWeights().in_use():
        assert_close(apply_linear(linear, x), expected, 1e-5)


@pytest.mark.parametrize("change", changes)
@torch.no_grad()
def test_a_decoding_sees_changes_that_torch_counts(change):
    linear, x, packed = make(), randn(3, SIDE, dtype=torch.float32), PackedWeights()
    with packed.in_use():
        apply_linear(linear, x)
    change(linear)
    with packed.in_use():
        assert_close(apply_linear(linear, x), exact(x, linear.weight, linear.bias), 1e-5)


def test_gradients_other_types_and_small_weights_are_not_packed():
    packed = PackedWeights()
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        linear, x = make().to(dtype), randn(2, SIDE, dtype=dtype)
        with packed.in_use(), torch.set_grad_enabled(dtype == torch.float32):
            assert torch.equal(apply_linear(linear, x), exact(x, linear.weight, linear.bias))
    with packed.in_use(), torch.no_grad():
        apply_linear(make(side=8), randn(2, 8, dtype=torch.float32))
        with autocast():
            assert apply_linear(make(), randn(2, SIDE, dtype=torch.float32)).dtype == torch.bfloat16
    assert len(packed) == 0


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


@torch.no_grad()
def test_what_does_more_than_multiply_is_called():
    """Other classes, hooks of the module and of all modules, and a forward of its own."""
    x = randn(3, SIDE, dtype=torch.float32)
    doubled = Doubled(SIDE, SIDE)
    hooked, before, replaced, plain = make(), make(), make(), make()
    hooked.register_forward_hook(lambda module, args, y: 2 * y)
    before.register_forward_pre_hook(lambda module, args: (2 * args[0],))
    replaced.forward = lambda x: 2 * exact(x, replaced.weight, replaced.bias)
    packed = PackedWeights()
    with packed.in_use():
        for module in (doubled, hooked, before, replaced):
            assert torch.equal(apply_linear(module, x), module(x))
        handle = torch.nn.modules.module.register_module_forward_hook(lambda m, args, y: 2 * y)
        doubled = apply_linear(plain, x)
        handle.remove()
    assert torch.equal(doubled, 2 * exact(x, plain.weight, plain.bias))
    assert len(packed) == 0


@torch.no_grad()
def test_copies_pack_for_themselves_and_nothing_outlives_a_decoding():
    linear, x, packed = make(), randn(3, SIDE, dtype=torch.float32), PackedWeights()
    with packed.in_use():
        apply_linear(linear, x)
    assert len(copy.deepcopy(packed)) == 0
    model = copy.deepcopy(linear)
    assert torch.equal(model(x), linear(x))
    weight = weakref.ref(linear.weight)
    del linear, packed
    gc.collect()
    assert weight() is None
