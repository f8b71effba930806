"""Dropout drops the right values at the right rate, and the same ones in the backward pass."""

import itertools

import pytest
import torch
from helpers import (
    assert_close,
    first,
    make_cross,
    make_feed_forward,
    make_gated,
    pairwise,
    randn,
    retain_dropout,
)

from fairseq_mega.modules.dropout import make_dropout
from fairseq_mega.ops.dropout import LEAST_FOR_BITS, DropoutMask, apply_mask, draw_mask, dropout
from fairseq_mega.ops.recompute import RandomNumbers

SMALL, LARGE = (101, 103), (401, 1003)  # drawn by torch; on a CPU, from random bits
RATES = (1e-6, 0.1, 0.5, 0.9, 1.0)
shapes = pytest.mark.parametrize("shape", [SMALL, LARGE], ids=["small", "large"])


def by_mask(x, p):
    return apply_mask(x, draw_mask(x, p))


def test_both_ways_of_drawing_are_tested():
    assert torch.Size(SMALL).numel() < LEAST_FOR_BITS <= torch.Size(LARGE).numel()


@shapes
@pytest.mark.parametrize(
    "drop, p", [(dropout, 0.0), *((f, p) for f in (dropout, by_mask) for p in RATES)]
)
def test_values_are_dropped_with_probability_p(drop, p, shape):
    torch.manual_seed(1)
    x = torch.full(shape, 2.0)
    y = drop(x, p)
    share, deviation = (y == 0).double().mean().item(), (p * (1 - p) / x.numel()) ** 0.5
    assert abs(share - p) <= 5 * deviation + 2**-17
    if p < 1:
        assert_close(y[y != 0], torch.full_like(y[y != 0], 2 / (1 - p)), 2**-16 / (1 - p))


@shapes
@pytest.mark.parametrize("p", [0.1, 0.75])
def test_a_mask_says_which_values_are_kept_and_their_scale(p, shape):
    torch.manual_seed(1)
    mask = draw_mask(torch.zeros(shape), p)
    assert isinstance(mask, DropoutMask)
    assert mask.keep.dtype == torch.bool and mask.keep.shape == shape
    assert mask.scale == pytest.approx(1 / (1 - p), rel=2**-16 / (1 - p))
    x = randn(*shape)
    assert torch.equal(apply_mask(x, mask), torch.where(mask.keep, x * mask.scale, 0.0))


@pytest.mark.parametrize("shape", [(13, 1000), (2**20,)])
def test_values_are_dropped_independently(shape):
    """Values whose random bits come from one number are independent, too."""
    torch.manual_seed(1)
    dropped = (dropout(torch.ones(shape), 0.3) == 0).double().flatten()
    for distance in (1, 2, 3, 4, 5, 8):
        both = (dropped[distance:] * dropped[:-distance]).mean().item()
        assert abs(both - 0.09) < 5 * (0.09 * 0.91 / dropped.numel()) ** 0.5


@pairwise(
    dtype=[torch.float64, torch.float32, torch.bfloat16, torch.float16],
    shape=[(), (7, 3), (2, 5, 9), (0, 4), (129, 129)],
    drop=[dropout, by_mask],
)
def test_gradients_of_dropped_values_are_zero(drop, shape, dtype):
    x = torch.ones(shape, dtype=dtype, requires_grad=True)
    y = drop(x, 0.4)
    y.backward(torch.ones_like(y))
    assert y.dtype == dtype
    assert torch.equal(x.grad, y)


@shapes
@pytest.mark.parametrize("drop", [dropout, by_mask])
def test_the_seed_decides(drop, shape):
    def draw(seed):
        torch.manual_seed(seed)
        return drop(torch.ones(shape), 0.5)

    assert torch.equal(draw(1), draw(1)) and not torch.equal(draw(1), draw(2))


