"""Packed linear layers give the same products, are never stale, and are linear layers as before."""

import copy
import gc
import pickle
import weakref

import pytest
import torch
from helpers import TINY, assert_close, autocast, batch_of, make_model, parse, randn, sentences
from torch import nn
from torch.nn.functional import linear as exact
from torch.utils._python_dispatch import TorchDispatchMode

from fairseq_mega.modules.packed import (
    LEAST_PACKED,
    MOST_ROWS,
    PackedLinear,
    pack_linear_layers_,
)

SIDE = int(LEAST_PACKED**0.5)
pytestmark = [
    pytest.mark.cpu_only,
    pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN"),
]


class Operators(TorchDispatchMode):
    """Counts the calls of each operator."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def make_plain(bias=True, side=SIDE):
    torch.manual_seed(0)
    return nn.Linear(side, side, bias)


def make(bias=True):
    linear = make_plain(bias)
    pack_linear_layers_(linear)
    assert type(linear) is PackedLinear
    return linear


def rows(*shape, seed=1):
    return randn(*shape, SIDE, seed=seed, dtype=torch.float32)


def calls_of(linear, x):
    """How many products took a packed weight, and how many weights were packed for it."""
    with Operators() as operators:
        linear(x)
    return tuple(
        operators.calls.count(f"_{n}") for n in ("linear_pointwise", "reorder_linear_weight")
    )


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (1, 40), (2, 3), (MOST_ROWS, 1)])
@torch.no_grad()
def test_products_are_the_same(bias, shape):
    linear = make(bias)
    for seed, packed in ((1, 1), (2, 0)):  # packed at first use
        x = rows(*shape, seed=seed).transpose(0, 1)
        assert calls_of(linear, x) == (1, packed)
        assert_close(linear(x), exact(x, linear.weight, linear.bias), 1e-5)


def replace_values(linear):
    linear.weight.mul_(2.0)


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


@pytest.mark.parametrize(
    "change", [replace_values, load, replace_data, replace_parameter, step, round_to_half]
)
@torch.no_grad()
def test_changed_weights_are_noticed(change):
    linear, x = make(), rows(3)
    before = linear(x)
    change(linear)
    expected = exact(x, linear.weight, linear.bias)
    assert (expected - before).abs().max() > 1e-5
    assert_close(linear(x), expected, 1e-5)
    assert calls_of(linear, x) == (1, 0)


@torch.no_grad()
def test_models_that_are_prepared_again_see_changes_that_torch_does_not_count():
    linear, x = make(), rows(3)
    linear(x)
    linear.weight.data.mul_(2.0)  # as fairseq's optimizers of half precision do
    pack_linear_layers_(linear)
    assert_close(linear(x), exact(x, linear.weight, linear.bias), 1e-5)


def test_other_types_small_weights_and_many_rows_are_not_packed():
    small = make_plain(side=8)
    pack_linear_layers_(small)
    assert type(small) is nn.Linear
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        linear, x = make().to(dtype), rows(2).to(dtype)
        with torch.set_grad_enabled(dtype == torch.float32):
            assert torch.equal(linear(x), exact(x, linear.weight, linear.bias))
            assert calls_of(linear, x) == (0, 0)
    with torch.no_grad():
        linear, x = make(), rows(MOST_ROWS + 1)
        assert torch.equal(linear(x), exact(x, linear.weight, linear.bias))
        assert calls_of(linear, x) == (0, 0)
        with autocast():
            assert linear(rows(2)).dtype == torch.bfloat16
            assert calls_of(linear, rows(2)) == (0, 0)


@pytest.mark.parametrize("frozen", [True, False])
def test_gradients_and_training_are_as_before(frozen):
    plain, linear = make_plain(), make()
    x = rows(3).requires_grad_()
    with torch.no_grad():
        linear(x)
    results = []
    for module in (plain, linear):
        module.weight.requires_grad_(not frozen)
        optimizer = torch.optim.SGD([module.bias, x] if frozen else module.parameters(), lr=0.1)
        optimizer.zero_grad()
        module(x).square().sum().backward()
        gradients = [p.grad.clone() for p in (x, *module.parameters()) if p.grad is not None]
        if not frozen:
            optimizer.step()
        with torch.no_grad():
            results.append([*gradients, module(x)])
        x.grad = None
    assert len(results[0]) == len(results[1]) == (3 if frozen else 4)
    for expected, found in zip(*results):
        assert_close(found, expected, 1e-5)


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


@torch.no_grad()
def test_what_does_more_than_multiply_is_left_alone():
    """Other classes, hooks of the module, and a forward of its own."""
    model = nn.ModuleList([Doubled(SIDE, SIDE), *(make_plain() for _ in range(3))])
    _, hooked, before, replaced = model
    hooked.register_forward_hook(lambda module, args, y: 2 * y)
    before.register_forward_pre_hook(lambda module, args: (2 * args[0],))
    replaced.forward = lambda x: 2 * exact(x, replaced.weight, replaced.bias)
    expected = [module(rows(3)) for module in model]
    pack_linear_layers_(model)
    assert [type(module) for module in model] == [Doubled, nn.Linear, nn.Linear, nn.Linear]
    for module, y in zip(model, expected):
        assert torch.equal(module(rows(3)), y)


@torch.no_grad()
def test_hooks_that_are_added_later_fire():
    """Hooks may be on the module or on all modules."""
    linear, x = make(), rows(3)
    expected = 2 * linear(x)
    handle = linear.register_forward_hook(lambda module, args, y: 2 * y)
    assert torch.equal(linear(x), expected)
    handle.remove()
    handle = torch.nn.modules.module.register_module_forward_hook(lambda m, args, y: 2 * y)
    doubled, plain = linear(x), make_plain()
    pack_linear_layers_(plain)
    handle.remove()
    assert torch.equal(doubled, expected) and type(plain) is nn.Linear


@pytest.mark.parametrize("make_copy", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))])
@torch.no_grad()
def test_copies_pack_for_themselves(make_copy):
    linear, x = make(), rows(3)
    expected = linear(x)
    size = len(pickle.dumps(linear))
    assert size < 1.01 * len(pickle.dumps(make_plain()))
    other = make_copy(linear)
    assert calls_of(other, x) == (1, 1)
    assert torch.equal(other(x), expected) and torch.equal(linear(x), expected)
    other.weight.zero_()
    assert torch.equal(linear(x), expected) and torch.equal(other(x), linear.bias.expand(3, -1))


@torch.no_grad()
def test_nothing_outlives_the_model():
    linear, x = make(), rows(3)
    linear(x)
    weight = weakref.ref(linear.weight)
    del linear
    gc.collect()
    assert weight() is None


def test_parameters_and_the_state_dict_are_as_before():
    plain, linear = make_plain(), make()
    names = {name: id(p) for name, p in plain.named_parameters()}
    with torch.no_grad():
        linear(rows(3))
    pack_linear_layers_(plain)
    assert {name: id(p) for name, p in plain.named_parameters()} == names
    assert list(linear.state_dict()) == ["weight", "bias"]
    make_plain().load_state_dict(linear.state_dict(), strict=True)


@pytest.mark.parametrize("first, then", [(True, False), (False, True)])
def test_packed_inside_and_outside_of_inference_mode(first, then):
    linear, x = make(), rows(3)
    for mode in (first, then):
        with torch.inference_mode(mode), torch.no_grad():
            assert_close(linear(x), exact(x, linear.weight, linear.bias), 1e-5)
            assert calls_of(linear, x) == (1, 0)
    linear(x).sum().backward()
    assert torch.isfinite(linear.weight.grad).all()


@pytest.mark.parametrize("arch", TINY)
@pytest.mark.parametrize("overrides", ["{}", "{'decoder_layers': 2}"])
def test_models_that_are_to_generate_are_packed(arch, overrides, monkeypatch):
    monkeypatch.setattr("fairseq_mega.modules.packed.LEAST_PACKED", 1)
    model, cfg = make_model(TINY[arch]).float(), copy.deepcopy(parse(TINY[arch]))
    cfg.common_eval.model_overrides = overrides
    tokens = batch_of(sentences(9, 6))
    inputs = (tokens, (tokens != 1).sum(1), tokens) if arch == "mega" else (tokens,)
    names = list(model.state_dict())
    with torch.no_grad():
        expected = model(*inputs)[0]
        model.prepare_for_inference_(cfg)
        assert not any(type(module) is nn.Linear for module in model.modules())
        with Operators() as operators:
            found = model(*inputs)[0]
    assert "_linear_pointwise" in operators.calls and "addmm" not in operators.calls
    assert_close(found, expected, 1e-5)
    assert list(model.state_dict()) == names
