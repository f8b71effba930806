"""Weights of 8 bits: the products against integers as they are defined, and models of them."""

import copy
import pickle

import pytest
import torch
from helpers import TINY, batch_of, make_model, parse, randn, relative_error, sentences
from torch import nn

from fairseq_mega.models.base import INT8
from fairseq_mega.modules import int8
from fairseq_mega.modules.int8 import Int8Linear, is_exact_here, multiply_in_int8_

pytestmark = [
    pytest.mark.cpu_only,
    pytest.mark.skipif(not is_exact_here(), reason="this CPU has no exact products of 8 bits"),
]


def make_linear(inputs, outputs, bias=True):
    torch.manual_seed(1)
    return nn.Linear(inputs, outputs, bias).requires_grad_(False)


def as_integers(x):
    """Rows ``(..., D)`` in float64 as whole multiples of their largest number / 127."""
    scale = x.double().abs().amax(-1, keepdim=True) / 127
    return (x.double() / scale).round(), scale


@pytest.mark.parametrize("rows", [(1,), (7,), (3, 5), (300,), (0,)])
@pytest.mark.parametrize("bias", [True, False])
def test_products_are_those_of_integers(rows, bias):
    linear = make_linear(40, 24, bias)
    x = randn(*rows, 40).float()
    (whole_x, x_scale), (whole_w, w_scale) = as_integers(x), as_integers(linear.weight)
    expected = whole_x @ whole_w.t() * x_scale * w_scale.flatten()
    expected = expected if linear.bias is None else expected + linear.bias
    found = Int8Linear(linear)(x)
    assert found.dtype == torch.float32 and found.shape == (*rows, 24)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


def test_they_are_near_those_of_float32():
    linear, x = make_linear(512, 300), randn(50, 512).float()
    assert relative_error(Int8Linear(linear)(x), linear(x)) < 0.02


def test_rows_do_not_depend_on_each_other():
    layer, x = Int8Linear(make_linear(64, 48)), randn(6, 64).float()
    x[0] *= 1000
    whole = layer(x)
    for row, expected in zip(x, whole):
        torch.testing.assert_close(layer(row), expected, rtol=1e-6, atol=0)


def test_zeros_stay_zeros_and_what_is_not_finite_stays_so():
    layer = Int8Linear(make_linear(8, 8, bias=False))
    assert (layer(torch.zeros(2, 8)) == 0).all()
    assert not layer(torch.full((1, 8), torch.inf)).isfinite().any()
    assert not layer(torch.full((1, 8), torch.nan)).isfinite().any()


def test_weights_of_zeros_give_the_bias():
    linear = make_linear(8, 4)
    linear.weight.zero_()
    assert torch.equal(Int8Linear(linear)(torch.ones(1, 8)), linear.bias.unsqueeze(0))


def test_copies_compute_the_same():
    layer, x = Int8Linear(make_linear(32, 16)), randn(3, 32).float()
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x), layer(x))


def test_there_are_no_gradients():
    layer = Int8Linear(make_linear(8, 8))
    with pytest.raises(RuntimeError, match="no gradients"):
        layer(torch.ones(1, 8, requires_grad=True))


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16, "meta"])
def test_other_weights_are_refused(kind):
    with pytest.raises(ValueError, match="from float32 on a CPU, .* leave cpu_int8 out"):
        Int8Linear(make_linear(8, 8).to(kind))


def test_processors_that_overflow_are_refused(monkeypatch):
    """In sums of two products, which they keep in 16 bits."""

    def overflowing(x, packed, scale):
        return torch.full((2, 2), -32 * 32768.0)

    monkeypatch.setattr(int8, "_product", overflowing)
    is_exact_here.cache_clear()
    with pytest.raises(ValueError, match="no exact products of 8 bits"):
        Int8Linear(make_linear(8, 8))
    monkeypatch.undo()
    is_exact_here.cache_clear()
    assert is_exact_here()


@pytest.mark.parametrize("name", TINY)
def test_models_are_near_themselves(name):
    model = make_model(TINY[name]).float()
    tokens = batch_of(sentences(9, 6))
    arguments = (tokens, (tokens != 1).sum(1), tokens) if name == "mega" else (tokens,)
    with torch.no_grad():
        expected = model(*arguments)[0].log_softmax(-1)
        multiply_in_int8_(model)
        assert not any(type(module) is nn.Linear for module in model.modules())
        found = model(*arguments)[0].log_softmax(-1)
    assert 1e-6 < relative_error(found, expected) < 0.05


def test_layers_with_hooks_and_adapters_stay():
    class Adapter(nn.Linear):
        pass

    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), Adapter(4, 4), nn.Embedding(4, 4))
    model[1].register_forward_hook(lambda *_: None)
    multiply_in_int8_(model)
    assert [type(module) for module in model] == [Int8Linear, nn.Linear, Adapter, nn.Embedding]


@pytest.mark.parametrize(
    "overrides, replaced",
    [("{}", False), ("{'cpu_int8': True}", True), ("{'cpu_int8': False}", False), ("", False)],
)
def test_what_commands_say(overrides, replaced):
    model = make_model(TINY["mega_lm"]).float()
    cfg = copy.deepcopy(parse(TINY["mega_lm"]))
    cfg.common_eval.model_overrides = overrides
    model.prepare_for_inference_(cfg)
    assert any(isinstance(module, Int8Linear) for module in model.modules()) == replaced
    cfg.common_eval.model_overrides = "{'cpu_int8': 1}"
    with pytest.raises(ValueError, match=f"{INT8} must be True or False, not 1"):
        model.prepare_for_inference_(cfg)
