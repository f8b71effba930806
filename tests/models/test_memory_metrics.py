"""Memory spans among fairseq's metrics are computed only when a line is written."""

import gc

import pytest
import torch
from fairseq.distributed import FullyShardedDataParallel
from fairseq.logging import metrics
from helpers import TINY, build, make_model
from torch import nn

WHOLE = {"memory_longest", "memory_median"}


@pytest.fixture(autouse=True)
def fresh_metrics():
    metrics.reset()
    yield
    metrics.reset()


def logged(model, updates=3):
    """The metrics of a log's line."""
    with metrics.aggregate("train_inner"):
        for update in range(updates):
            model.set_num_updates(update)
    return dict(metrics.get_smoothed_values("train_inner"))


def forget_slowly(layer):
    """Sets all dimensions to the same decay, except for one of the backward EMA, which hardly
    decays."""
    move = layer.mega_layer.move
    with torch.no_grad():
        move.delta.zero_()
        move.alpha.zero_()  # q = 1 - 1/4
        move.delta[-1, -1] = -40


@pytest.mark.parametrize("arch", TINY)
def test_they_are_those_of_the_weights_at_the_time_of_the_line(arch):
    model = make_model(TINY[arch])
    before = logged(model)
    assert set(before) == WHOLE
    for module in model.modules():
        if hasattr(module, "mega_layer"):
            forget_slowly(module)
    metrics.reset_meters("train_inner")
    after = metrics.get_smoothed_values("train_inner")
    assert after["memory_median"] == 2.41 != before["memory_median"]  # ln 2 / -ln 0.75
    assert after["memory_longest"] > 1e16 > before["memory_longest"]


def test_those_of_each_layer_by_option():
    model = make_model(TINY["mega"], log_memory_per_layer=True)
    forget_slowly(model.encoder.layers[1])
    found = logged(model)
    labels = ("e0", "e1", "d0", "d1")
    assert set(found) == WHOLE | {
        f"memory_{label}_{statistic}" for label in labels for statistic in ("longest", "median")
    }
    assert found["memory_e1_median"] == 2.41 != found["memory_e0_median"]
    assert found["memory_e1_longest"] == found["memory_longest"] > found["memory_e0_longest"]


class Sharded(FullyShardedDataParallel):
    """A layer as fairscale leaves it between passes: this process has a part of its parameters."""

    def __init__(self, layer):
        nn.Module.__init__(self)
        self.layer = layer
        for parameter in layer.parameters():
            parameter.data = parameter.data.flatten()[:1]


def test_fully_sharded_models_have_none():
    model = build(TINY["mega_lm"])
    model.decoder.layers[0] = Sharded(model.decoder.layers[0])
    assert logged(model) == {}


def test_nothing_is_computed_in_an_update():
    """Parameters without values can be trained, so updates compute no metric."""
    with torch.device("meta"):
        model = build(TINY["mega_lm"])
    with pytest.raises((NotImplementedError, RuntimeError)):
        logged(model)
    assert set(metrics.get_meters("train_inner")) == WHOLE


def test_checkpoints_hold_none_and_models_are_not_kept():
    """fairseq could not read such a metric from a checkpoint, and keeps metrics for ever."""
    model = build(TINY["mega_lm"])
    logged(model)
    assert not any("memory" in str(state) for state in metrics.state_dict().values())
    del model
    gc.collect()
    assert set(metrics.get_smoothed_values("train_inner").values()) == {None}
