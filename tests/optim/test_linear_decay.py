"""The schedule ``linear_decay`` gives the published learning rates."""

import pytest
import torch
from fairseq.optim import FairseqOptimizer
from fairseq.optim.lr_scheduler import build_lr_scheduler
from helpers import parse

from fairseq_mega.optim.linear_decay import LinearDecayConfig, LinearDecaySchedule


class Optimizer(FairseqOptimizer):
    """Plain SGD of one number."""

    def __init__(self):
        super().__init__(None)
        self._optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)


def rates_of(scheduler):
    """Returns a function from the update to its learning rate, called as by fairseq-train."""
    assert scheduler.optimizer.get_lr() == scheduler.step_update(0)

    def rate(update):
        result = scheduler.step_update(update)
        assert scheduler.optimizer.get_lr() == result
        return result

    return rate


def schedule(lr=(1.0,), max_update=0, stop_min_lr=-1.0, **options):
    options.update(max_update=max_update, stop_min_lr=stop_min_lr)
    cfg = LinearDecayConfig(lr=list(lr), **options)
    return rates_of(LinearDecaySchedule(cfg, Optimizer()))


@pytest.mark.parametrize(
    "options, rates",
    [
        (
            dict(warmup_updates=4, warmup_init_lr=0.2, total_num_update=14, end_learning_rate=0.1),
            {0: 0.2, 1: 0.4, 4: 1, 5: 0.91, 13: 0.19, 14: 0.1, 1000: 0.1},
        ),
        (
            dict(warmup_updates=10, warmup_init_lr=0, warmup_power=2, total_num_update=20),
            {0: 0, 1: 0.01, 5: 0.25, 10: 1, 15: 0.5, 20: 0},
        ),
        (dict(total_num_update=10), {0: 1, 5: 0.5, 10: 0}),
        # The defaults: from 1e-7, to zero at --max-update or the published million.
        (dict(warmup_updates=10, max_update=110), {0: 1e-7, 10: 1, 60: 0.5, 110: 0}),
        ({}, {0: 1, 500_000: 0.5, 1_000_000: 0}),
        # The published default -1 means 0.
        (dict(warmup_updates=4, warmup_init_lr=-1, total_num_update=9), {0: 0, 1: 0.25}),
    ],
)
def test_learning_rates(options, rates):
    """The rates are the same if a resumed training asks for one alone."""
    rate = schedule(**options)
    for update, expected in rates.items():
        assert rate(update) == schedule(**options)(update) == pytest.approx(expected)


def test_published_learning_rates(parity):
    """The published code recorded them at update 42 and in a checkpoint."""
    options = "--lr 6e-3 --warmup-updates 20 --warmup-init-lr 1e-7 --total-num-update 300"
    cfg = parse(f"--arch mega --optimizer sgd --lr-scheduler linear_decay {options}")
    rate = rates_of(build_lr_scheduler(cfg.lr_scheduler, Optimizer()))
    assert rate(42) == pytest.approx(0.005528571428571429, rel=1e-12)
    checkpoint = torch.load(parity / "language_model" / "checkpoint.pt")
    history = checkpoint["optimizer_history"][-1]
    recorded = history["lr_scheduler_state"]["lr"]
    assert rate(history["num_updates"]) == pytest.approx(recorded, rel=1e-12)


@pytest.mark.parametrize(
    "options, says",
    [
        (dict(lr=[1.0, 2.0]), r"--lr is \[1.0, 2.0\].*takes one learning rate"),
        (
            dict(warmup_updates=9, total_num_update=9),
            r"--warmup-updates is 9.*below --total-num-update \(9\)",
        ),
        (dict(warmup_updates=-3, total_num_update=9), "--warmup-updates is -3"),
        (dict(warmup_updates=3, warmup_init_lr=-2), "--warmup-init-lr is -2.*-1"),
        (dict(warmup_power=-1, total_num_update=9), "--warmup-power is -1.*at least 0"),
        (
            dict(warmup_updates=3, warmup_init_lr=-1, stop_min_lr=0.0),
            r"the first learning rate is 0.*above --stop-min-lr \(0\)",
        ),
    ],
)
def test_bad_options(options, says):
    with pytest.raises(ValueError, match=says):
        schedule(**options)
