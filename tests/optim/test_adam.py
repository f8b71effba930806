"""The optimizer ``mega_adam``: the updates and the checkpoints of fairseq's ``adam``."""

import copy
import json
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from classification import dictionary_of, write_lines
from commands import PLUGIN, losses, made_once, run_warm
from fairseq import utils
from fairseq.optim import FP16Optimizer, MemoryEfficientFP16Optimizer, build_optimizer
from helpers import TINY, assert_close, batch_of, build, parse, sentences

from fairseq_mega.optim import FairseqAdam

UPDATES = 10  # before and after a checkpoint
OPTIONS = (
    f"{TINY['mega_lm']} --lr 1e-2 --lr-scheduler fixed --adam-betas '(0.9, 0.98)' "
    "--weight-decay 0.1 --optimizer"
)
# how fairseq builds the optimizer, for which options, the parameters' type, and its precision
WAYS = {
    "float32": (
        lambda cfg, params: build_optimizer(cfg.optimizer, params),
        "",
        torch.float32,
        1e-6,
    ),
    "fp16": (
        FP16Optimizer.build_optimizer,
        "--fp16 --fp16-no-flatten-grads --fp16-init-scale 128",
        torch.float16,
        1e-6,  # of the copies in float32
    ),
    "bf16": (FP16Optimizer.build_optimizer, "--bf16", torch.bfloat16, 1e-6),
    "memory-efficient fp16": (
        MemoryEfficientFP16Optimizer.build_optimizer,
        "--memory-efficient-fp16 --fp16-init-scale 128",
        torch.float16,
        2.0**-10,
    ),
    "memory-efficient bf16": (
        MemoryEfficientFP16Optimizer.build_optimizer,
        "--memory-efficient-bf16",
        torch.bfloat16,
        2.0**-7,
    ),
}


def make_parameters(device, dtype):
    generator = torch.Generator().manual_seed(0)
    values = [torch.randn(shape, generator=generator) for shape in [(5, 7), (3,), (33, 64), ()]]
    return [torch.nn.Parameter(value.to(device, dtype)) for value in values]


def train(names, way, device):
    """The optimizer after as many trainings as ``names``, each resumed from the one before."""
    make, options, dtype, _ = WAYS[way]
    params, state = make_parameters(device, dtype), None
    generator = torch.Generator().manual_seed(1)
    for name in names:
        optimizer = make(parse(f"{OPTIONS} {name} {options}"), params)
        if state is not None:
            optimizer.load_state_dict(state)
        for update in range(UPDATES):
            optimizer.zero_grad()
            # Gradients from 1 to 1e-9, where eps matters; one parameter gets none at times.
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


@pytest.mark.parametrize(
    "names", [("mega_adam", "mega_adam"), ("adam", "mega_adam"), ("mega_adam", "adam")]
)
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


@pytest.mark.parametrize("dtype, tolerance", [(torch.float32, 1e-6), (torch.float64, 1e-12)])
@pytest.mark.parametrize("arch", TINY)
def test_weights_of_a_model_are_those_of_adam(arch, dtype, tolerance, device):
    """After 20 updates with the same gradients, rounding errors of a true zero among them."""
    torch.manual_seed(1)
    model = build(f"{TINY[arch]} --weight-init xavier").to(device, dtype)
    ours = copy.deepcopy(model)
    optimizers = [
        build_optimizer(parse(f"{OPTIONS} {name}").optimizer, list(each.parameters()))
        for name, each in (("adam", model), ("mega_adam", ours))
    ]
    for seed in range(20):
        target = batch_of(sentences(12, 7, 9, seed=seed)).to(device)
        previous = target.roll(1, dims=1)
        inputs = [target, torch.tensor([12, 7, 9]), previous] if arch == "mega" else [previous]
        optimizers[0].zero_grad()
        F.cross_entropy(model(*inputs)[0].transpose(1, 2), target).backward()
        for a, b in zip(ours.parameters(), model.parameters()):
            a.grad = b.grad.clone()
        for optimizer in optimizers:
            optimizer.step()
    for (name, expected), actual in zip(model.named_parameters(), ours.parameters()):
        assert_close(actual, expected, tolerance, name)


def sum_of_two(norm):
    """The norm of two workers that have the same gradients."""
    return norm * 2**0.5


