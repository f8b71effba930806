"""Packed linear layers give the same products, are never stale, and remain linear layers."""

import copy
import gc
import pickle
import weakref

import pytest
import torch
from helpers import (
    TINY,
    Operators,
    assert_close,
    autocast,
    batch_of,
    make_model,
    parse,
    randn,
    sentences,
)
from torch import nn
from torch.nn.functional import linear as exact

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


def check(linear, x, packs=0):
    """Checks the product, and that it takes a packed weight after packing so many; None: none."""
    with Operators() as operators:
        y = linear(x)
    names = ("_linear_pointwise", "_reorder_linear_weight")
    calls = tuple(operators.names.count(name) for name in names)
    assert calls == ((0, 0) if packs is None else (1, packs))
    assert_close(y, exact(x, linear.weight, linear.bias), 0 if packs is None else 1e-5)
    return y


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (1, 40), (2, 3), (MOST_ROWS, 1)])
@torch.no_grad()
def test_products_are_the_same(bias, shape):
    linear = make(bias)
    for seed, packs in ((1, 1), (2, 0)):  # packed at first use
        check(linear, rows(*shape, seed=seed).transpose(0, 1), packs)


def replace_data(linear):
    linear.weight.data = 2 * linear.weight.data


def replace_parameter(linear):
    linear.weight = nn.Parameter(2 * linear.weight.detach())


def step(linear):
    with torch.enable_grad():
        linear.weight.grad = torch.ones_like(linear.weight)
        torch.optim.SGD(linear.parameters(), lr=0.5).step()


CHANGES = {
    "in place": lambda linear: linear.weight.mul_(2.0),
    "load": lambda linear: linear.load_state_dict(
        {name: 2 * value for name, value in linear.state_dict().items()}
    ),
    "data": replace_data,
    "parameter": replace_parameter,
    "step": step,
    "half": lambda linear: linear.half().float(),
}


@pytest.mark.parametrize("change", CHANGES)
@torch.no_grad()
def test_changed_weights_are_noticed(change):
    linear, x = make(), rows(3)
    before = check(linear, x, 1)
    CHANGES[change](linear)
    after = check(linear, x, 1)
    assert (after - before).abs().max() > 1e-5
    check(linear, x)


@torch.no_grad()
def test_packing_again_sees_changes_that_torch_does_not_count():
    linear, x = make(), rows(3)
    linear(x)
    linear.weight.data.mul_(2.0)  # as fairseq's optimizers of half precision do
    pack_linear_layers_(linear)
    check(linear, x, 1)


def test_other_types_small_weights_and_many_rows_are_not_packed():
    small = make_plain(side=8)
    pack_linear_layers_(small)
    assert type(small) is nn.Linear
    check(make(), rows(2), None)  # with gradients
    with torch.no_grad():
        for dtype in (torch.float64, torch.bfloat16):
            check(make().to(dtype), rows(2).to(dtype), None)
        check(make(), rows(MOST_ROWS + 1), None)
        with autocast(), Operators() as operators:
            assert make()(rows(2)).dtype == torch.bfloat16
        assert "_linear_pointwise" not in operators.names


@pytest.mark.parametrize("frozen", [True, False])
def test_gradients_and_training_stay_the_same(frozen):
    results = []
    for module in (make_plain(), make()):
        x = rows(3).requires_grad_()
        with torch.no_grad():
            module(x)
        module.weight.requires_grad_(not frozen)
        trained = [p for p in (x, *module.parameters()) if p.requires_grad]
        optimizer = torch.optim.SGD(trained, lr=0.1)
        module(x).square().sum().backward()
        optimizer.step()
        with torch.no_grad():
            results.append([*(p.grad for p in trained), module(x)])
    assert len(results[0]) == (3 if frozen else 4)
    for expected, found in zip(*results):
        assert_close(found, expected, 1e-5)


class Doubled(nn.Linear):
    def forward(self, x):
        return 2 * super().forward(x)


@torch.no_grad()
def test_layers_with_hooks_or_another_forward_are_left_alone():
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
    assert len(pickle.dumps(linear)) < 1.01 * len(pickle.dumps(make_plain()))
    other = make_copy(linear)
    assert torch.equal(check(other, x, 1), expected) and torch.equal(linear(x), expected)
    other.weight.zero_()
    assert torch.equal(linear(x), expected) and torch.equal(other(x), linear.bias.expand(3, -1))


@torch.no_grad()
def test_the_packed_copy_is_freed_with_the_model():
    linear, x = make(), rows(3)
    linear(x)
    weight = weakref.ref(linear.weight)
    del linear
    gc.collect()
    assert weight() is None


@pytest.mark.parametrize("first, then", [(True, False), (False, True)])
def test_packed_inside_and_outside_of_inference_mode(first, then):
    linear, x = make(), rows(3)
    for mode in (first, then):
        with torch.inference_mode(mode), torch.no_grad():
            linear(x)
            check(linear, x)
    linear(x).sum().backward()
    assert torch.isfinite(linear.weight.grad).all()


@pytest.mark.parametrize("arch", TINY)
def test_models_that_generate_are_packed(arch, monkeypatch):
    monkeypatch.setattr("fairseq_mega.modules.packed.LEAST_PACKED", 1)
    model, cfg = make_model(TINY[arch]).float(), copy.deepcopy(parse(TINY[arch]))
    cfg.common_eval.model_overrides = "{'decoder_layers': 2}"
    tokens = batch_of(sentences(9, 6))
    inputs = (tokens, (tokens != 1).sum(1), tokens) if arch == "mega" else (tokens,)
    weights = dict(model.named_parameters())
    with torch.no_grad():
        expected = model(*inputs)[0]
        model.prepare_for_inference_(cfg)
        assert not any(type(module) is nn.Linear for module in model.modules())
        with Operators() as operators:
            found = model(*inputs)[0]
    assert "_linear_pointwise" in operators.names and "addmm" not in operators.names
    assert_close(found, expected, 1e-5)
    assert all(value is weights[name] for name, value in model.named_parameters())
    assert model.state_dict().keys() == make_model(TINY[arch]).state_dict().keys()
