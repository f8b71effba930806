"""Batch norms count a batch once, whatever of it the backward pass computes again."""

import copy
from types import SimpleNamespace

import classification
import fairseq.models
import masked_lm
import pytest
import torch
from helpers import TINY, assert_close, batch_of, make_model, parse, randn, scatter, sentences

IMAGENET = (
    "--task image_folder -a mega_tiny_patch16_224 --encoder-layers 2 --encoder-embed-dim 12 "
    "--encoder-hidden-dim 16 --encoder-ffn-embed-dim 20 --encoder-z-dim 4 --encoder-n-dim 3 "
    "--image-size 12 --patch-size 4 --drop-path 0.2"
)


def make_imagenet(**options):
    cfg = copy.deepcopy(parse(IMAGENET).model)
    for name, value in options.items():
        setattr(cfg, name, value)
    task = SimpleNamespace(class_names=list("abcde"))
    return scatter(fairseq.models.build_model(cfg, task)).double()


MODELS = {  # the model of options; its batch norms' option; what it takes, and how much comes out
    "mega": (
        lambda **options: make_model(TINY["mega"], **options),
        lambda: (batch_of(sentences(9, 4), left_pad=True), None, batch_of(sentences(5, 11))),
    ),
    "mega_lm": (
        lambda **options: make_model(TINY["mega_lm"], **options),
        lambda: (batch_of(sentences(5, 11)),),
    ),
    "classifier": (
        lambda normalization_type, **options: classification.make_model(
            classification.IMAGE, words=None, norm_type=normalization_type, **options
        ),
        lambda: (classification.batch(classification.numbers(7, 7, 7), pad=0),),
    ),
    "masked_lm": (masked_lm.make_model, lambda: (batch_of(sentences(9, 4, 13)),)),
    "imagenet": (make_imagenet, lambda: (randn(4, 3, 12, 12),)),
}


def statistics(name, steps, **options):
    """The running statistics of all norms after so many training steps, with dropout."""
    make, inputs = MODELS[name]
    model = make(normalization_type="batchnorm", dropout=0.1, **options).train()
    torch.manual_seed(5)
    for _ in range(steps):
        output = model(*inputs())
        output = output["encoder_out"] if isinstance(output, dict) else output
        output = output[0] if isinstance(output, tuple) else output
        output.logsumexp(-1).square().sum().backward()
    return {
        name: buffer.double()
        for name, buffer in model.named_buffers()
        if name.endswith((".running_mean", ".running_var", ".num_batches_tracked"))
    }


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("name", MODELS)
def test_statistics_do_not_depend_on_what_is_computed_again(name, steps, request):
    """Activation checkpointing recomputes a batch, or the layers do, or both."""
    expected = statistics(name, steps)
    assert len(expected) >= 3 * 4
    found = [statistics(name, steps, checkpoint_activations=True)]
    request.getfixturevalue("recomputing")
    found += [statistics(name, steps, checkpoint_activations=flag) for flag in (False, True)]
    for buffer, value in expected.items():
        if buffer.endswith("num_batches_tracked"):
            assert value == steps
        for each in found:
            assert_close(each[buffer], value, 1e-12, buffer)
