"""The schedule ``linear_decay`` of the published recipes: a warm-up, then a straight line."""

import pytest
import torch
from fairseq.optim import FairseqOptimizer
from fairseq.optim.lr_scheduler import build_lr_scheduler
from helpers import parse

OPTIONS = "--arch mega --optimizer sgd --lr-scheduler linear_decay"


class Optimizer(FairseqOptimizer):
    """Plain SGD of one number."""

    def __init__(self):
        super().__init__(None)
        self._optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)


def schedule(options):
    """Learning rates by update, as fairseq-train asks for them."""
    optimizer = Optimizer()
    scheduler = build_lr_scheduler(parse(f"{OPTIONS} {options}").lr_scheduler, optimizer)
    assert optimizer.get_lr() == scheduler.step_update(0)

    def rate(update):
        result = scheduler.step_update(update)
        assert optimizer.get_lr() == result
        return result

    return rate


def test_warm_up_and_decay():
    rate = schedule(
        "--lr 1e-3 --warmup-updates 4 --warmup-init-lr 2e-4 --total-num-update 14 "
        "--end-learning-rate 1e-4"
    )
    expected = [2e-4, 4e-4, 6e-4, 8e-4, 1e-3, 9.1e-4, 8.2e-4]
    assert [rate(i) for i in range(7)] == pytest.approx(expected)
    assert [rate(i) for i in (13, 14, 15, 1000)] == pytest.approx([1.9e-4, 1e-4, 1e-4, 1e-4])


def test_the_warm_up_has_a_power():
    rate = schedule(
        "--lr 1 --warmup-updates 10 --warmup-init-lr 0 --warmup-power 2 --total-num-update 20"
    )
    assert [rate(i) for i in (0, 1, 5, 10, 15, 20)] == pytest.approx([0, 0.01, 0.25, 1, 0.5, 0])


def test_without_warm_up_it_starts_at_the_top():
    rate = schedule("--lr 0.5 --total-num-update 10")
    assert [rate(i) for i in (0, 5, 10)] == pytest.approx([0.5, 0.25, 0])


def test_defaults():
    """From 1e-7 up, and to zero at --max-update."""
    rate = schedule("--lr 1e-3 --warmup-updates 10 --max-update 110")
    assert [rate(i) for i in (0, 10, 60, 110)] == pytest.approx([1e-7, 1e-3, 5e-4, 0])


def test_minus_one_starts_the_warm_up_at_zero():
    """The published default."""
    rate = schedule("--lr 1 --warmup-updates 4 --warmup-init-lr -1 --total-num-update 9")
    assert [rate(i) for i in range(5)] == pytest.approx([0, 0.25, 0.5, 0.75, 1])


def test_without_a_number_of_updates_the_decay_has_the_published_length():
    rate = schedule("--lr 1")
    assert [rate(i) for i in (0, 500_000, 1_000_000)] == pytest.approx([1, 0.5, 0])


def test_a_schedule_continues_from_any_update():
    """A resumed training asks for its update alone."""
    options = "--lr 1 --warmup-updates 3 --total-num-update 9"
    rates = [schedule(options)(i) for i in range(10)]
    rate = schedule(options)
    assert [rate(i) for i in range(10)] == rates


PUBLISHED = "--lr 6e-3 --warmup-updates 20 --warmup-init-lr 1e-7 --total-num-update 300"


def test_published_learning_rate():
    """What the published code recorded at update 42 of a short training."""
    assert schedule(PUBLISHED)(42) == pytest.approx(0.005528571428571429, rel=1e-12)


def test_the_learning_rate_in_a_published_checkpoint(parity):
    checkpoint = torch.load(parity / "language_model" / "checkpoint.pt")
    history = checkpoint["optimizer_history"][-1]
    options = {name: vars(checkpoint["args"])[name] for name in ("lr", "warmup_updates")}
    assert options == {"lr": [0.006], "warmup_updates": 20}
    recorded = history["lr_scheduler_state"]["lr"]
    assert schedule(PUBLISHED)(history["num_updates"]) == pytest.approx(recorded, rel=1e-12)


@pytest.mark.parametrize(
    "options, says",
    [
        ("--lr 1,2 --total-num-update 9", ("--lr is [1.0, 2.0]", "takes one learning rate")),
        (
            "--lr 1 --warmup-updates 9 --total-num-update 9",
            ("--total-num-update is 9", "above --warmup-updates (9)"),
        ),
        (
            "--lr 1 --warmup-updates 9 --max-update 9",
            ("--total-num-update is 9", "above --warmup-updates (9)"),
        ),
        ("--lr 1 --warmup-updates 3 --warmup-init-lr -2", ("--warmup-init-lr is -2", "-1")),
        (
            "--lr 1 --warmup-updates 3 --warmup-init-lr -1 --stop-min-lr 0",
            ("the first learning rate is 0", "above --stop-min-lr (0)"),
        ),
        ("--lr 1 --warmup-updates -3 --total-num-update 9", ("--warmup-updates (-3)", "negative")),
        ("--lr 1 --warmup-power -1 --total-num-update 9", ("--warmup-power is -1", "negative")),
    ],
)
def test_bad_options(options, says):
    with pytest.raises(ValueError) as error:
        schedule(options)
    for words in says:
        assert words in str(error.value)
