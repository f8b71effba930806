"""The modules reproduce the published implementation: outputs, weights and every gradient.

The values are float32, of sequences (L, B, D); the gradients include contributions from padding, so
only the positions that are not padding are compared, at the outputs and at the inputs.
"""

import pytest
import torch
import torch.nn.functional as F
from helpers import assert_close

from fairseq_mega.modules import GatedCrossAttention, MovingAverageGatedAttention, MultiHeadEMA

TOLERANCE = 1e-5
FLOOR = 1e-2  # below this, a gradient is compared to TOLERANCE * FLOOR
SEQUENCES = ("x", "y", "query", "key", "grad_x", "grad_y", "grad_query", "grad_key")


def load_case(parity, name, index, count):
    cases = torch.load(parity / name, map_location=torch.get_default_device())
    assert len(cases) == count, f"{name} has {len(cases)} cases: test them all"
    case = cases[index]
    return {**case, **{name: case[name].transpose(0, 1) for name in SEQUENCES if name in case}}


def positions(mask, x):
    return torch.ones(x.shape[:2], dtype=torch.bool) if mask is None else ~mask


def check_gradients(module, case):
    expected = case["grad_params"]
    assert {name for name, _ in module.named_parameters()} == set(expected)
    for name, parameter in module.named_parameters():
        assert_close(parameter.grad, expected[name], TOLERANCE, f"gradient of {name}", FLOOR)


@pytest.mark.parametrize("index", range(4))
def test_ema(parity, index):
    case = load_case(parity, "ema.pt", index, 4)
    options = ("embed_dim", "ndim", "bidirectional", "truncation")
    module = MultiHeadEMA(**{option: case[option] for option in options})
    module.load_state_dict(case["state_dict"], strict=True)
    x = case["x"].requires_grad_()
    keep = positions(case["padding_mask"], x)
    y = F.silu(module(x, case["padding_mask"]))
    y.backward(case["grad_y"])
    assert_close(y[keep], case["y"][keep], TOLERANCE, floor=FLOOR)
    assert_close(x.grad[keep], case["grad_x"][keep], TOLERANCE, "gradient of x", FLOOR)
    check_gradients(module, case)


@pytest.mark.parametrize("index", range(5))
def test_gated_attention(parity, index):
    case = load_case(parity, "gated_attention.pt", index, 5)
    module = MovingAverageGatedAttention(**case["config"])
    module.load_state_dict(case["state_dict"], strict=True)
    x = case["x"].requires_grad_()
    keep = positions(case["padding_mask"], x)
    y, weights = module(x, case["padding_mask"])
    y.backward(case["grad_y"])
    assert weights is None
    assert_close(y[keep], case["y"][keep], TOLERANCE, floor=FLOOR)
    assert_close(x.grad[keep], case["grad_x"][keep], TOLERANCE, "gradient of x", FLOOR)
    check_gradients(module, case)


@pytest.mark.parametrize("index", range(3))
def test_cross_attention(parity, index):
    case = load_case(parity, "cross_attention.pt", index, 3)
    module = GatedCrossAttention(**case["config"])
    module.load_state_dict(case["state_dict"], strict=True)
    query, key = case["query"].requires_grad_(), case["key"].requires_grad_()
    keep = positions(case["key_padding_mask"], key)
    y, weights = module(query, key, case["key_padding_mask"], need_weights=True)
    y.backward(case["grad_y"])
    assert_close(y, case["y"], TOLERANCE, floor=FLOOR)
    assert_close(weights, case["attention_weights"], TOLERANCE, "weights", FLOOR)
    assert_close(query.grad, case["grad_query"], TOLERANCE, "gradient of query", FLOOR)
    assert_close(key.grad[keep], case["grad_key"][keep], TOLERANCE, "gradient of key", FLOOR)
    check_gradients(module, case)
