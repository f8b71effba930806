"""The optimizer ``mega_adam``: the updates and the checkpoints of fairseq's ``adam``."""

import copy
from types import SimpleNamespace

import pytest
import torch
from classification import dictionary_of, write_lines
from commands import losses, run_warm
from fairseq import utils
from fairseq.optim import FP16Optimizer, MemoryEfficientFP16Optimizer, build_optimizer
from helpers import TINY, assert_close, parse

from fairseq_mega.optim.adam import parse_betas

UPDATES = 10  # before and after a checkpoint
OPTIONS = (
    f"{TINY['mega_lm']} --lr 1e-2 --lr-scheduler fixed --adam-betas '(0.9, 0.98)' "
    "--weight-decay 0.1 --optimizer"
)
# fairseq's wrapper, its options, the parameters' type and the tolerance
HALF, BRAIN, FRUGAL = torch.float16, torch.bfloat16, MemoryEfficientFP16Optimizer
WAYS = {
    "float32": (None, [], torch.float32, 1e-6),
    "fp16": (FP16Optimizer, ["fp16", "fp16_no_flatten_grads"], HALF, 1e-6),  # of float32 copies
    "bf16": (FP16Optimizer, ["bf16"], BRAIN, 1e-6),
    "memory-efficient fp16": (FRUGAL, ["fp16", "memory_efficient_fp16"], HALF, 2.0**-10),
    "memory-efficient bf16": (FRUGAL, ["bf16", "memory_efficient_bf16"], BRAIN, 2.0**-7),
}


def config(name, **common):
    """Returns fairseq's configuration of an optimizer with options of the part ``common``."""
    cfg = copy.deepcopy(parse(f"{OPTIONS} {name}"))
    cfg.common.fp16_init_scale = 128
    for option, value in common.items():
        cfg.common[option] = value
    return cfg


def make_parameters(device, dtype):
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(shape, generator=generator) for shape in [(5, 7), (3,), (33, 64), ()]]
    return [torch.nn.Parameter(value.to(device, dtype)) for value in values]


def train(names, way, device):
    """Returns the values and the state after a training by each optimizer in ``names`` in turn."""
    wrapper, options, dtype, _ = WAYS[way]
    params, state = make_parameters(device, dtype), None
    generator = torch.Generator().manual_seed(1)
    for name in names:
        cfg = config(name, **dict.fromkeys(options, True))
        optimizer = (
            wrapper.build_optimizer(cfg, params)
            if wrapper
            else build_optimizer(cfg.optimizer, params)
        )
        if state is not None:
            optimizer.load_state_dict(state)
        for update in range(UPDATES):
            optimizer.zero_grad()
            # From 1 to 1e-9, where eps matters; the first parameter does not always get one.
            gradients = [
                torch.randn(p.shape, generator=generator) * 10.0 ** (-update) for p in params
            ]
            used = slice(1 if update % 3 == 0 else 0, None)
            parts = [(p * g.to(p)).sum() for p, g in zip(params[used], gradients[used])]
            optimizer.backward(sum(parts))
            optimizer.clip_grad_norm(5.0)
            optimizer.step()
        state = copy.deepcopy(utils.move_to_cpu(optimizer.state_dict()))
    return SimpleNamespace(values=list(optimizer.params), state=state["state"])


@pytest.mark.parametrize("names", [("adam", "mega_adam"), ("mega_adam", "adam")])
@pytest.mark.parametrize("way", WAYS)
def test_updates_and_state_are_those_of_adam(way, names, device):
    ours, expected = train(names, way, device), train(("adam", "adam"), way, device)
    tolerance = WAYS[way][-1]
    for a, b in zip(ours.values, expected.values):
        assert a.dtype == b.dtype
        assert_close(a.double(), b.double(), tolerance)
    assert ours.state.keys() == expected.state.keys()
    for key, theirs in expected.state.items():
        state = ours.state[key]
        assert state.keys() == theirs.keys() and state["step"] == theirs["step"]
        for name in ("exp_avg", "exp_avg_sq"):
            assert state[name].dtype == theirs[name].dtype == torch.float32
            assert_close(state[name], theirs[name], 1e-6, floor=1e-6)


def sum_of_two(norm):
    """Returns the norm of two workers with the same gradients."""
    return norm * 2**0.5


