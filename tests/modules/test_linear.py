import copy

import pytest
import torch
from helpers import assert_close, randn
from torch.nn.functional import linear as exact

from fairseq_mega.modules.linear import LEAST_PACKED, Linear, PackedWeight

SIDE = int(LEAST_PACKED**0.5)


def make(bias=True, side=SIDE):
    torch.manual_seed(0)
    return Linear(side, side, bias)


def packed(state):
    return [entry for entry in state.values() if isinstance(entry.get("packed"), PackedWeight)]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 1), (3, 1), (1, 40), (2, 3)])
@torch.no_grad()
def test_packed_weights_give_the_same_product(bias, shape):
    linear, state = make(bias), {}
    for seed in (1, 2):
        x = randn(*shape, SIDE, seed=seed, dtype=torch.float32).transpose(0, 1)
        assert_close(linear(x, state), exact(x, linear.weight, linear.bias), 1e-5)
    assert len(packed(state)) == torch.backends.mkldnn.is_available()


@torch.no_grad()
def test_a_new_state_sees_the_weights_as_they_are_then():
    """However they came to change."""
    linear, x = make(), randn(3, SIDE, dtype=torch.float32)
    linear(x, {})
    linear.weight.data.mul_(2.0)
    assert_close(linear(x, {}), exact(x, linear.weight, linear.bias), 1e-5)


def test_gradients_other_types_and_small_weights_are_not_packed():
    for dtype in (torch.float32, torch.float64, torch.bfloat16):
        linear, state = make(), {}
        x = randn(2, SIDE, dtype=dtype)
        with torch.set_grad_enabled(dtype == torch.float32):
            y = linear.to(dtype)(x, state)
        assert torch.equal(y, exact(x, linear.weight, linear.bias)) and not packed(state)
    linear, state = make(side=8), {}
    with torch.no_grad():
        linear(randn(2, 8, dtype=torch.float32), state)
    assert not packed(state)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        y = make()(randn(2, SIDE, dtype=torch.float32), state)
    assert y.dtype == torch.bfloat16 and not packed(state)


@torch.no_grad()
def test_a_state_can_be_copied():
    linear, x, state = make(), randn(3, SIDE, dtype=torch.float32), {}
    linear(x, state)
    assert torch.equal(linear(x, copy.deepcopy(state)), linear(x, state))
