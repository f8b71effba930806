"""Half precision as fairseq's trainer has it: parameters in bfloat16 or float16 with an optimizer
that keeps float32 copies, the same without copies, and autocast."""

import copy

import helpers
import pytest
import torch
from fairseq.trainer import Trainer
from helpers import TASKS, TINY, batch_of, make_dictionary, parse, sentences

from fairseq_mega.ops.operators import runs_kernels

WORDS, UPDATES = 20, 50
TRAINING = (
    "--optimizer adam --adam-betas '(0.9, 0.98)' --lr 0.01 --clip-norm 1.0 "
    "--lr-scheduler fixed --rel-pos-bias rotary --normalize-before --weight-init xavier"
)
CRITERION = "--criterion label_smoothed_cross_entropy --label-smoothing 0.1"
# fairseq's options; without copies of the parameters in float32, those of "memory-efficient"
WAYS = {
    "bf16": ("--bf16", torch.bfloat16),
    "memory-efficient bf16": ("--memory-efficient-bf16", torch.bfloat16),
    "fp16": ("--fp16 --fp16-no-flatten-grads --fp16-init-scale 128", torch.float16),
    "memory-efficient fp16": ("--memory-efficient-fp16 --fp16-init-scale 128", torch.float16),
}
BOUND = 0.02  # of the mean loss of the last ten updates, of about 3.5
BOUND_ON_GPU = 0.05  # whose products add up in another order


def samples(arch):
    """Four batches, one after the other, of sentences that are padded."""
    made = []
    for seed in range(4):
        target = batch_of(sentences(12, 7, 9, words=WORDS, seed=seed))
        previous = target.roll(1, dims=1)
        previous[:, 0] = make_dictionary(WORDS).eos()
        net_input = {"src_tokens": previous, "src_lengths": torch.tensor([12, 7, 9])}
        if arch == "mega":
            source = batch_of(sentences(8, 11, 5, words=WORDS, seed=10 + seed), left_pad=True)
            net_input = {**net_input, "src_tokens": source, "prev_output_tokens": previous}
        made.append(
            {"id": torch.arange(3), "nsentences": 3, "ntokens": 28, "target": target}
            | {"net_input": net_input}
        )
    return made


def make_trainer(arch, device, options=""):
    # A GPU draws other masks in half precision.
    options += " --cpu" if device.type == "cpu" else " --dropout 0"
    cfg = copy.deepcopy(parse(f"{TINY[arch]} {TRAINING} {CRITERION} {options}"))
    cfg.common.tpu = False  # which fairseq's parser takes --bf16 to mean
    words = make_dictionary(WORDS)
    task = TASKS[cfg.task._name](cfg.task, words, words)
    torch.manual_seed(1)
    with torch.device("cpu"):  # the same initial weights anywhere
        model = task.build_model(cfg.model)
    return Trainer(cfg, task, model, task.build_criterion(cfg.criterion))


def losses(trainer, arch):
    """By update: of fairseq's own training step, per token."""
    batches = samples(arch)
    found = []
    for update in range(UPDATES):
        logged = trainer.train_step([batches[update % len(batches)]])
        found.append(float(logged["loss"]))
    return found


@pytest.fixture(scope="module")
def exact(device):
    """The losses in float32."""
    return {arch: losses(make_trainer(arch, device), arch) for arch in TINY}


def mean_of_last(values):
    return sum(values[-10:]) / 10


@pytest.mark.parametrize(
    "arch, way", [*(("mega_lm", way) for way in WAYS), ("mega", "bf16"), ("mega", "fp16")]
)
def test_training_follows_float32(arch, way, exact, device):
    options, dtype = WAYS[way]
    trainer = make_trainer(arch, device, options)
    assert {p.dtype for p in trainer.model.parameters()} == {dtype}
    found = losses(trainer, arch)
    bound = BOUND if device.type == "cpu" else BOUND_ON_GPU
    assert found[0] == pytest.approx(exact[arch][0], abs=bound)
    assert mean_of_last(found) == pytest.approx(mean_of_last(exact[arch]), abs=bound)
    assert mean_of_last(found) < 0.8 * found[0]


@pytest.mark.parametrize("arch", TINY)
def test_autocast_follows_float32(arch, exact, device):
    if device.type == "cpu":
        pytest.skip("--amp of fairseq is for GPUs alone")
    found = losses(make_trainer(arch, device, "--amp"), arch)
    assert found[0] == pytest.approx(exact[arch][0], abs=BOUND)
    assert mean_of_last(found) == pytest.approx(mean_of_last(exact[arch]), abs=BOUND)


LAYERS = {
    "ema": lambda: helpers.make_ema(dtype=torch.float32, embed_dim=6, bidirectional=True),
    "gated attention": lambda: helpers.make_gated(torch.float32)[0],
    "gated attention, laplace": lambda: helpers.make_gated(
        torch.float32, attention_activation="laplace", chunk_size=8, rel_pos_bias="rotary"
    )[0],
    "feed-forward": lambda: helpers.make_feed_forward(torch.float32)[0],
    "cross attention": lambda: helpers.make_cross(torch.float32)[0],
}


@pytest.mark.parametrize("dtype, bits", [(torch.bfloat16, 8), (torch.float16, 11)])
@pytest.mark.parametrize("name", LAYERS)
def test_layers_follow_float32(name, dtype, bits):
    """Outputs by 16 roundings of the largest value; gradients are finite, and in the type. The EMA
    leaves its output in float32, unless it has kernels."""
    exact = LAYERS[name]()
    rough = copy.deepcopy(exact).to(dtype)
    inputs = [helpers.randn(2, 20, 6, dtype=torch.float32)]
    if name == "cross attention":
        inputs.append(helpers.randn(2, 13, 6, seed=4, dtype=torch.float32))
    expected = helpers.first(exact(*inputs))
    y = helpers.first(rough(*(x.to(dtype) for x in inputs)))
    y.float().square().mean().backward()
    kept = name == "ema" and not runs_kernels(y)
    assert y.dtype == (torch.float32 if kept else dtype)
    helpers.assert_close(y.float(), expected, 16 * 2.0**-bits)
    for parameter in rough.parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all()
