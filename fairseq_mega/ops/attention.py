"""Single-head attention with a positional bias (Mega, sections "Moving Average Equipped Gated
Attention" and "Laplace Attention Function")."""

import math
from typing import Optional

import torch
from torch import Tensor

LAPLACE_MEAN = math.sqrt(0.5)
LAPLACE_STD = math.sqrt(0.25 / math.pi)


def attention_weights(
    q: Tensor,
    k: Tensor,
    bias: Tensor,
    function: str,
    causal: bool = False,
    key_padding_mask: Optional[Tensor] = None,
) -> Tensor:
    """How much each query attends to each key.

    Args:
        q: ``(B, L, Z)``.
        k: ``(B, S, Z)``.
        bias: ``(L, S)``.
        function: ``softmax``, ``relu2`` or ``laplace``.
        causal: the queries are the last ``L`` of the ``S`` positions, and see no later key.
        key_padding_mask: ``(B, S)``, true where a key is padding and not to be seen.

    Returns:
        ``(B, L, S)``.
    """
    return ATTENTION_FUNCTIONS[function](q, k, bias, causal, key_padding_mask)


def softmax(q, k, bias, causal, key_padding_mask):
    """``softmax(q k^T / sqrt(Z) + bias)``; finite in rows that see nothing."""
    if causal:
        bias = bias.masked_fill(_future(bias), -math.inf)
    scores = torch.baddbmm(bias, q, k.transpose(1, 2), alpha=q.size(-1) ** -0.5)
    if key_padding_mask is not None:
        lowest = torch.finfo(scores.dtype).min
        scores = scores.masked_fill(key_padding_mask.unsqueeze(1), lowest)
    return torch.softmax(scores, dim=-1)


def relu2(q, k, bias, causal, key_padding_mask):
    """``max(0, q k^T / n + bias)^2`` with ``n`` the number of keys that a query sees."""
    scores, hidden = _mean_scores(q, k, bias, causal, key_padding_mask)
    return _hide(torch.relu(scores).square(), hidden)


def laplace(q, k, bias, causal, key_padding_mask):
    """The Laplace function of ``q k^T / n + bias``: relu2's smooth and bounded approximation."""
    scores, hidden = _mean_scores(q, k, bias, causal, key_padding_mask)
    z = (scores - LAPLACE_MEAN) * (1 / (LAPLACE_STD * math.sqrt(2.0)))
    return _hide(torch.erf(z).add(1.0).mul(0.5), hidden)


ATTENTION_FUNCTIONS = {"softmax": softmax, "relu2": relu2, "laplace": laplace}


def _mean_scores(q, k, bias, causal, key_padding_mask):
    """Scores over ``n``, and the mask (broadcastable to them, or None) of what is not seen."""
    hidden = None
    if causal:
        hidden = _future(bias).unsqueeze(0)
    if key_padding_mask is not None:
        padding = key_padding_mask.unsqueeze(1)
        hidden = padding if hidden is None else hidden | padding
    if hidden is None:
        q = q / k.size(1)
    else:
        q = q / (~hidden).sum(-1, keepdim=True).clamp(min=1).to(q.dtype)
    return torch.baddbmm(bias, q, k.transpose(1, 2)), hidden


def _hide(weights, hidden):
    return weights if hidden is None else weights.masked_fill(hidden, 0.0)


def _future(bias: Tensor) -> Tensor:
    rows, columns = bias.shape
    return torch.ones_like(bias, dtype=torch.bool).triu(columns - rows + 1)
