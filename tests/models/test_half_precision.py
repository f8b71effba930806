"""Half precision as fairseq's trainer has it: parameters in bfloat16 or float16 with an optimizer
that keeps float32 copies, the same without copies, and autocast."""

import copy

import pytest
import torch
from fairseq.trainer import Trainer
from helpers import TASKS, TINY, batch_of, make_dictionary, parse, sentences

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
    "amp": ("--amp", torch.float32),
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
    """Loss per token by update, from fairseq's own training step."""
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
    "arch, way",
    [
        ("mega_lm", "bf16"),
        ("mega_lm", "memory-efficient fp16"),
        ("mega", "memory-efficient bf16"),
        ("mega", "fp16"),
        *((arch, "amp") for arch in TINY),
    ],
)
def test_training_follows_float32(arch, way, exact, device):
    if way == "amp" and device.type == "cpu":
        pytest.skip("fairseq's --amp is for GPUs only")
    options, dtype = WAYS[way]
    trainer = make_trainer(arch, device, options)
    assert {p.dtype for p in trainer.model.parameters()} == {dtype}
    found = losses(trainer, arch)
    bound = BOUND if device.type == "cpu" else BOUND_ON_GPU
    assert found[0] == pytest.approx(exact[arch][0], abs=bound)
    assert mean_of_last(found) == pytest.approx(mean_of_last(exact[arch]), abs=bound)
    assert mean_of_last(found) < 0.8 * found[0]
