"""The layers compile and export as one graph, which computes the same."""

import itertools

import pytest
import torch
from helpers import (
    assert_close,
    first,
    make_cross,
    make_feed_forward,
    make_gated,
    padding,
    pairwise,
    randn,
)
from torch._dynamo.testing import CompileCounterWithBackend

KINDS = {
    "causal": (make_gated, {}),
    "bidirectional": (make_gated, dict(bidirectional=True)),
    "chunks": (make_gated, dict(chunk_size=4, rel_pos_bias="rotary")),
    "windows": (make_gated, dict(chunk_size=4, chunks_before=1, rel_pos_bias="rotary")),
    "truncated": (make_gated, dict(truncation=5, attention_activation="laplace")),
    "post-norm": (make_gated, dict(prenorm=False, norm_type="scalenorm")),
    "cross": (make_cross, {}),
    "feed forward": (make_feed_forward, {}),
}


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch._dynamo.reset()


def make(kind, padded, length=10, **options):
    """A layer and its inputs."""
    build, chosen = KINDS[kind]
    layer, _ = build(torch.float32, **{**chosen, **options})
    x = randn(2, length, 6, dtype=torch.float32)
    mask = padding(length, [length, 7]) if padded else None
    if kind == "cross":
        return layer, (x[:, :5], x, mask)
    return layer, (x,) if kind == "feed forward" else (x, mask)


@pairwise(kind=list(KINDS), padded=[False, True], training=[False, True])
def test_compiled_layers_compute_the_same(kind, padded, training):
    """Compiled layers give the same outputs and, in training, gradients."""
    layer, (x, *rest) = make(kind, padded)
    layer.train(training)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    results = []
    for function in (layer, compiled):
        leaf = x.clone().requires_grad_(training)
        with torch.set_grad_enabled(training):
            y = first(function(leaf, *rest))
        results.append([y])
        if training:
            y.square().sum().backward()
            results[-1] += [leaf.grad, *(p.grad for p in layer.parameters())]
            layer.zero_grad()
    for ours, expected in zip(*reversed(results)):
        assert_close(ours, expected, 1e-5)


@pytest.mark.parametrize("kind", ["causal", "windows", "cross", "feed forward"])
def test_one_graph_serves_all_lengths(kind):
    """The backend is called twice: the second time with the norm's epsilon as a constant. Multiples
    of the chunk have a graph of their own."""
    layer, _ = make(kind, True)
    counter = CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend=counter)
    for length in (10, 33):
        _, inputs = make(kind, True, length)
        assert_close(first(compiled(*inputs)), first(layer(*inputs)), 1e-5)
    assert counter.frame_count <= 2


@pytest.mark.parametrize("kind", ["causal", "cross", "feed forward"])
def test_dropout_compiles(kind):
    options = dict(dropout=0.3, hidden_dropout=0.3)
    if kind != "feed forward":
        options["attention_dropout"] = 0.3
    layer, inputs = make(kind, False, **options)
    compiled = torch.compile(layer.train(), fullgraph=True, backend="aot_eager")
    one, two = first(compiled(*inputs)), first(compiled(*inputs))
    assert torch.isfinite(one).all() and (one - two).abs().max() > 1e-3
    one.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in layer.parameters())


@pytest.mark.parametrize("kind, padded", zip(KINDS, itertools.cycle([True, False])))
def test_exported_layers_compute_the_same(kind, padded):
    layer, inputs = make(kind, padded)
    exported = torch.export.export(layer, inputs).module()
    with torch.no_grad():
        assert_close(first(exported(*inputs)), first(layer(*inputs)), 1e-5)