@pytest.mark.parametrize(
    "parts, dtype, max_norm, aggregate",
    [
        ("all", torch.float32, 0, None),
        ("all", torch.float16, 0.5, sum_of_two),
        ("all", torch.bfloat16, 1000.0, None),
        ("experts", torch.float32, 0.5, sum_of_two),
        ("none", torch.bfloat16, 0.5, None),
    ],
)
def test_clipping_is_fairseqs(parts, dtype, max_norm, aggregate, device):
    ours, theirs = make_parameters(device, dtype), make_parameters(device, dtype)
    for params in (ours, theirs):
        for i, p in enumerate(params[: 0 if parts == "none" else 3]):
            p.grad = torch.full_like(p, 100.0 if dtype == torch.float16 else 1e-3) * (i + 1)
        if parts == "experts":
            params[0].expert = True
    optimizer = build_optimizer(parse(f"{OPTIONS} mega_adam").optimizer, ours)
    norm = optimizer.clip_grad_norm(max_norm, aggregate)
    expected = utils.clip_grad_norm_(theirs, max_norm, aggregate)
    assert torch.isfinite(norm) and norm.dtype == expected.dtype
    assert_close(norm, expected, 1e-6)
    for a, b in zip(ours, theirs):
        assert (a.grad is None) == (b.grad is None)
        if b.grad is not None:
            assert_close(a.grad, b.grad, 1e-6)


TRAIN = (
    f"{TINY['mega_lm']} --batch-size 4 --lr 1e-3 --clip-norm 0.5 --adam-betas (0.9,0.98) "
    "--weight-decay 0.01 --lr-scheduler linear_decay --warmup-updates 2 --total-num-update 40 "
    "--log-interval 1 --log-format json --disable-validation --num-workers 0 "
    "--no-epoch-checkpoints --update-epoch-batch-itr True"
)


def test_either_optimizer_continues_a_training_of_the_other(tmp_path):
    """Updates 13 to 18 of 24 are made by mega_adam, or all by fairseq's adam."""
    words = [f"w{i}" for i in range(12)]
    rows = [[words[(i + j) % 12] for j in range(5 + i % 7)] for i in range(200)]
    write_lines(tmp_path / "text" / "train", rows, dictionary_of(words))

    def train(name, updates, *options):
        words = f"{TRAIN} --optimizer {name} --max-update {updates} --save-dir {tmp_path / name}"
        output = run_warm("train", tmp_path / "text", words, *options)
        return losses(output), tmp_path / name / "checkpoint_last.pt"

    expected, last = train("adam", 24, "--save-interval-updates 12")
    theirs = torch.load(last)
    (middle,) = (tmp_path / "adam").glob("checkpoint_*_12.pt")
    found, last = train("mega_adam", 18, f"--restore-file {middle}")
    more, last = train("adam", 24, f"--restore-file {last}")
    assert sorted({**found, **more}) == list(range(13, 25))
    for update, loss in {**found, **more}.items():
        assert loss == pytest.approx(expected[update], abs=2e-3)  # logged with 3 digits
    ours = torch.load(last)
    for name, value in theirs["model"].items():
        assert_close(ours["model"][name], value, 1e-5, name)
    for key, value in theirs["last_optimizer_state"]["state"].items():
        state = ours["last_optimizer_state"]["state"][key]
        assert state["step"] == value["step"] == 24
        assert_close(state["exp_avg"], value["exp_avg"], 1e-5)


@pytest.mark.parametrize(
    "name, value, says",
    [
        ("adam_betas", "(0.9, 1)", r"--adam-betas is \(0.9, 1\).*at least 0 and below 1"),
        ("adam_betas", "0.9", r"--adam-betas is 0.9.*two numbers.*'\(0.9, 0.98\)'"),
        ("adam_betas", "fast", "--adam-betas is fast.*two numbers"),
        ("adam_eps", float("nan"), "--adam-eps is nan.*above 0"),
        ("weight_decay", -0.01, "--weight-decay is -0.01.*at least 0"),
        ("fp16_adam_stats", True, "--fp16-adam-stats is not for mega_adam"),
    ],
)
def test_bad_options(name, value, says):
    cfg = config("mega_adam").optimizer
    cfg[name] = value
    with pytest.raises(ValueError, match=says):
        build_optimizer(cfg, make_parameters("cpu", torch.float32))


def test_options_from_yaml():
    assert parse_betas([0.8, 0.95]) == parse_betas("(0.8, 0.95)") == (0.8, 0.95)
