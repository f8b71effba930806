"""The benchmark: its published formulation is the same function, and its driver runs."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import helpers
import pytest
import torch

from examples.benchmark import cases, report
from examples.benchmark.benchmark import all_cases
from examples.benchmark.floor import Replay, record
from examples.benchmark.models import parameters
from examples.benchmark.published import as_published

ROOT = Path(__file__).resolve().parents[1]
CASES = {case.name: case for case in all_cases(full=True)}
TINY = {name: case.tiny() for name, case in CASES.items()}


def both(make, **options):
    """Ours and the published formulation with the same weights, in training."""
    modules = [make(**options) for _ in range(2)]
    ours, published = (m[0] if isinstance(m, tuple) else m for m in modules)
    return ours.train(), as_published(published).train()


def assert_same(ours, published, *inputs, keep=None, **kwargs):
    """Outputs and gradients of inputs and parameters agree, where ``keep (L, B)`` is true."""
    results = []
    for module in (ours, published):
        leaves = [x.clone().requires_grad_() for x in inputs]
        y = helpers.first(module(*leaves, **kwargs))
        grad_y = helpers.randn(*y.shape, seed=7)
        if keep is not None:
            y, grad_y = y[keep], grad_y[keep]
        tensors = [*leaves, *module.parameters()]
        results.append([y, *torch.autograd.grad(y, tensors, grad_y)])
    names = ["output", *(f"input {i}" for i in range(len(inputs)))]
    names += [name for name, _ in ours.named_parameters()]
    for name, a, b in zip(names, *results):
        helpers.assert_close(a, b, what=name)


# --- the published formulation --------------------------------------------------------------------


@pytest.mark.parametrize("truncation", [None, 5])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("length", [1, 7, 100])
def test_ema(length, bidirectional, truncation):
    modules = both(helpers.make_ema, bidirectional=bidirectional, truncation=truncation)
    x = helpers.randn(length, 2, 4)
    assert_same(*modules, x)
    mask = helpers.padding(length, [length, (length + 1) // 2])
    assert_same(*modules, x, keep=helpers.time_first(mask), padding_mask=mask)


@pytest.mark.parametrize("function", helpers.FUNCTIONS)
@pytest.mark.parametrize("bias", helpers.BIASES)
@pytest.mark.parametrize("chunk", [-1, 4])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_layer(bidirectional, chunk, bias, function):
    options = dict(rel_pos_bias=bias, attention_activation=function, bidirectional=bidirectional)
    modules = both(helpers.make_gated, chunk_size=chunk, prenorm=bidirectional, **options)
    x = helpers.randn(10, 2, 6)
    assert_same(*modules, x)
    mask = helpers.padding(10, [10, 6])
    assert_same(*modules, x, keep=helpers.time_first(mask), padding_mask=mask)


@pytest.mark.parametrize("function", helpers.FUNCTIONS)
@pytest.mark.parametrize("bias", helpers.BIASES)
def test_cross_attention(bias, function):
    modules = both(helpers.make_cross, rel_pos_bias=bias, attention_activation=function)
    query, key = helpers.randn(5, 2, 6), helpers.randn(7, 2, 6, seed=2)
    assert_same(*modules, query, key, key_padding_mask=helpers.padding(7, [7, 4]))


@pytest.mark.parametrize("bias", helpers.BIASES)
@pytest.mark.parametrize("chunk", [-1, 4])
def test_generation_step_by_step(chunk, bias):
    """The published layer continues as ours does, from a parallel beginning on."""
    ours, published = both(helpers.make_gated, rel_pos_bias=bias, chunk_size=chunk)
    x, sizes = helpers.randn(11, 2, 6), [3, *[1] * 8]
    expected = helpers.run_segments(ours, x, sizes)
    helpers.assert_close(helpers.run_segments(published, x, sizes), expected)


# --- cases ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lm-1024", "translation", "beam-27", "generation-8k"])
def test_all_sides_of_a_model(name):
    """Ours and published agree in float32, and the Transformer has as many parameters."""
    works = {side: TINY[name].build(side) for side in TINY[name].sides}
    for work in works.values():
        work.prepare()
        work(0)
    TINY[name].check(works["ours"], works["published"])
    assert abs(works["transformer"].parameters / works["ours"].parameters - 1) < 0.03


@pytest.mark.parametrize("name, millions", [("lm-16384", 23.7), ("translation", 50.6)])
def test_the_real_models_have_as_many_parameters(name, millions):
    ours, transformer = (parameters(CASES[name]._model(s)[0]) for s in ("ours", "transformer"))
    assert round(ours / 1e6, 1) == millions
    assert abs(transformer / ours - 1) < 0.03


def test_the_cases_have_the_sizes_in_their_names():
    for name, case in CASES.items():
        size = int(name.rsplit("-", 1)[-1].replace("k", "")) if "-" in name else None
        if name.startswith("generation"):
            assert case.length == 1024 * size
        elif name.startswith("beam"):
            assert case.tokens == size and case.batch * case.parts == 200
        elif size is not None:
            assert case.length == size


def test_what_differs_is_not_timed():
    case = TINY["ema-causal-1024"]
    ours, published = (case.build(side) for side in ("ours", "published"))
    with torch.no_grad():
        published.layer.omega[0] += 0.1
    with pytest.raises(cases.MismatchError, match="differs"):
        case.check(ours, published)


def test_the_translation_batch_is_as_published():
    case = replace(TINY["translation"], max_tokens=4096, sentences=20000)
    sample = case.build("ours").sample
    tokens = sample["net_input"]["src_tokens"]
    assert 3500 < tokens.numel() <= 4096
    assert 25 < sample["ntokens"] / sample["nsentences"] < 29


def test_the_floor_runs_the_same_products():
    a, b = torch.randn(4, 3, requires_grad=True), torch.randn(3, 5)
    bias = torch.randn(5)
    with record() as recorded:
        torch.addmm(bias, a, b).sum().backward()
        torch.fft.rfft(b)
    again = record()
    with again:
        Replay(recorded.calls)()
    assert len(recorded.calls) == 3
    assert [call[0] for call in again.calls] == [call[0] for call in recorded.calls]
    for one, other in zip(again.calls, recorded.calls):
        assert one[1] == other[1] and one[3] == other[3]


def test_the_floor_of_fused_attention_has_its_products():
    q, k, v = (torch.randn(2, 1, 6, 4, requires_grad=True) for _ in range(3))
    with record() as recorded:
        torch.nn.functional.scaled_dot_product_attention(q, k, v).sum().backward()
    assert len(recorded.calls) == 6


# --- driver ---------------------------------------------------------------------------------------


def test_a_tiny_run_from_end_to_end(tmp_path):
    only = ["ema-causal-1024", "lm-1024", "generation-1k", "generation-8k"]
    command = [sys.executable, "examples/benchmark/benchmark.py", "--tiny", "--out", tmp_path]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--only", *only], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    content = json.loads((tmp_path / "results.json").read_text())
    assert [case["name"] for case in content["cases"]] == only
    assert content["machine"]["threads"] == 1
    ema, lm = content["cases"][:2]
    assert set(ema["seconds"]) == {"ours", "published", "floor"}
    assert set(lm["seconds"]) == {"ours", "published", "transformer", "floor"}
    assert set(lm["ratios"]) >= {"published", "transformer", "floor"}
    assert (tmp_path / "results.md").read_text().strip() in done.stdout


def test_the_table_tells_what_was_missed():
    case = replace(TINY["ema-causal-4096"], goals={"published": 9, "floor": 2.5, "memory": 1 / 6})
    seconds = {"ours": 1.0, "published": 10.0, "floor": 0.1}
    result = {"seconds": seconds, "peak_mib": {"ours": 10, "published": 100}}
    row = report.table([(case, result)]).splitlines()[-1]
    assert "**10.00** (goal ≥ 9)" in row
    assert "**10.00** (goal ≤ 2.5: missed)" in row
    assert "**0.10** (goal ≤ 0.167)" in row
