"""Attention whose weights are made again for the backward pass."""

import pytest
import torch
from helpers import FUNCTIONS, assert_same_function, padding, randn

from fairseq_mega.modules.dropout import make_dropout
from fairseq_mega.ops import attention
from fairseq_mega.ops.attention import attend


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("of_each", [False, True])
@pytest.mark.parametrize("queries,keys", [(11, 11), (3, 11), (1, 4)])
def test_blocks_equal_the_whole(monkeypatch, function, causal, padded, of_each, queries, keys):
    """Whether the weights are kept or made again, and whatever the blocks are."""
    batch = 5
    q, k, v = (
        randn(batch, n, size, seed=n + size, requires_grad=True)
        for n, size in ((queries, 4), (keys, 4), (keys, 6))
    )
    bias = randn(*[batch] * of_each, queries, keys, seed=9, requires_grad=True)
    future = torch.ones(queries, keys, dtype=torch.bool).triu(keys - queries + 1)
    mask = padding(keys, [keys, keys, 3, 1, keys]) if padded else None

    def attended(**options):
        seen = bias.masked_fill(future, -torch.inf) if causal else bias
        return attend(q, k, v, seen, function, causal, mask, torch.tanh, **options)[0]

    kept = attended(need_weights=True)
    monkeypatch.setattr(attention, "ROWS", 4)
    monkeypatch.setattr(attention, "WEIGHTS", 1)
    monkeypatch.setattr(attention, "SEQUENCES", 2)
    assert_same_function(attended(), kept, {"q": q, "k": k, "v": v, "bias": bias})


@pytest.mark.parametrize("causal", [False, True])
def test_the_backward_pass_drops_the_same_weights(monkeypatch, causal):
    q, k, v = (randn(5, 11, 4, seed=seed, requires_grad=True) for seed in (1, 2, 3))
    bias = torch.zeros(11, 11, dtype=torch.float64)
    if causal:
        bias = bias.masked_fill(torch.ones(11, 11, dtype=torch.bool).triu(1), -torch.inf)
    monkeypatch.setattr(attention, "ROWS", 4)

    def attended(**options):
        torch.manual_seed(1)
        draw = make_dropout(0.5, object()).draw
        return attend(q, k, v, bias, "softmax", causal, draw=draw, **options)[0]

    kept = attended(need_weights=True)
    assert_same_function(attended(), kept, {"q": q, "k": k, "v": v})
