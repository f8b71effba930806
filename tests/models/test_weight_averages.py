"""fairseq's moving average of the weights (--store-ema) covers a model's complete state."""

from types import SimpleNamespace

import pytest
import torch
from fairseq.models.ema.ema import EMA
from helpers import TINY, build, scatter


@pytest.mark.parametrize(
    "arch, norm, fp32",
    [("mega", "batchnorm", False), ("mega_lm", "batchnorm", True), ("mega", "layernorm", True)],
)
def test_weights_are_averaged_whatever_the_norm(arch, norm, fp32):
    model = build(f"{TINY[arch]} --normalization-type {norm}")
    config = SimpleNamespace(ema_decay=0.75, ema_seed_model=None, ema_fp32=fp32, ema_update_freq=1)
    average = EMA(model, config)
    before = {name: value.clone() for name, value in model.named_parameters()}
    scatter(model)
    for _ in range(2):
        average.step(model)
    after = dict(average.get_model().named_parameters())
    for name, value in model.named_parameters():
        expected = before[name] * 0.75**2 + value.detach() * (1 - 0.75**2)
        assert torch.allclose(after[name], expected, atol=1e-6), name
    again = build(f"{TINY[arch]} --normalization-type {norm}")
    again.load_state_dict(average.get_model().state_dict())
    assert all(torch.equal(value, after[name]) for name, value in again.named_parameters())