@shapes
def test_the_backward_pass_keeps_a_byte_for_each_value(shape):
    kept = []
    x = torch.ones(shape, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        dropout(x, 0.3)
    assert [t.nbytes for t in kept] == [x.numel()]


@pytest.mark.parametrize("feature_dropout", [False, True])
@pytest.mark.parametrize("positions", [40, 1000])
def test_the_same_values_are_dropped_again(feature_dropout, positions):
    """The random state of the first call draws them; later draws are not disturbed."""
    module = make_dropout(0.5, object(), feature_dropout)
    x = randn(3, positions, 6)
    state = RandomNumbers(x.device)
    once, later = module(x), module(x)
    with state.again():
        assert torch.equal(module(x), once) and torch.equal(module(x), later)
    assert not torch.equal(module(x), once) and (once == 0).any()
    assert module.eval()(x) is x


@pytest.mark.parametrize("positions", [40, 1000])
def test_a_mask_of_a_module_drops_the_same_in_every_call(positions):
    module = make_dropout(0.5, object())
    x = randn(3, positions, 6)
    mask = module.mask(x)
    assert torch.equal(apply_mask(x, mask), apply_mask(x, mask))
    assert not torch.equal(apply_mask(x, mask), apply_mask(x, module.mask(x)))
    assert module.eval().mask(x) is None


@pytest.mark.parametrize("feature_dropout", [False, True])
def test_how_much_a_module_drops(feature_dropout):
    """It drops one channel in four at all positions of a sequence, or one value in four."""
    torch.manual_seed(1)
    x = torch.ones(50, 30, 60, dtype=torch.float64, requires_grad=True)
    y = make_dropout(0.25, object(), feature_dropout)(x)
    dropped = y == 0
    assert dropped.double().mean().item() == pytest.approx(0.25, abs=0.04)
    assert_close(y[~dropped], torch.full_like(y[~dropped], 4 / 3), 1e-4)
    assert (dropped.all(dim=1) == dropped.any(dim=1)).all() == feature_dropout
    (grad,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(grad, y)


@pytest.mark.parametrize("shape", [(5, 4, 3), (50, 40, 30)])
def test_layouts_are_kept_apart_from_order(shape):
    """A mask belongs to positions, however the tensor is laid out in memory."""
    torch.manual_seed(1)
    x = randn(*shape)
    mask = draw_mask(x, 0.5)
    other = x.transpose(0, 2).contiguous().transpose(0, 2)
    assert torch.equal(apply_mask(x, mask), apply_mask(other, mask))


# --- In layers ----------------------------------------------------------------------------------

LAYERS = {
    "gated": lambda **options: make_gated(**options)[0],
    "chunks": lambda **options: make_gated(chunk_size=4, **options)[0],
    "cross": lambda **options: make_cross(**options)[0],
    "feed forward": lambda **options: make_feed_forward(**options)[0],
}


@pytest.mark.parametrize("feature_dropout", [False, True])
@pytest.mark.parametrize(
    "name, kind",
    [
        *itertools.product(LAYERS, ("dropout", "hidden_dropout")),
        *itertools.product(("gated", "chunks", "cross"), ("attention_dropout",)),
    ],
)
def test_layers_drop_in_training_and_in_generation_that_retains_it(name, kind, feature_dropout):
    x, source = randn(2, 10, 6), randn(2, 7, 6, seed=2)

    def run(layer):
        torch.manual_seed(3)
        first_run = first(layer(x, source) if name == "cross" else layer(x))
        second_run = first(layer(x, source) if name == "cross" else layer(x))
        return first_run, (first_run - second_run).abs().max()

    layer = LAYERS[name](feature_dropout=feature_dropout, **{kind: 0.5})
    expected = first(run(LAYERS[name]().train()))
    assert_close(first(run(layer)), expected)
    dropped, difference = run(layer.train())
    assert difference > 1e-3
    if kind == "attention_dropout":  # drops weights, never features
        assert_close(dropped, first(run(LAYERS[name](attention_dropout=0.5).train())))
    retain_dropout(layer.eval(), names=["NoModuleOfThisName"])
    assert_close(first(run(layer)), expected)
    retain_dropout(layer, names=[type(layer).__name__] if feature_dropout else None)
    assert run(layer)[1] > 1e-3
