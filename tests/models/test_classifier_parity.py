"""Checkpoints of the published classifiers: logits, loss, accuracy and gradients."""

import math

import pytest
import torch
from classification import KINDS, PARITY, parity_data
from fairseq.checkpoint_utils import load_model_ensemble_and_task
from fairseq.utils import apply_to_sample
from helpers import assert_close
from torch import nn

from fairseq_mega.modules.dropout import Dropout

TOLERANCE = 1e-5
kinds = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture
def load(tmp_path):
    def load(kind):
        """The model, its criterion, the test set, and the published numbers."""
        data = parity_data(kind, tmp_path / "data")
        path = PARITY / kind / "checkpoint.pt"
        (model,), cfg, task = load_model_ensemble_and_task([str(path)], {"data": str(data)})
        task.load_dataset("test")
        criterion = task.build_criterion(cfg.criterion)
        return (
            model.eval(),
            criterion,
            task.dataset("test"),
            torch.load(path.parent / "expected.pt", torch.get_default_device()),
        )

    return load


def batches(dataset, size=16):
    rows = range(len(dataset))
    for start in rows[::size]:
        batch = dataset.collater([dataset[i] for i in rows[start : start + size]])
        yield apply_to_sample(lambda tensor: tensor.to(torch.get_default_device()), batch)


def double(sample):
    """Real numbers of a batch in float64."""
    if isinstance(sample, dict):
        return {name: double(value) for name, value in sample.items()}
    return sample.double() if torch.is_floating_point(torch.as_tensor(sample)) else sample


@kinds
@torch.no_grad()
def test_logits(kind, load):
    """Loss and accuracy match as well; the names of weights are exactly the published ones."""
    model, criterion, dataset, expected = load(kind)
    logits = torch.cat([model(batch)["encoder_out"] for batch in batches(dataset)])
    assert_close(logits, expected["logits"], TOLERANCE, floor=0.0)
    assert dataset.classes.tolist() == expected["target"].tolist()
    outputs = [criterion(model, batch) for batch in batches(dataset)]
    loss, sample_size = (sum(float(o[i]) for o in outputs) for i in (0, 1))
    assert sample_size == len(dataset)
    # A log-probability of almost 0, as the images have, is known to float32's rounding of 1.
    close = pytest.approx(expected["loss_base2"], rel=1e-5, abs=2e-7)
    assert loss / sample_size / math.log(2) == close
    correct = sum(int(output[2]["ncorrect"]) for output in outputs)
    assert 100 * correct / len(dataset) == pytest.approx(expected["accuracy"])
    published = torch.load(PARITY / kind / "checkpoint.pt")["model"]
    ours = model.state_dict()
    assert ours.keys() == published.keys()
    assert all(ours[name].shape == published[name].shape for name in ours)


@kinds
def test_gradients_in_training(kind, load):
    """Gradients match in float64, so that the differences are the rounding of the published values,
    relative to the largest gradient of all; batch norm takes the statistics of the batch."""
    model, _, dataset, expected = load(kind)
    model = model.double().train()
    for module in model.modules():
        if isinstance(module, Dropout):
            module.p = 0.0
    sample = double(next(batches(dataset)))
    lprobs = model.get_normalized_probs(model(sample), log_probs=True)
    loss = nn.functional.nll_loss(lprobs, sample["target"], reduction="sum")
    loss.backward()
    assert loss.item() == pytest.approx(expected["train_loss"], 1e-5)
    grads = {name: p.grad for name, p in model.named_parameters()}
    assert grads.keys() == expected["train_grads"].keys()
    largest = max(grad.abs().max().item() for grad in expected["train_grads"].values())
    for name, grad in expected["train_grads"].items():
        assert_close(grads[name], grad, TOLERANCE, f"gradient of {name}", floor=largest)
