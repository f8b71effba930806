"""Layers with int8 weights: their products against integers as defined, and models of them."""

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
    """Rows ``(..., D)`` in float64 as integer multiples of their largest magnitude / 127."""
    scale = x.double().abs().amax(-1, keepdim=True) / 127
    return (x.double() / scale).round(), scale


@pytest.mark.parametrize("rows", [(1,), (3, 5), (300,), (0,), (2, 0)])
@pytest.mark.parametrize("bias", [True, False])
def test_products_are_those_of_integers(rows, bias):
    linear = make_linear(40, 24, bias)
    x = randn(*rows, 40).float()
    (integer_x, x_scale), (integer_w, w_scale) = as_integers(x), as_integers(linear.weight)
    expected = integer_x @ integer_w.t() * x_scale * w_scale.flatten()
    expected = expected if linear.bias is None else expected + linear.bias
    found = Int8Linear(linear)(x)
    assert found.dtype == torch.float32 and found.shape == (*rows, 24)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("rows", [6, 300])
def test_rows_do_not_depend_on_each_other(rows):
    layer, x = Int8Linear(make_linear(64, 48)), randn(rows, 64).float()
    x[0] *= 1000
    together = layer(x)
    for i in (0, 1, rows - 1):
        assert torch.equal(layer(x[i : i + 1]), together[i : i + 1])


def test_zeros_and_infinite_values():
    linear = make_linear(8, 8)
    layer = Int8Linear(linear)
    assert torch.equal(layer(torch.zeros(2, 8)), linear.bias.expand(2, -1))
    for value in (torch.inf, torch.nan):
        assert not layer(torch.full((1, 8), value)).isfinite().any()
    linear.weight.zero_()
    assert torch.equal(Int8Linear(linear)(torch.ones(1, 8)), linear.bias.unsqueeze(0))


def test_copies_and_loaded_weights_compute_the_same():
    layer, loaded = Int8Linear(make_linear(32, 16)), Int8Linear(nn.Linear(32, 16))
    x = randn(3, 32).float()
    assert not torch.equal(loaded(x), layer(x))
    loaded.load_state_dict(layer.state_dict())
    for other in (loaded, copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert torch.equal(other(x), layer(x))


def test_gradients_are_refused():
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


def test_rows_in_bfloat16_keep_their_largest_value():
    """A quotient in bfloat16 would be rounded to 128, which is -128 in int8."""
    linear = make_linear(64, 8, bias=False)
    x = randn(200, 64).bfloat16()
    assert relative_error(Int8Linear(linear)(x), linear(x.float())) < 0.02


def test_processors_that_overflow_are_refused():
    """Processors with AVX2 alone keep sums of two products in 16 bits. oneDNN decides once, so the
    test needs a new process."""
    program = "import torch; from fairseq_mega.modules.int8 import *; Int8Linear(nn.Linear(8, 8))"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "ONEDNN_MAX_CPU_ISA": "AVX2", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0 and "has no exact int8 products" in done.stderr


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
def test_models_are_close_to_float32(name, options):
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


def test_only_plain_and_packed_layers_are_replaced():
    """Models of the hub have packed layers; hooks and adapters need the layer that they know."""

    class Adapter(nn.Linear):
        pass

    model = nn.Sequential(
        make_linear(512, 512), nn.Linear(4, 4), nn.Linear(4, 4), Adapter(4, 4), nn.Embedding(4, 4)
    )
    model[2].register_forward_hook(lambda *_: None)
    pack_linear_layers_(model)
    assert type(model[0]) is PackedLinear
    multiply_in_int8_(model)
    kinds = [Int8Linear, Int8Linear, nn.Linear, Adapter, nn.Embedding]
    assert [type(module) for module in model] == kinds
    with pytest.raises(ValueError, match="no linear layer without hooks"):
        multiply_in_int8_(model[2:])


def test_a_compiler_leaves_the_products_to_onednn():
    """The layer is one graph. torch's compiler would rewrite oneDNN's own operator, and fail."""
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


def prepare(overrides, dtype=torch.float32):
    """A model that fairseq's commands prepare with these ``--model-overrides``."""
    model, cfg = make_model(TINY["mega_lm"]).to(dtype), copy.deepcopy(parse(TINY["mega_lm"]))
    cfg.common_eval.model_overrides = overrides
    model.prepare_for_inference_(cfg)
    return model


@pytest.mark.parametrize(
    "overrides, replaced", [("{}", False), ("{'cpu_int8': True}", True), ("", False)]
)
def test_commands_ask_for_int8(overrides, replaced):
    modules = prepare(overrides).modules()
    assert any(isinstance(module, Int8Linear) for module in modules) == replaced


@pytest.mark.parametrize(
    "overrides, dtype, says",
    [
        ("{'cpu_int8': 'yes'}", torch.float32, "cpu_int8 must be True or False, not 'yes'"),
        *(
            (form, torch.float32, r"write it as \"{'cpu_int8': True}\", not .*cpu_int8")
            for form in ("dict(cpu_int8=True)", "{'cpu_int8'", "['cpu_int8']", "{1: 'cpu_int8'}")
        ),
        ("{'cpu_int8': True}", torch.half, "cpu_int8: .* not from torch.float16 .* leave it out"),
    ],
)
def test_bad_requests_are_refused_with_advice(overrides, dtype, says):
    with pytest.raises(ValueError, match=says):
        prepare(overrides, dtype)
