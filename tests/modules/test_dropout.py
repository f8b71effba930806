"""Dropout drops what it should, how often it should, and the same in the backward pass."""

import pytest
import torch
from helpers import assert_close, randn

from fairseq_mega.modules.dropout import make_dropout
from fairseq_mega.ops.dropout import apply_mask, draw_mask, dropout


@pytest.mark.parametrize("p", [0.0, 1e-6, 0.1, 0.5, 0.9, 1.0])
def test_values_are_dropped_with_probability_p(p):
    torch.manual_seed(1)
    x = torch.full((401, 1003), 2.0)
    y = dropout(x, p)
    share, deviation = (y == 0).double().mean().item(), (p * (1 - p) / x.numel()) ** 0.5
    assert abs(share - p) <= 5 * deviation + 2**-17
    if p < 1:
        assert_close(y[y != 0], torch.full_like(y[y != 0], 2 / (1 - p)), 2**-16 / (1 - p))


def test_values_are_dropped_independently():
    """Those whose random bits come from one number, too."""
    torch.manual_seed(1)
    dropped = (dropout(torch.ones(2**20), 0.3) == 0).double()
    for distance in (1, 2, 3, 4, 5, 8):
        both = (dropped[distance:] * dropped[:-distance]).mean().item()
        assert abs(both - 0.09) < 5 * (0.09 * 0.91 / 2**20) ** 0.5


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(), (1,), (7, 3), (2, 5, 9), (0, 4)])
def test_gradients_of_dropped_values_are_zero(shape, dtype):
    x = torch.ones(shape, dtype=dtype, requires_grad=True)
    y = dropout(x, 0.4)
    y.backward(torch.ones_like(y))
    assert y.dtype == dtype
    assert torch.equal(x.grad, y)


def test_the_seed_decides():
    def draw(seed):
        torch.manual_seed(seed)
        return dropout(torch.ones(100), 0.5)

    assert torch.equal(draw(1), draw(1)) and not torch.equal(draw(1), draw(2))


@pytest.mark.parametrize("feature_dropout", [False, True])
def test_a_mask_drops_the_same_in_every_call(feature_dropout):
    module = make_dropout(0.5, object(), feature_dropout)
    x = randn(3, 40, 6)
    mask = module.mask(x)
    assert torch.equal(apply_mask(x, mask), apply_mask(x, mask))
    assert not torch.equal(apply_mask(x, mask), apply_mask(x, module.mask(x)))
    assert module.eval().mask(x) is None and apply_mask(x, None) is x


def test_layouts_are_kept_apart_from_order():
    """A mask belongs to positions, however the tensor is laid out in memory."""
    torch.manual_seed(1)
    x = randn(5, 4, 3)
    mask = draw_mask(x, 0.5)
    other = x.transpose(0, 2).contiguous().transpose(0, 2)
    assert torch.equal(apply_mask(x, mask), apply_mask(other, mask))