@pytest.mark.parametrize("aggregate", [None, sum_of_two])
@pytest.mark.parametrize("max_norm", [0, 0.5, 1000.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("parts", ["all", "experts", "none"])
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


# --- fairseq's commands -------------------------------------------------------------------------

TRAIN = (
    f"{TINY['mega_lm']} --batch-size 4 --lr 1e-3 --clip-norm 0.5 --adam-betas (0.9,0.98) "
    "--weight-decay 0.01 --lr-scheduler linear_decay --warmup-updates 2 --total-num-update 40 "
    "--log-interval 1 --log-format json --disable-validation --num-workers 0 "
    "--no-epoch-checkpoints --update-epoch-batch-itr True"
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A text, and a training of 24 updates with each optimizer, with a checkpoint after 12."""

    def make(folder):
        words = [f"w{i}" for i in range(12)]
        rows = [[words[(i + j) % 12] for j in range(5 + i % 7)] for i in range(200)]
        write_lines(folder / "text" / "train", rows, dictionary_of(words))
        for name in ("adam", "mega_adam"):
            for updates in (12, 24):
                output = run_warm(
                    "train", folder / "text", f"{TRAIN} --optimizer {name} --max-update {updates}",
                    f"--save-dir {folder / name}",
                )  # fmt: skip
                last = folder / name / "checkpoint_last.pt"
                last.replace(last.with_name(f"checkpoint_{updates}.pt"))
                (folder / f"{name}_{updates}.log").write_text(output)

    return made_once(tmp_path_factory, "mega_adam", make)


@pytest.mark.parametrize("first, then", [("adam", "mega_adam"), ("mega_adam", "adam")])
def test_either_optimizer_continues_a_training_of_the_other(first, then, trained, tmp_path):
    output = run_warm(
        "train", trained / "text", f"{TRAIN} --optimizer {then} --max-update 24",
        f"--save-dir {tmp_path} --restore-file {trained / first / 'checkpoint_12.pt'}",
    )  # fmt: skip
    uninterrupted = losses((trained / "adam_24.log").read_text())
    found = losses(output)
    assert sorted(found) == list(range(13, 25))
    for update, loss in found.items():
        assert loss == pytest.approx(uninterrupted[update], abs=2e-3)  # logged with 3 digits
    ours = torch.load(tmp_path / "checkpoint_last.pt")
    theirs = torch.load(trained / "adam" / "checkpoint_24.pt")
    for name, expected in theirs["model"].items():
        assert_close(ours["model"][name], expected, 1e-5, name)
    for key, expected in theirs["last_optimizer_state"]["state"].items():
        state = ours["last_optimizer_state"]["state"][key]
        assert state["step"] == expected["step"] == 24
        assert_close(state["exp_avg"], expected["exp_avg"], 1e-5)


HYDRA = {
    "common": {"user_dir": str(PLUGIN), "cpu": True},
    "checkpoint": {"no_epoch_checkpoints": True},
    "optimization": {"lr": [1e-3], "max_update": 2},
    "dataset": {"batch_size": 4, "num_workers": 0, "disable_validation": True},
    "optimizer": {"_name": "mega_adam", "adam_betas": [0.8, 0.95], "weight_decay": 0.01},
    "lr_scheduler": {"_name": "fixed"},
    "criterion": {"_name": "cross_entropy"},
    "model": {"_name": "mega_lm", "decoder_layers": 1, "decoder_embed_dim": 12},
}


def test_hydra_train(trained, tmp_path):
    config = {
        **HYDRA,
        "checkpoint": {**HYDRA["checkpoint"], "save_dir": str(tmp_path)},
        "task": {
            "_name": "language_modeling",
            "data": str(trained / "text"),
            "tokens_per_sample": 32,
        },
        "hydra": {"run": {"dir": str(tmp_path / "hydra")}},
    }
    (tmp_path / "toy.yaml").write_text("# @package _group_\n" + json.dumps(config))
    run_warm("hydra-train", f"--config-dir {tmp_path} --config-name toy")
    state = torch.load(tmp_path / "checkpoint_last.pt")["last_optimizer_state"]
    (group,) = state["param_groups"]
    assert (group["betas"], group["eps"], group["weight_decay"]) == ((0.8, 0.95), 1e-8, 0.01)
    assert {each["step"] for each in state["state"].values()} == {2}


@pytest.mark.parametrize(
    "options, says",
    [
        ("--adam-betas '(0.9, 1)'", ("--adam-betas is (0.9, 1)", "at least 0 and below 1")),
        ("--adam-betas '(-0.1, 0.9)'", ("--adam-betas is (-0.1, 0.9)", "at least 0 and below 1")),
        ("--adam-betas 0.9", ("--adam-betas is 0.9", "two numbers", "'(0.9, 0.98)'")),
        ("--adam-betas fast", ("--adam-betas is fast", "two numbers", "'(0.9, 0.98)'")),
        ("--adam-eps 0", ("--adam-eps is 0", "above 0")),
        ("--adam-eps nan", ("--adam-eps is nan", "above 0")),
        ("--weight-decay -0.01", ("--weight-decay is -0.01", "0 (none) or above")),
    ],
)
def test_bad_options(options, says):
    cfg = parse(f"{TINY['mega_lm']} --optimizer mega_adam --lr-scheduler fixed {options}").optimizer
    with pytest.raises(ValueError) as error:
        build_optimizer(cfg, make_parameters("cpu", torch.float32))
    for words in says:
        assert words in str(error.value)


def test_default_options_are_those_of_adam():
    params = make_parameters("cpu", torch.float32)
    options = f"{TINY['mega_lm']} --lr 3e-4 --lr-scheduler fixed --optimizer"
    ours, theirs = (
        build_optimizer(parse(f"{options} {name}").optimizer, params)
        for name in ("mega_adam", "adam")
    )
    assert isinstance(ours, FairseqAdam) and not isinstance(theirs, FairseqAdam)
    assert json.dumps(ours.optimizer_config) == json.dumps(theirs.optimizer_config)
