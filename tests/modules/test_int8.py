"""Weights of 8 bits: the products against integers as they are defined, and models of them."""

import copy
import os
import pickle
import subprocess
import sys

import pytest
import torch
from commands import ROOT
from helpers import TINY, batch_of, make_model, needs_int8, parse, randn, relative_error, sentences
from torch import nn

from fairseq_mega.modules.int8 import Int8Linear, multiply_in_int8_
from fairseq_mega.modules.packed import PackedLinear, pack_linear_layers_

pytestmark = [pytest.mark.cpu_only, needs_int8]


def make_linear(inputs, outputs, bias=True):
    torch.manual_seed(1)
    return nn.Linear(inputs, outputs, bias).requires_grad_(False)


def as_integers(x):
    """Rows ``(..., D)`` in float64 as whole multiples of their largest number / 127."""
    scale = x.double().abs().amax(-1, keepdim=True) / 127
    return (x.double() / scale).round(), scale


@pytest.mark.parametrize("rows", [(1,), (3, 5), (300,), (0,), (2, 0)])
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


@pytest.mark.parametrize("rows", [6, 300])
def test_rows_do_not_depend_on_each_other(rows):
    layer, x = Int8Linear(make_linear(64, 48)), randn(rows, 64).float()
    x[0] *= 1000
    whole = layer(x)
    for i in (0, 1, rows - 1):
        assert torch.equal(layer(x[i : i + 1]), whole[i : i + 1])


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


def test_weights_that_are_loaded_count():
    layer, other = Int8Linear(make_linear(32, 16)), Int8Linear(nn.Linear(32, 16))
    x = randn(3, 32).float()
    assert not torch.equal(other(x), layer(x))
    other.load_state_dict(layer.state_dict())
    assert torch.equal(other(x), layer(x))


def test_there_are_no_gradients():
    layer = Int8Linear(make_linear(8, 8))
    with pytest.raises(RuntimeError, match="no gradients: .* load the model without cpu_int8"):
        layer(torch.ones(1, 8, requires_grad=True))


@pytest.mark.parametrize("kind", [torch.float64, torch.bfloat16, "meta"])
def test_it_stays_in_float32_on_the_cpu(kind):
    with pytest.raises(ValueError, match="made from float32 on a CPU, not from"):
        Int8Linear(make_linear(8, 8).to(kind))
    with pytest.raises(RuntimeError, match="stays on the CPU"):
        Int8Linear(make_linear(8, 8)).to(kind)
    assert Int8Linear(make_linear(8, 8)).float().cpu().scale.dtype == torch.float32


def test_rows_in_bfloat16_keep_their_largest_number():
    """Its quotient by a scale of 8 bits would be rounded to 128, which is -128 as an integer."""
    linear = make_linear(64, 8, bias=False)
    x = randn(200, 64).bfloat16()
    assert relative_error(Int8Linear(linear)(x), linear(x.float())) < 0.02


def test_processors_that_overflow_are_refused():
    """Those with AVX2 alone keep sums of two products in 16 bits. In a process of its own, because
    oneDNN decides once."""
    program = "import torch; from fairseq_mega.modules.int8 import *; Int8Linear(nn.Linear(8, 8))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0 and "has no exact products of 8 bits" in done.stderr


@pytest.mark.parametrize(
    "name, options",
    [
        ("mega", ""),
        ("mega_lm", ""),
        (
            "mega_lm",
            "--criterion adaptive_loss --adaptive-softmax-cutoff 8,14 --adaptive-input "
            "--adaptive-input-cutoff 8,14 --tie-adaptive-weights --adaptive-softmax-factor 2 "
            "--adaptive-input-factor 2",
        ),
    ],
)
def test_models_are_near_themselves(name, options):
    model = make_model(f"{TINY[name]} {options}").float()
    tokens = batch_of(sentences(9, 6))
    arguments = (tokens, (tokens != 1).sum(1), tokens) if name == "mega" else (tokens,)
    with torch.no_grad():
        expected = model.get_normalized_probs(model(*arguments), log_probs=True)
    multiply_in_int8_(model)
    assert not any(type(module) is nn.Linear for module in model.modules())
    found = model.get_normalized_probs(model(*arguments), log_probs=True)
    assert not found.requires_grad
    assert 1e-6 < relative_error(found, expected) < 0.05


def test_layers_with_hooks_and_adapters_stay():
    class Adapter(nn.Linear):
        pass

    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), Adapter(4, 4), nn.Embedding(4, 4))
    model[1].register_forward_hook(lambda *_: None)
    multiply_in_int8_(model)
    assert [type(module) for module in model] == [Int8Linear, nn.Linear, Adapter, nn.Embedding]
    with pytest.raises(ValueError, match="no linear layer without hooks"):
        multiply_in_int8_(model[1:])


def test_layers_with_packed_weights_are_replaced():
    """The models of the hub have packed layers."""
    model = nn.Sequential(make_linear(512, 512), make_linear(512, 4))
    pack_linear_layers_(model)
    assert [type(module) for module in model] == [PackedLinear, nn.Linear]
    multiply_in_int8_(model)
    assert [type(module) for module in model] == [Int8Linear, Int8Linear]


def test_a_compiler_leaves_the_products_to_onednn():
    """In one graph. torch's own would rewrite oneDNN's operator, and fail."""
    layer, x, seen = Int8Linear(make_linear(8, 5)), randn(3, 8, dtype=torch.float32), []
    compiled = torch.compile(
        layer, fullgraph=True, backend=lambda graph, _: seen.append(graph) or graph.forward
    )
    assert torch.equal(compiled(x), layer(x))
    operators = {node.target for graph in seen for node in graph.graph.nodes}
    assert torch.ops.fairseq_mega.int8_product in operators
    assert torch.ops.onednn.qlinear_pointwise not in operators
    torch._dynamo.reset()
    ahead = torch.compile(layer, fullgraph=True, backend="aot_eager")  # knows the shape before
    assert torch.equal(ahead(x), layer(x))


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


@pytest.mark.parametrize(
    "overrides, says",
    [
        ("{'cpu_int8': 1}", "cpu_int8 must be True or False, not 1"),
        ("dict(cpu_int8=True)", r"write it as \"{'cpu_int8': True}\", not dict\(cpu_int8=True\)"),
    ],
)
def test_what_commands_must_not_say(overrides, says):
    model, cfg = make_model(TINY["mega_lm"]).float(), copy.deepcopy(parse(TINY["mega_lm"]))
    cfg.common_eval.model_overrides = overrides
    with pytest.raises(ValueError, match=says):
        model.prepare_for_inference_(cfg)


def test_a_model_that_is_not_in_float32_is_refused_with_advice():
    model, cfg = make_model(TINY["mega_lm"]).half(), copy.deepcopy(parse(TINY["mega_lm"]))
    cfg.common_eval.model_overrides = "{'cpu_int8': True}"
    with pytest.raises(ValueError, match="cpu_int8: .* not from torch.float16 .* leave it out"):
        model.prepare_for_inference_(cfg)
