"""Single-head attention with a positional bias (Mega, sections "Moving Average Equipped Gated
Attention" and "Laplace Attention Function")."""

import math
from typing import Callable, List, NamedTuple, Optional, Tuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .dropout import keep

LAPLACE_MEAN = math.sqrt(0.5)
LAPLACE_STD = math.sqrt(0.25 / math.pi)
# Causal attention runs in blocks of so many queries, each with the keys up to its end alone. On two
# CPU cores blocks of 256 took two thirds of the time of the whole square at L 1024.
ROWS = 256
# On CPUs it runs for so many sequences at once as have so many weights, what fits into the caches,
# but for no fewer than a product of matrices needs to be fast.
WEIGHTS, SEQUENCES = 2**20, 4


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    bias: Tensor,
    function: str,
    causal: bool = False,
    padding: Optional[Tensor] = None,
    activation: Optional[Callable[[Tensor], Tensor]] = None,
    draw: Callable[[Tensor], Callable[[Tensor], Tensor]] = lambda weights: keep,
    need_weights: bool = False,
    copies: int = 1,
) -> Tuple[Tensor, Optional[Tensor]]:
    """Attention of queries to keys.

    For the backward pass the weights are made again, unless they are needed, or autocast mixes
    types: its casts are not those of the backward pass.

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
        activation: applied to ``v`` first, or None.
        draw: makes a dropout for weights like those it is given, the same in every call.
        need_weights: also return the weights, before dropout.
        copies: each position is among the keys so many times, and a query sees one of them.

    Returns:
        ``(B, L, H)`` and, if asked for, the weights ``(B, L, S)``.
    """

    def weigh(block: _Block, q: Tensor, k: Tensor, bias: Tensor) -> Tensor:
        seen = None if padding is None else block.of_keys(padding)
        return ATTENTION_FUNCTIONS[function](q, k, bias, causal, seen, copies)

    plain = need_weights or not torch.is_grad_enabled()
    if not plain and not torch.is_autocast_enabled(q.device.type):
        blocks = _blocks(q, k, causal, WEIGHTS if q.device.type == "cpu" else None)
        return _Attention.apply(q, k, v, bias, weigh, activation, draw, blocks), None

    v = v if activation is None else activation(v)
    outputs, weights = [], []
    for block in _blocks(q, k, causal):
        w = weigh(block, *block.of(q, k, bias))
        outputs.append(torch.bmm(draw(w)(w), block.of_keys(v)))
        if need_weights:
            weights.append(F.pad(w, (0, k.size(1) - w.size(2))))
    return _join(outputs), _join(weights) if need_weights else None


class _Block(NamedTuple):
    """Queries of some sequences, and the keys that they see."""

    sequences: slice
    queries: slice
    keys: slice

    def of_queries(self, x: Tensor) -> Tensor:
        return x[self.sequences, self.queries]

    def of_keys(self, x: Tensor) -> Tensor:
        return x[self.sequences, self.keys]

    def of_bias(self, x: Tensor) -> Tensor:
        return (x if x.dim() == 2 else x[self.sequences])[..., self.queries, self.keys]

    def of(self, q: Tensor, k: Tensor, bias: Tensor) -> Tuple[Tensor, Tensor, Tensor]:
        return self.of_queries(q), self.of_keys(k), self.of_bias(bias)


def _blocks(q: Tensor, k: Tensor, causal: bool, weights: Optional[int] = None) -> List[_Block]:
    """All of it, in blocks of about so many weights at most."""
    batch, queries, keys = q.size(0), q.size(1), k.size(1)
    rows = min(ROWS, queries) if causal else queries
    sequences = max(SEQUENCES, weights // max(rows * keys, 1)) if weights else max(batch, 1)
    return [
        _Block(
            slice(b, b + sequences),
            slice(i, i + rows),
            slice(keys - queries + min(i + rows, queries) if causal else keys),
        )
        for b in range(0, batch, sequences)
        for i in range(0, queries, rows)
    ]


class _Attention(torch.autograd.Function):
    """``drop(weigh(q, k, bias)) activation(v)``, block by block.

    Both factors are made again for the backward pass, which spares the memory for them, for one
    product of width ``Z`` more than the three of width ``Z`` and three of width ``H`` that there
    are. Gradients of all blocks add up in place.
    """

    @staticmethod
    def forward(ctx, q, k, v, bias, weigh, activation, draw, blocks):
        ctx.save_for_backward(q, k, v, bias)
        ctx.weigh, ctx.activation, ctx.blocks, ctx.drops = weigh, activation, blocks, []
        v = v if activation is None else activation(v)
        o = v.new_empty(q.size(0), q.size(1), v.size(2))
        for block in blocks:
            w = weigh(block, *block.of(q, k, bias))
            drop = draw(w)
            torch.bmm(drop(w), block.of_keys(v), out=block.of_queries(o))
            ctx.drops.append(drop)
        return o

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_o):
        q, k, v, bias = ctx.saved_tensors
        raw = v.detach().requires_grad_()
        if ctx.activation is not None:
            with torch.enable_grad():
                v = ctx.activation(raw)
        values = v.detach()
        grad_q, grad_k, grad_v, grad_bias = (torch.zeros_like(t) for t in (q, k, v, bias))
        for block, drop in zip(ctx.blocks, ctx.drops):
            grad = block.of_queries(grad_o)
            with torch.enable_grad():
                parts = [t.detach().requires_grad_() for t in block.of(q, k, bias)]
                w = drop(ctx.weigh(block, *parts))
            block.of_keys(grad_v).baddbmm_(w.detach().transpose(1, 2), grad)
            grad_w = torch.bmm(grad, block.of_keys(values).transpose(1, 2))
            grads = torch.autograd.grad(w, parts, grad_w)
            for total, part in zip(block.of(grad_q, grad_k, grad_bias), grads):
                total += part
        if ctx.activation is not None:
            (grad_v,) = torch.autograd.grad(v, raw, grad_v)
        return grad_q, grad_k, grad_v, grad_bias, None, None, None, None


def _join(parts: List[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


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
