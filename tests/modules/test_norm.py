"""The norms, seen through a post-norm feed-forward network whose update is zero: y = norm(x)."""

import pytest
import reference
import torch
from helpers import (
    NORMS,
    assert_close,
    assert_same_function,
    first,
    make_cross,
    make_feed_forward,
    make_gated,
    randn,
    tensors_of,
)

PARAMETERS = {
    "layernorm": {"weight", "bias"},
    "scalenorm": {"scalar"},
    "rmsnorm": {"weight"},
    "batchnorm": {"weight", "bias"},
    "syncbatchnorm": {"weight", "bias"},
}


def make_norm(norm_type, dtype=torch.float64, **options):
    module, _ = make_feed_forward(dtype, norm_type=norm_type, prenorm=False, **options)
    with torch.no_grad():
        module.fc2.weight.zero_()
        module.fc2.bias.zero_()
    return module


def norm_parameters(module):
    prefix = "norm.norm."
    return {
        name[len(prefix) :]: value
        for name, value in module.named_parameters()
        if name.startswith(prefix)
    }


@pytest.mark.parametrize("norm_type", NORMS)
@pytest.mark.parametrize("scale", [1.0, 1e-3])
def test_equals_reference(norm_type, scale):
    """At a scale of 1e-3, eps = 1e-5 is ten times the variance."""
    module = make_norm(norm_type)
    x = (scale * randn(3, 5, 6)).requires_grad_()
    params = reference.under(tensors_of(module), "norm.norm")
    slow = reference.norm(params, norm_type, x)
    assert_same_function(module(x), slow, {"x": x, **norm_parameters(module)})


@pytest.mark.parametrize("norm_type", NORMS)
def test_parameters_start_as_the_identity_and_have_the_published_names(norm_type):
    module, _ = make_feed_forward(norm_type=norm_type)
    assert set(norm_parameters(module)) == PARAMETERS[norm_type]
    fresh = type(module)(6, 10, norm_type=norm_type)
    for name, value in norm_parameters(fresh).items():
        assert (value == (0 if name == "bias" else 1)).all()
    if norm_type == "scalenorm":
        assert norm_parameters(fresh)["scalar"].numel() == 1


@pytest.mark.parametrize("norm_type", ["layernorm", "rmsnorm", "batchnorm", "syncbatchnorm"])
def test_without_affine_there_are_no_parameters(norm_type):
    module = make_norm(norm_type, norm_affine=False)
    assert norm_parameters(module) == {}
    x = randn(3, 5, 6)
    params = reference.under(tensors_of(module), "norm.norm")
    assert_close(module(x), reference.norm(params, norm_type, x))


def test_batchnorm_trains_on_the_statistics_of_the_batch():
    module = make_norm("batchnorm", norm_affine=False)
    x = randn(3, 50, 6)
    y = module.train()(x)
    flat = x.reshape(-1, 6)
    expected = (x - flat.mean(0)) / torch.sqrt(flat.var(0, unbiased=False) + 1e-5)
    assert_close(y, expected)
    for _ in range(300):
        module(x)
    assert_close(module.eval()(x), expected, 0.02)


@pytest.mark.parametrize("norm_type", ["layernorm", "scalenorm", "rmsnorm"])
def test_large_values_stay_finite_in_bfloat16(norm_type):
    module = make_norm(norm_type, torch.bfloat16)
    y = module((1e3 * randn(3, 5, 6)).bfloat16())
    assert y.dtype == torch.bfloat16 and torch.isfinite(y).all()


@pytest.mark.parametrize("norm_type", ["layernorm", "scalenorm", "rmsnorm"])
def test_zero_stays_finite(norm_type):
    module = make_norm(norm_type)
    x = torch.zeros(1, 2, 6, dtype=torch.float64, requires_grad=True)
    module(x).sum().backward()
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("norm_type", ["batchnorm", "syncbatchnorm"])
def test_batchnorm_counts_a_batch_once_forward_and_backward(norm_type):
    for make in (make_gated, make_feed_forward):
        module, _ = make(norm_type=norm_type)
        first(module.train()(randn(2, 7, 6))).sum().backward()
        assert module.norm.norm.num_batches_tracked == 1


@pytest.mark.parametrize("norm_type", ["batchnorm", "syncbatchnorm"])
@pytest.mark.parametrize("prenorm", [True, False])
@pytest.mark.parametrize("make", [make_gated, make_cross, make_feed_forward])
def test_recomputation_leaves_the_statistics_alone(make, prenorm, norm_type, request):
    """Gradients are those of the batch's statistics, which are counted once."""
    x, results = randn(2, 7, 6), []
    for recomputes in (False, True):
        if recomputes:
            request.getfixturevalue("recomputing")
        module, _ = make(norm_type=norm_type, prenorm=prenorm)
        norm = module.train().norm.norm
        for step in (1, 2):
            first(module(x, 2 * x) if make is make_cross else module(x)).square().sum().backward()
            assert norm.num_batches_tracked == step and norm.momentum == 0.1
        gradients = [p.grad for p in module.parameters()]
        results.append([norm.running_mean, norm.running_var, *gradients])
    for found, expected in zip(*results):
        assert_close(found, expected)
