"""Projections are modules: hooks fire, adapters learn and quantisers quantise in every mode."""

import pytest
import torch
from fairseq.modules.quantization.pq.modules import PQLinear
from fairseq.modules.quantization.scalar import quantize_model_
from helpers import (
    TINY,
    assert_close,
    batch_of,
    first,
    make_cross,
    make_feed_forward,
    make_gated,
    make_model,
    randn,
    sentences,
)
from torch import nn

from fairseq_mega.models.state import DecodingState
from fairseq_mega.modules.state import LayerState

PROJECTIONS = {
    "gated": (make_gated, ("v_proj", "mx_proj", "h_proj")),
    "cross": (make_cross, ("k_proj", "v_proj", "q_proj", "h_proj")),
    "feed forward": (make_feed_forward, ("fc1", "fc2")),
}
EACH = [(kind, name) for kind, (_, names) in PROJECTIONS.items() for name in names]
each_projection = pytest.mark.parametrize("kind, name", EACH)


def make(kind, **options):
    """A layer and how to run it on `x (B, L, D)`, in parallel or from a state."""
    layer, _ = PROJECTIONS[kind][0](**options)
    source = randn(2, 4, 6, seed=5)

    def run(x, state=None):
        if kind == "feed forward":
            return layer(x)
        return first(layer(x, source, state=state) if kind == "cross" else layer(x, state=state))

    return layer, run


def steps(run, x):
    state = LayerState()
    with torch.no_grad():
        return torch.cat([run(x_t, state) for x_t in x.split(1, 1)], dim=1)


class LowRank(nn.Module):
    """A LoRA adapter."""

    def __init__(self, base):
        super().__init__()
        self.base = base.requires_grad_(False)
        self.a = nn.Parameter(randn(base.in_features, 2, seed=8))
        self.b = nn.Parameter(randn(2, base.out_features, seed=9))

    def forward(self, x):
        return self.base(x) + x @ self.a @ self.b


@each_projection
@pytest.mark.parametrize("training, recomputes", [(True, False), (False, False), (True, True)])
def test_hooks_fire_once(kind, name, training, recomputes, request):
    """Only hooks before a projection fire again where its input is recomputed."""
    layer, run = make(kind)
    layer.train(training)
    calls = []
    projection = getattr(layer, name)
    if recomputes:
        request.getfixturevalue("recomputing")
    else:
        projection.register_forward_pre_hook(lambda *_: calls.append("before"))
    projection.register_forward_hook(lambda *_: calls.append("after"))
    projection.register_full_backward_hook(lambda *_: calls.append("backward"))
    run(randn(2, 5, 6, requires_grad=True)).sum().backward()
    assert calls == [*([] if recomputes else ["before"]), "after", "backward"]


@each_projection
def test_the_result_of_a_hook_is_used(kind, name):
    layer, run = make(kind)
    x = randn(2, 5, 6)
    before = run(x)
    handle = getattr(layer, name).register_forward_hook(lambda module, args, y: 2 * y)
    assert (run(x) - before).abs().max() > 1e-3
    assert_close(steps(run, x), run(x))
    handle.remove()
    assert_close(run(x), before)


@each_projection
@pytest.mark.parametrize("prenorm, large", [(True, False), (False, False), (True, True)])
def test_adapters_learn_and_decode_as_they_were_trained(kind, name, prenorm, large, request):
    if large:
        request.getfixturevalue("recomputing")
    layer, run = make(kind, prenorm=prenorm)
    adapter = LowRank(getattr(layer, name))
    setattr(layer, name, adapter)
    x = randn(2, 5, 6, requires_grad=True)

    run(x).square().sum().backward()
    for parameter in (adapter.a, adapter.b):
        value = parameter.data.view(-1)[0].item()
        losses = []
        for shift in (-1e-6, 1e-6):
            parameter.data.view(-1)[0] = value + shift
            losses.append(run(x).square().sum().item())
        parameter.data.view(-1)[0] = value
        slope = (losses[1] - losses[0]) / 2e-6
        assert parameter.grad.view(-1)[0].item() == pytest.approx(slope, rel=1e-5, abs=1e-6)
    assert_close(steps(run, x.detach()), run(x.detach()))


def product_quantised(linear):
    """fairseq's `PQLinear` with blocks of two of the layer's own weights, and its weight."""
    width = linear.in_features // 2
    centroids = (
        linear.weight.detach().view(linear.out_features, width, 2).reshape(-1, 2)[:7].clone()
    )
    count = linear.out_features * width
    assignments = torch.arange(count) % len(centroids)
    bias = linear.bias.detach()
    quantised = PQLinear(centroids, assignments, bias, linear.in_features, linear.out_features)
    return quantised, quantised.weight.detach().clone()


@each_projection
def test_product_quantised_projections(kind, name):
    layer, run = make(kind)
    x = randn(2, 5, 6)
    quantised, weight = product_quantised(getattr(layer, name))
    with torch.no_grad():
        getattr(layer, name).weight.copy_(weight)
    expected = run(x)
    setattr(layer, name, quantised)
    assert_close(run(x), expected)
    assert_close(steps(run, x), expected)
    run(x).sum().backward()
    assert quantised.centroids.grad.abs().max() > 0


@pytest.mark.parametrize("arch", TINY)
def test_fairseqs_scalar_quantiser(arch, monkeypatch):
    monkeypatch.setattr(torch.Tensor, "cuda", lambda tensor: tensor)  # it asks for a GPU
    model = make_model(TINY[arch]).float()
    names = quantize_model_(model, p=0.5, update_step=1)
    assert any("mx_proj" in name for name in names)
    tokens = batch_of(sentences(9, 5))
    inputs = (tokens, None, tokens) if arch == "mega" else (tokens,)
    model.train()(*inputs)[0].sum().backward()
    for name, parameter in model.named_parameters():
        if name.endswith(("_proj.weight", "fc1.weight")):
            assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
    with torch.no_grad():
        logits = model.eval()(*inputs)[0]
        assert torch.isfinite(logits).all()
        source = model.encoder(tokens) if arch == "mega" else None
        state = {}
        for end in range(1, 6):
            step, _ = model.decoder(tokens[:, :end], encoder_out=source, incremental_state=state)
            assert torch.isfinite(step).all()
    (entry,) = state.values()
    assert isinstance(entry, DecodingState)


@pytest.mark.cpu_only
def test_dynamic_quantisation_finds_the_projections():
    model = make_model(TINY["mega_lm"]).float()
    quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    assert not any(type(module) is nn.Linear for module in quantised.modules())
    tokens = batch_of(sentences(9, 5))
    with torch.no_grad():
        exact, rough = (m(tokens)[0] for m in (model, quantised))
    assert 0 < (rough - exact).abs().max() < 0.2 * exact.abs().max()
