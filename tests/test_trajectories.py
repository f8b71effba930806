"""Trainings follow those of the published code, update by update: see parity/README.md."""

import copy

import pytest
import torch
from fairseq.logging import metrics
from helpers import parse
from torch.utils._pytree import tree_map
from trainers import make_trainer

TOLERANCE = 1e-5  # relative; measured: 2e-7 for losses and norms of gradients
# The published task for language models is fairseq's with options for long text.
TASKS = {
    "translation": "translation",
    "language_model": "mega_language_modeling",
    "text": "lra-text",
}


@pytest.fixture(scope="module", params=TASKS)
def trajectory(request, parity):
    recorded = torch.load(parity / "trajectories" / f"{request.param}.pt")
    data, options = recorded["words"].replace("PARITY", str(parity)).split(maxsplit=1)
    options += f" --task {TASKS[request.param]} {recorded['extra']}"
    batches = [as_collated(batch) for batch in recorded["batches"]]
    return {**recorded, "data": data, "options": options, "batches": batches}


def as_collated(batch):
    """A batch in the layout of fairseq's datasets."""
    batch = tree_map(lambda each: each.long() if torch.is_tensor(each) else each, batch)
    if batch["target"].size(1) == 1:  # a class
        batch["target"] = batch["target"].view(-1)
    return batch


@pytest.mark.parametrize("optimizer", ["adam", "mega_adam"])
def test_a_training_follows_the_published_one(trajectory, optimizer):
    cfg = copy.deepcopy(parse(f"{trajectory['options']} --optimizer {optimizer}"))
    cfg.task.data = trajectory["data"]
    trainer = make_trainer(cfg)
    trainer.get_model().load_state_dict(trajectory["init"])
    before, trained = parameters(trainer), {"loss": [], "gnorm": [], "lr": []}
    trainer.begin_epoch(1)
    for batch in trajectory["batches"]:
        trained["lr"].append(trainer.get_lr())
        with metrics.aggregate() as log:
            trainer.train_step([batch])
        for name in ("loss", "gnorm"):
            trained[name].append(float(log[name].avg))
    for name, values in trained.items():
        assert values == pytest.approx(trajectory[name], rel=TOLERANCE), name
    after, movement = parameters(trainer), trajectory["movement"]
    moved = {name: (after[name] - before[name]).norm().item() for name in after}
    # The absolute tolerance is for biases on all keys, which have no gradient but for rounding.
    expected = {name: movement[name] for name in moved}
    assert moved == pytest.approx(expected, rel=TOLERANCE, abs=1e-5)


def parameters(trainer):
    return {name: value.detach().clone() for name, value in trainer.get_model().named_parameters()}
