"""The recall experiment: who can know the answer, and that its driver runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import assert_close, scatter

from examples.experiments import recall

ROOT = Path(__file__).resolve().parents[1]
CHUNK = recall.QUICK.chunk
# What two layers see, each at most the rest of a chunk and the taps of a cut EMA.
REACH = 2 * (CHUNK - 1 + CHUNK // 2 - 1)


def make(name):
    return scatter(recall.build(name, CHUNK)).double().eval()


@torch.no_grad()
@pytest.mark.parametrize("name", recall.MODELS)
def test_only_the_carried_state_reaches_far(name):
    model = make(name)
    texts, _ = recall.samples(4 * REACH, 3, 5, torch.Generator().manual_seed(1))
    others = texts.clone()
    others[:, 5] = recall.SPECIAL + (texts[:, 5] - recall.SPECIAL + 1) % recall.VALUES
    ours, theirs = (recall.answers(name, model, each, CHUNK) for each in (texts, others))
    # FFTs round beyond the last tap of a cut kernel.
    reached = (ours - theirs).abs().max().item() > 1e-12
    assert reached == (name in recall.STREAMED)


@torch.no_grad()
@pytest.mark.parametrize("name", recall.STREAMED)
def test_segments_give_what_training_computes(name):
    model = make(name)
    texts, _ = recall.samples(REACH, 3, 5, torch.Generator().manual_seed(1))
    features, _ = model(texts, features_only=True)
    assert_close(recall.read_in_segments(model, texts)[:, -1], features[:, -1])


def test_samples():
    texts, values = recall.samples(20, 100, 3, torch.Generator().manual_seed(1))
    assert texts.shape == (100, 23)
    assert torch.equal(texts[:, 3], values) and (texts[:, -1] == recall.QUERY).all()
    texts[:, [3, -1]] = recall.SPECIAL + recall.VALUES
    first_word = recall.SPECIAL + recall.VALUES
    assert texts.min() == first_word and texts.max() == recall.QUERY - 1
    assert values.unique().tolist() == list(range(recall.SPECIAL, first_word))


def test_models_are_of_equal_size():
    sizes = [
        sum(p.numel() for p in recall.build(name, recall.FULL.chunk).parameters())
        for name in recall.MODELS
    ]
    assert max(sizes) < 1.03 * min(sizes)


def test_a_quick_run_from_end_to_end(tmp_path):
    command = [sys.executable, "examples/experiments/recall.py", "--quick", "--out", tmp_path]
    command += ["--texts", "50", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    models = json.loads((tmp_path / "results.json").read_text())["models"]
    assert list(models) == list(recall.MODELS)
    for result in models.values():
        assert list(result["accuracy"]) == [str(d) for d in recall.QUICK.distances]
        assert result["places"].keys() == ({"0", "4", "7"} if result["texts"] else set())
    assert {name: list(result["texts"]) for name, result in models.items()} == {
        name: ["50", "2"] if name in recall.STREAMED else [] for name in recall.MODELS
    }
    assert (tmp_path / "results.md").read_text().strip() in done.stdout
