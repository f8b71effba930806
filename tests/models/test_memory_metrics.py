"""Memory spans among fairseq's metrics: computed when a line is written, and at no other time."""

import gc

import pytest
import torch
from fairseq.logging import metrics
from helpers import TINY, build, make_model

from fairseq_mega.models.memory_metrics import emas_by_label


@pytest.fixture(autouse=True)
def fresh_metrics():
    metrics.reset()
    yield
    metrics.reset()


def logged(model, updates=3):
    with metrics.aggregate("train_inner"):
        for update in range(updates):
            model.set_num_updates(update)


def test_they_are_those_of_the_weights_at_the_time_of_the_line():
    model = make_model(TINY["mega"])
    logged(model)
    before = dict(metrics.get_smoothed_values("train_inner"))
    assert set(emas_by_label(model)) == {"e0", "e1", "d0", "d1"} and len(before) == 8
    with torch.no_grad():
        move = model.encoder.layers[1].mega_layer.move
        move.delta.zero_()
        move.alpha.zero_()  # q = 1 - 1/4
        move.delta[-1, -1] = -40  # in the backward EMA
    metrics.reset_meters("train_inner")
    after = metrics.get_smoothed_values("train_inner")
    assert after["memory_e1_median"] == 2.41  # ln 2 / -ln 0.75
    assert after["memory_e1_longest"] > 1e16
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {"memory_e1_median", "memory_e1_longest"}


def test_nothing_is_computed_in_an_update():
    """Parameters without values can be trained as far as the metrics are concerned."""
    with torch.device("meta"):
        model = build(TINY["mega_lm"])
    logged(model)
    with pytest.raises((NotImplementedError, RuntimeError)):
        metrics.get_smoothed_values("train_inner")


def test_checkpoints_hold_none_and_models_are_not_kept():
    """fairseq could not read such a metric from a checkpoint, and keeps metrics for ever."""
    model = build(TINY["mega_lm"])
    logged(model)
    assert not any("memory" in str(state) for state in metrics.state_dict().values())
    del model
    gc.collect()
    assert set(metrics.get_smoothed_values("train_inner").values()) == {None}
