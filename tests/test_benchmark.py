"""The benchmark's sides compute the same functions; its commands finish at tiny sizes."""

import subprocess
import sys
from unittest.mock import patch

import pytest
import torch
from commands import ROOT
from helpers import needs_int8

from examples.benchmark import host, measure
from examples.benchmark.cases import all_cases
from examples.benchmark.models import parameters

CASES = {case.name: case for case in all_cases(full=True)}
COMPARED = ["ema-causal-1024", "ema-bidirectional-4096", "ema-pathx-16384", "lm-1024"]
COMPARED += ["translation", "small-translation", "text-full-1000", "text-chunked-1000"]


@pytest.mark.parametrize("name", COMPARED)
def test_sides_compute_one_function(name):
    """Plain equals ours, fused equals the Transformer, whose size is ours."""
    works = {side: CASES[name].build(side, True) for side in CASES[name].sides}
    outcomes = {side: work.outcome() for side, work in works.items()}
    for side, reference in {"plain": "ours", "fused": "transformer"}.items():
        if side in works:
            largest = max(x.abs().max() for x in outcomes[reference].values())
            for key, expected in outcomes[reference].items():
                scale = max(expected.abs().max(), 1e-3 * largest)
                assert (outcomes[side][key] - expected).abs().max() <= 1e-3 * scale, key
    if "transformer" in works:
        ours, theirs = (parameters(works[side].model) for side in ("ours", "transformer"))
        assert theirs == pytest.approx(ours, rel=0.03)


@needs_int8
def test_from_end_to_end(tmp_path):
    only = ["ema-causal-1024", "generation-1k", "beam-27"]
    command = [sys.executable, "examples/benchmark/benchmark.py", "--tiny", "--out", tmp_path]
    done = subprocess.run([*command, "--only", *only], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "results.md").read_text()
    assert text in done.stdout
    for name in only:
        assert text.count(CASES[name].title) == 2  # time and memory


def test_host_time():
    for make in host.CASES.values():
        for side in ("mega", "transformer"):
            assert host.operators(make(side)["forward"]) > 50
    assert host.operators(host.update("mega_adam")) < host.operators(host.update("adam"))


@patch.object(measure, "TRANSLATION", (*measure.TRANSLATION[:-1], 100))  # words
def test_what_a_gpu_measures_runs_here():
    """``measure.py`` itself needs a GPU."""
    small = dict(encoder_layers=1, decoder_layers=1)
    for side in (*measure.MEGA, *measure.TRANSFORMERS):
        with patch.object(measure.operators, "runs_kernels", lambda x: False):
            measure.translation(side, "cpu", 200, **small)()
    scores = measure.beam_search("ours", "cpu", **small)
    assert torch.isfinite(scores()).all() and torch.isfinite(scores()).all()
