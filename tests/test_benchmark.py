"""The benchmark: sides that compute one function agree, and its driver runs."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import helpers
import pytest
import torch
from fairseq.modules import MultiheadAttention

from examples.benchmark import int8, report
from examples.benchmark.benchmark import all_cases
from examples.benchmark.floor import Replay, record
from examples.benchmark.fused import FusedAttention
from examples.benchmark.models import parameters
from examples.benchmark.plain import as_plain
from fairseq_mega.modules.int8 import Int8Linear

ROOT = Path(__file__).resolve().parents[1]
CASES = {case.name: case for case in all_cases(full=True)}
TINY = {name: case.tiny() for name, case in CASES.items()}


def both(make, **options):
    """Ours and the plain formulas with the same weights, in training."""
    modules = [make(**options) for _ in range(2)]
    ours, plain = (m[0] if isinstance(m, tuple) else m for m in modules)
    return ours.train(), as_plain(plain).train()


def assert_same(ours, plain, *inputs, keep=None, **kwargs):
    """Outputs and gradients of inputs and parameters agree, where ``keep (B, L)`` is true."""
    results = []
    for module in (ours, plain):
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


# --- the plain formulas ---------------------------------------------------------------------------


@pytest.mark.parametrize("truncation", [None, 5])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("length", [1, 7, 100])
def test_ema(length, bidirectional, truncation):
    modules = both(helpers.make_ema, bidirectional=bidirectional, truncation=truncation)
    x = helpers.randn(2, length, 4)
    assert_same(*modules, x)
    mask = helpers.padding(length, [length, (length + 1) // 2])
    assert_same(*modules, x, keep=~mask, padding_mask=mask)


@pytest.mark.parametrize("function", helpers.FUNCTIONS)
@pytest.mark.parametrize("bias", helpers.BIASES)
@pytest.mark.parametrize("chunk", [-1, 4])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_layer(bidirectional, chunk, bias, function):
    options = dict(rel_pos_bias=bias, attention_activation=function, bidirectional=bidirectional)
    modules = both(helpers.make_gated, chunk_size=chunk, prenorm=bidirectional, **options)
    x = helpers.randn(2, 10, 6)
    assert_same(*modules, x)
    mask = helpers.padding(10, [10, 6])
    assert_same(*modules, x, keep=~mask, padding_mask=mask)


@pytest.mark.parametrize("function", helpers.FUNCTIONS)
@pytest.mark.parametrize("bias", helpers.BIASES)
def test_cross_attention(bias, function):
    modules = both(helpers.make_cross, rel_pos_bias=bias, attention_activation=function)
    query, key = helpers.randn(2, 5, 6), helpers.randn(2, 7, 6, seed=2)
    assert_same(*modules, query, key, key_padding_mask=helpers.padding(7, [7, 4]))


@pytest.mark.parametrize("bias", helpers.BIASES)
@pytest.mark.parametrize("chunk", [-1, 4])
def test_generation_step_by_step(chunk, bias):
    """The plain layer continues as ours does, from a parallel beginning on."""
    ours, plain = both(helpers.make_gated, rel_pos_bias=bias, chunk_size=chunk)
    x, sizes = helpers.randn(2, 11, 6), [3, *[1] * 8]
    expected = helpers.run_segments(ours, x, sizes)
    helpers.assert_close(helpers.run_segments(plain, x, sizes), expected)


# --- cases ----------------------------------------------------------------------------------------


def works_of(case, device="cpu"):
    works = {side: case.build(side).to(torch.device(device)) for side in case.sides}
    for work in works.values():
        work.prepare()
    return works


MODELS = ["lm-1024", "translation", "small-translation", "text-full-1000", "text-chunked-1000"]


@pytest.mark.parametrize("name", ["ema-pathx-16384", *MODELS, "beam-27", "generation-8k"])
def test_all_sides_of_a_case(name):
    """Ours and plain agree, and so do the Transformers, which have as many parameters."""
    works = works_of(TINY[name])
    assert TINY[name].faults(works) == {}
    for work in works.values():
        work(0)


@pytest.mark.parametrize("name", MODELS)
def test_attention_is_fused_on_that_side_alone(name):
    """Else the two Transformers would be compared with themselves."""
    kinds = {}
    for side in ("transformer", "fused"):
        modules = TINY[name].build(side).model.modules()
        kinds[side] = {type(m) for m in modules if isinstance(m, MultiheadAttention)}
    assert kinds == {"transformer": {MultiheadAttention}, "fused": {FusedAttention}}


@pytest.mark.parametrize(
    "name, millions", [("lm-16384", 23.7), ("translation", 50.6), ("text-full-4000", 1.0)]
)
def test_the_real_models_have_as_many_parameters(name, millions):
    ours, transformer = (parameters(CASES[name]._model(s)[0]) for s in ("ours", "transformer"))
    assert round(ours / 1e6, 1) == millions
    assert abs(transformer / ours - 1) < 0.03


def test_the_cases_have_the_sizes_in_their_names():
    for name, case in CASES.items():
        last = name.rsplit("-", 1)[-1].removesuffix("k")
        if name.startswith("generation"):
            assert case.length == 1024 * int(last)
        elif name.startswith("beam"):
            assert case.tokens == int(last) and case.batch * case.parts == 200
        elif last.isdigit():
            assert case.length == int(last)


@pytest.mark.parametrize("side, other", [("plain", "ours"), ("fused", "transformer")])
def test_what_differs_has_no_ratio(side, other):
    case = TINY["lm-1024"]
    works = works_of(case)
    with torch.no_grad():
        next(works[side].model.parameters()).mul_(1.5)
    faults = case.faults(works)
    assert list(faults) == [side] and f"not {other}'s function" in faults[side]
    assert assert_no_ratio(case, faults, side).count("2.00") == 2  # the others have theirs


def test_a_transformer_of_another_size_has_no_ratio():
    case = TINY["lm-1024"]
    works = works_of(case)
    works["transformer"].parameters *= 2
    faults = case.faults(works)
    assert set(faults) == {"transformer", "fused"}
    assert "parameters to ours" in assert_no_ratio(case, faults, "transformer")


def test_a_transformer_without_finite_gradients_has_no_ratio():
    case = TINY["lm-1024"]
    works = works_of(case)
    with torch.no_grad():
        next(works["transformer"].model.parameters())[5] = math.nan
    faults = case.faults(works)
    assert set(faults) == {"transformer", "fused"}
    assert "not finite" in assert_no_ratio(case, faults, "fused")


def assert_no_ratio(case, faults, side):
    """Returns the row of a case, which tells why there is none."""
    seconds = {"ours": 1.0, "plain": 2.0, "transformer": 2.0, "fused": 2.0, "floor": 1.0}
    peaks = {name: 100 for name in case.sides}
    result = {"seconds": seconds, "peak_mib": peaks, "faults": faults}
    assert not {side, f"{side} memory"} & set(report.ratios(result))
    row = report.time_table([(case, result)]).splitlines()[-1]
    assert faults[side] in row and faults[side] in report.memory_table([(case, result)])
    return row


def test_the_translation_batch_is_as_the_papers():
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
    only = ["ema-causal-1024", "lm-1024", "text-full-1000", "generation-1k", "generation-8k"]
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
    assert set(ema["seconds"]) == {"ours", "plain", "floor"}
    assert set(lm["seconds"]) == {"ours", "plain", "transformer", "fused", "floor"}
    assert set(lm["ratios"]) >= {"plain", "transformer", "fused", "floor"}
    assert (tmp_path / "results.md").read_text().strip() in done.stdout


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_device_that_is_not_there(tmp_path):
    command = [sys.executable, "examples/benchmark/benchmark.py", "--device", "cuda"]
    done = subprocess.run(
        [*command, "--out", tmp_path / "out"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 1 and not (tmp_path / "out").exists()
    assert "--device cuda: torch cannot use it here" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_tables_tell_what_was_missed():
    goals = {"plain": 9, "floor": 2.5, "plain memory": 1 / 6}
    case = replace(TINY["ema-causal-4096"], goals=goals)
    seconds = {"ours": 1.0, "plain": 10.0, "floor": 0.1}
    result = {"seconds": seconds, "peak_mib": {"ours": 10, "plain": 100}, "faults": {}}
    row = report.time_table([(case, result)]).splitlines()[-1]
    assert "**10.00** (goal ≥ 9)" in row
    assert "**10.00** (goal ≤ 2.5: missed)" in row
    assert "**0.10** (goal ≤ 0.167)" in report.memory_table([(case, result)])


@helpers.needs_int8
def test_weights_of_8_bits_beside_float32(capsys):
    case = int8.BeamSearchCase("beam", "beam").tiny()
    for side, part in int8.SIDES.values():
        model = int8.build(case, side, part).model
        kinds = [type(module) for module in model.decoder.modules()]
        assert (Int8Linear in kinds) == bool(part) != (torch.nn.Linear in kinds)
    int8.main(["--tiny"])
    rows = [row.split("|")[1].strip() for row in capsys.readouterr().out.splitlines() if "|" in row]
    assert rows[2:] == list(int8.SIDES)
