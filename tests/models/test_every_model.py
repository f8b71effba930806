"""Properties of models of all kinds, image models included."""

import pytest
import torch
from all_models import MODELS, build_kind
from helpers import assert_close, scatter

import fairseq_mega.models.layers
from fairseq_mega.models.layers import Layer

kinds = pytest.mark.parametrize("kind", MODELS)


def train_a_step(model, kind):
    output = model(*MODELS[kind][2]())
    output = output["encoder_out"] if isinstance(output, dict) else output
    output = output[0] if isinstance(output, tuple) else output
    output.logsumexp(-1).square().sum().backward()


def statistics(kind, steps, **options):
    """The running statistics of all norms after so many training steps, with dropout."""
    norm = "norm_type" if kind in ("text", "image") else "normalization_type"
    model = build_kind(kind, **{norm: "batchnorm"}, dropout=0.1, **options)
    model = scatter(model).double().train()
    torch.manual_seed(5)
    for _ in range(steps):
        train_a_step(model, kind)
    return {
        name: buffer.double()
        for name, buffer in model.named_buffers()
        if name.endswith((".running_mean", ".running_var", ".num_batches_tracked"))
    }


@kinds
def test_every_parameter_gets_a_gradient(kind):
    """Distributed training waits for them (--ddp-backend pytorch_ddp)."""
    model = scatter(build_kind(kind)).double().train()
    train_a_step(model, kind)
    assert not [name for name, p in model.named_parameters() if p.grad is None]


@kinds
def test_batch_norms_count_a_batch_once_whatever_is_recomputed(kind, request):
    """Activation checkpointing recomputes a batch, or the layers do, or both."""
    expected = statistics(kind, steps=2)
    assert len(expected) >= 3 * 4
    found = [statistics(kind, 2, checkpoint_activations=True)]
    request.getfixturevalue("recomputing")
    found += [statistics(kind, 2, checkpoint_activations=flag) for flag in (False, True)]
    for buffer, value in expected.items():
        if buffer.endswith("num_batches_tracked"):
            assert value == 2
        for each in found:
            assert_close(each[buffer], value, 1e-12, buffer)


@kinds
def test_each_layer_is_wrapped_for_sharding_and_initialised(kind, monkeypatch):
    wrapped = []

    def wrap(module):
        wrapped.append(module)
        return module

    monkeypatch.setattr(fairseq_mega.models.layers, "fsdp_wrap", wrap)
    torch.manual_seed(1)
    model = build_kind(kind, weight_init="xavier")
    layers = [module for module in model.modules() if isinstance(module, Layer)]
    assert len(layers) == (4 if kind == "mega" else 2) and wrapped == layers
    weight = layers[0].mega_layer.mx_proj.weight
    assert weight.std().item() == pytest.approx((2 / sum(weight.shape)) ** 0.5, rel=0.2)
