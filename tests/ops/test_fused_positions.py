"""The Triton kernel of the rotary bias against the formula: on a GPU with ``--device cuda``, else
by Triton's interpreter."""

import pytest
import torch
from helpers import assert_close, assert_same_function, randn

from fairseq_mega.ops import operators
from fairseq_mega.ops.positions import rotary_bias

pytest.importorskip("triton", reason="the kernels need Triton: pip install triton")


def bias(alpha, beta, monkeypatch, kernels):
    monkeypatch.setattr(operators, "runs_kernels", lambda x: kernels)
    return rotary_bias(alpha, beta, -7, 5).view(1, -1, 1)


@pytest.mark.parametrize("dim", [2, 6, 128])
def test_outputs_and_gradients(dim, monkeypatch):
    alpha, beta = (randn(1, dim, seed=seed).requires_grad_() for seed in (1, 2))
    fast, slow = (bias(alpha, beta, monkeypatch, kernels) for kernels in (True, False))
    assert_same_function(fast, slow, {"alpha": alpha, "beta": beta})


def test_half_precision_is_read_and_written(monkeypatch):
    alpha, beta = (randn(1, 8, seed=seed, dtype=torch.bfloat16) for seed in (1, 2))
    fast = bias(alpha, beta, monkeypatch, True)
    assert fast.dtype == torch.bfloat16
    exact = bias(alpha.float(), beta.float(), monkeypatch, False)
    assert_close(fast.float(), exact, 0.05)
