"""Single-head attention with a positional bias (Mega, sections "Moving Average Equipped Gated
Attention" and "Laplace Attention Function")."""

import math
from typing import Callable, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor

LAPLACE_MEAN = math.sqrt(0.5)
LAPLACE_STD = math.sqrt(0.25 / math.pi)
# Causal attention runs in blocks of so many queries, each with the keys up to its end alone. On two
# CPU cores blocks of 256 took two thirds of the time of the whole square at L 1024.
ROWS = 256


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor,
    function: str,
    causal: bool = False,
    padding: Optional[Tensor] = None,
    dropout: Callable[[Tensor], Tensor] = lambda weights: weights,
    need_weights: bool = False,
    copies: int = 1,
) -> Tuple[Tensor, Optional[Tensor]]:
    """Attention of queries to keys.

    Args:
        q: ``(B, L, Z)``.
        k: ``(B, S, Z)``.
        v: ``(B, S, H)``.
        bias: ``(L, S)`` or ``(B, L, S)``, minus infinity where a query may not see a key, which
            all attention functions turn into a weight of exactly 0.
        function: ``softmax``, ``relu2`` or ``laplace``.
        causal: the queries are the last ``L`` of the ``S`` positions, and see no later key: there,
            ``bias`` is minus infinity.
        padding: ``(B, S)``, true at keys that no query sees, or None.
        dropout: applied to the weights.
        need_weights: also return the weights, before dropout.
        copies: each position is among the keys so many times, and a query sees one of them.

    Returns:
        ``(B, L, H)`` and, if asked for, the weights ``(B, L, S)``.
    """
    queries, keys = q.size(1), k.size(1)
    outputs, weights = [], []
    for start in range(0, queries, ROWS if causal else queries):
        stop = min(start + ROWS, queries) if causal else queries
        seen = keys - queries + stop if causal else keys
        w = ATTENTION_FUNCTIONS[function](
            q[:, start:stop],
            k[:, :seen],
            bias[..., start:stop, :seen],
            causal,
            None if padding is None else padding[:, :seen],
            copies,
        )
        outputs.append(torch.bmm(dropout(w), v[:, :seen]))
        if need_weights:
            weights.append(F.pad(w, (0, keys - seen)))
    return _join(outputs), _join(weights) if need_weights else None


def _join(blocks):
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks, dim=1)


def softmax(
    q: Tensor, k: Tensor, bias: Tensor, causal: bool, padding: Optional[Tensor], copies: int
):
    """``softmax(q k^T / sqrt(Z) + bias)``; finite in rows that see nothing but padding."""
    scores = torch.baddbmm(bias, q, k.transpose(1, 2), alpha=q.size(-1) ** -0.5)
    if padding is not None:
        scores = scores.masked_fill(padding.unsqueeze(1), torch.finfo(scores.dtype).min)
    return torch.softmax(scores, dim=-1)


def relu2(q: Tensor, k: Tensor, bias: Tensor, causal: bool, padding: Optional[Tensor], copies: int):
    """``max(0, q k^T / n + bias)^2`` with ``n`` the number of keys that a query sees."""
    return torch.relu(_mean_scores(q, k, bias, causal, padding, copies)).square()


def laplace(
    q: Tensor, k: Tensor, bias: Tensor, causal: bool, padding: Optional[Tensor], copies: int
):
    """The Laplace function of ``q k^T / n + bias``: relu2's smooth and bounded approximation."""
    scores = _mean_scores(q, k, bias, causal, padding, copies)
    z = (scores - LAPLACE_MEAN) * (1 / (LAPLACE_STD * math.sqrt(2.0)))
    return torch.erf(z).add(1.0).mul(0.5)


def _mean_scores(q, k, bias, causal, padding, copies):
    n = _visible_keys(q.size(1), k.size(1) // copies, causal, padding, q.device).unsqueeze(-1)
    q = (q.to(torch.promote_types(q.dtype, torch.float32)) / n).to(q.dtype)
    scores = torch.baddbmm(bias, q, k.transpose(1, 2))
    return scores if padding is None else scores.masked_fill(padding.unsqueeze(1), -math.inf)


ATTENTION_FUNCTIONS = {"softmax": softmax, "relu2": relu2, "laplace": laplace}
"""Each takes ``q``, ``k``, ``bias``, ``causal``, ``padding`` and ``copies`` as ``attend`` does, and
returns the weights ``(B, L, S)``."""


def _visible_keys(queries: int, keys: int, causal: bool, padding: Optional[Tensor], device):
    """How many keys each query sees, at least 1: ``(1 or B, L)``.

    Args:
        queries, keys: ``L`` and ``S``.
        causal: the queries are the last ``L`` of the ``S`` positions, and see no later key.
        padding: ``(B, S)``, true at keys that are not seen, or None.
    """
    if padding is None:
        if causal:
            return torch.arange(keys - queries + 1, keys + 1, device=device).unsqueeze(0)
        return torch.full((1, queries), keys, device=device)
    seen = (~padding).cumsum(dim=1)
    seen = seen[:, keys - queries :] if causal else seen[:, -1:]
    return seen.clamp(min=1)
