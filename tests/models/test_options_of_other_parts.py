"""Models take options from the task and the criterion, which need not have them."""

from types import SimpleNamespace

import fairseq.models
import pytest
import torch
from fairseq.tasks import LegacyFairseqTask, register_task
from helpers import (
    TASKS,
    TINY,
    batch_of,
    build,
    make_dictionary,
    make_model,
    parse,
    parse_with_hydra,
    sentences,
)


@register_task("no_options")
class TaskWithoutOptions(LegacyFairseqTask):
    """A task as in older plugins: no dataclass, and none of the options that models look for."""

    @staticmethod
    def add_args(parser):
        parser.add_argument("data")


def model_of(cfg):
    dictionary = make_dictionary(20)
    task = SimpleNamespace(source_dictionary=dictionary, target_dictionary=dictionary)
    return fairseq.models.build_model(cfg.model, task)


@pytest.mark.parametrize("arch", TINY)
def test_a_criterion_without_a_dataclass(arch):
    options = "--criterion composite_loss --underlying-criterion cross_entropy"
    cfg = parse_with_hydra(f"{TINY[arch]} {options}")
    assert cfg.criterion.underlying_criterion == "cross_entropy"
    model_of(cfg)


@pytest.mark.parametrize("arch, sides", [("mega", 2), ("mega_lm", 1)])
def test_a_task_without_positions(arch, sides):
    """The default is that of fairseq's models."""
    cfg = parse_with_hydra(f"--task no_options --arch {arch} --decoder-layers 1")
    positions = model_of(cfg).max_positions()
    assert positions == ((1024,) * sides if sides > 1 else 1024)


@pytest.mark.parametrize(
    "options, limit",
    [("", 32), ("--max-target-positions 20", 20), ("--decoder-chunk-size 8", None)],
)
def test_add_bos_token_has_a_position(options, limit):
    """A sample of the longest length fits with the symbol before it, and no longer sample does."""
    options = f"{TINY['mega_lm']} --add-bos-token {options}"
    model = make_model(options)
    assert model.max_positions() == limit if limit else model.max_positions() > 1e9
    model(torch.full((1, (limit or 32) + 1), 5))


def test_a_model_trained_without_a_position_for_bos_loads():
    trained, model = make_model(TINY["mega_lm"]), build(f"{TINY['mega_lm']} --add-bos-token")
    model.load_state_dict(trained.state_dict())
    tokens = batch_of(sentences(32, 9))
    assert torch.equal(model.double().eval()(tokens)[0], trained(tokens)[0])


@pytest.mark.parametrize("bias", ["simple", "rotary"])
def test_limits_are_rounded_up_to_the_multiple_of_padding(bias):
    options = f"{TINY['mega']} --max-source-positions 30 --max-target-positions 29"
    options += f" --rel-pos-bias {bias}"
    trained = make_model(options)
    model = build(f"{options} --required-seq-len-multiple 8").double().eval()
    source, target = torch.ones(2, 32, dtype=torch.long), torch.ones(2, 32, dtype=torch.long)
    source[:, :30], target[:, :29] = 5, 7
    model(source, None, target)
    model.load_state_dict(trained.state_dict())
    expected = trained(source[:, :30], None, target[:, :29])[0]
    assert torch.allclose(model(source, None, target)[0][:, :29], expected)


@pytest.mark.parametrize(
    "arch, task, instead",
    [
        ("mega", "language_modeling", "--arch mega_lm"),
        ("mega", "mega_language_modeling", "--arch mega_lm"),
        ("mega_lm", "translation", "--arch mega "),
        ("mega_masked_lm", "translation", "--arch mega "),
        ("mega_masked_lm", "language_modeling", "--arch mega_lm"),
        ("lra", "translation", "--task lra-text"),
        ("mega_base_patch16_224", "translation", "--task image_folder"),
    ],
)
def test_a_task_of_another_model(arch, task, instead):
    cfg = parse(f"--arch {arch} --task {task}")
    dictionary = make_dictionary(20)
    with pytest.raises(ValueError) as error:
        TASKS[task](cfg.task, dictionary, dictionary).build_model(cfg.model)
    assert f"--task {task} is not for this architecture: use {instead}" in str(error.value)
