"""Mega in plain torch: the published formulas, as directly as torch computes them.

Every EMA kernel is summed from a ``(K, N, T)`` tensor of powers; FFTs are twice as long as the
padded sequence; positional biases are dense ``(L, L)`` matrices; scores, bias, masks and softmax
are passes of their own; nothing is recomputed, and no Triton kernel runs. For training with softmax
attention. The classes take over the parameters of this package's own layers: ``as_plain`` turns a
model of ours into one of these.
"""

import math
from unittest.mock import patch

import torch
import torch.nn.functional as F
from fairseq.modules import FairseqDropout
from torch import nn

from fairseq_mega.modules import (
    GatedCrossAttention,
    MovingAverageGatedAttention,
    MultiHeadEMA,
    NormalizedFeedForwardNetwork,
)
from fairseq_mega.modules.chunks import to_chunks, window_mask
from fairseq_mega.modules.dropout import Dropout
from fairseq_mega.ops import operators, recompute
from fairseq_mega.ops.ema.naive import damping


def as_plain(model: nn.Module) -> nn.Module:
    """The same model with the same weights, its layers computing as in this file; in place."""
    for module in model.modules():
        module.__class__ = PLAIN.get(type(module), type(module))
    return model


# --- moving average -------------------------------------------------------------------------------


class PlainEMA(MultiHeadEMA):
    def forward(self, x, padding_mask=None, state=None):
        """``x (B, L, D)`` to ``(B, L, D)``, before the silu."""
        residual = x * self.omega
        x = x.transpose(1, 2)  # (B, D, L)
        if padding_mask is not None:
            x = x * (~padding_mask).unsqueeze(1).type_as(x)
        return self._average(x).transpose(1, 2) + residual

    def _average(self, x):
        length = x.size(-1)
        taps = min(length, self.truncation or length)
        p, q = damping(self.delta, self.alpha)
        weight = p * self.beta.squeeze(-1) * self.gamma * math.sqrt(1.0 / self.ndim)  # (K, N)
        kernel = torch.einsum("kn,knt->kt", weight, powers(q, taps))
        if not self.bidirectional:
            return convolve(x, kernel)
        # One kernel from tap -(T - 1) to T - 1, for a sequence that is padded by as much.
        forward, backward = kernel.split(self.embed_dim)
        both = F.pad(forward, (taps - 1, 0)) + F.pad(backward.flip(-1), (0, taps - 1))
        return convolve(F.pad(x, (taps - 1, 0)), both, shift=taps - 1)[..., taps - 1 :]


def powers(q, length):
    """``q^0 .. q^(length - 1)``, a Vandermonde matrix: ``(K, N)`` to ``(K, N, length)``."""
    steps = torch.arange(length, dtype=q.dtype, device=q.device)
    return (torch.log(q).unsqueeze(-1) * steps).exp_()


def convolve(x, kernel, shift=0):
    """``y_t = sum_s kernel[s] x_{t + shift - s}`` for ``x (B, D, L)``, ``kernel (D, T)``, with FFTs
    in at least float32."""
    length, dtype = x.size(-1), torch.promote_types(x.dtype, torch.float32)
    n = 2 * length
    spectrum = torch.fft.rfft(x.to(dtype), n=n) * torch.fft.rfft(kernel.to(dtype), n=n)
    return torch.fft.irfft(spectrum, n=n)[..., shift : shift + length].to(x.dtype)


# --- positional bias ------------------------------------------------------------------------------


def dense_bias(bias, length):
    """The bias of every query and key, ``(L, L)``."""
    if hasattr(bias, "alpha"):
        return rotate(bias.alpha, length) @ rotate(bias.beta, length).transpose(0, 1)
    # Rows of 3L - 2 from a repeated row of 3L - 1: each starts one number further to the right.
    zero = (bias.rel_pos_bias.numel() - 1) // 2
    row = F.pad(bias.rel_pos_bias[zero - length + 1 : zero + length], (0, length))
    rows = row.tile(length)[:-length].view(length, 3 * length - 2)
    return rows[:, length - 1 : 2 * length - 1]


def rotate(x, length):
    """``R_m x`` for each position ``m``: ``(1, Z)`` to ``(L, Z)``."""
    half = x.size(-1) // 2
    steps = torch.arange(max(half, length), dtype=x.dtype, device=x.device)
    frequency = torch.exp(steps[:half] * (-math.log(10000.0) / half))
    angle = steps[:length].unsqueeze(1) * frequency  # (L, Z/2)
    sin, cos = torch.sin(angle), torch.cos(angle)
    x1, x2 = x.expand(length, -1).chunk(2, dim=-1)
    return torch.cat([x1 * cos - x2 * sin, x2 * cos + x1 * sin], dim=-1)


# --- attention ------------------------------------------------------------------------------------


def attention(q, k, bias, causal, padding_mask):
    """Weights ``(B, L, S)`` of ``q (B, L, Z)`` on ``k (B, S, Z)``."""
    scores = torch.bmm(q * q.size(-1) ** -0.5, k.transpose(1, 2)) + bias
    if causal:
        future = torch.ones(bias.shape, dtype=torch.bool, device=q.device).triu(1)
        scores = scores + q.new_zeros(bias.shape).masked_fill(future, -math.inf)
    if padding_mask is not None:
        lowest = torch.finfo(scores.dtype).min
        scores = scores.masked_fill(padding_mask.unsqueeze(1), lowest)
    return torch.softmax(scores, dim=-1)


class Plain(nn.Module):
    """A layer that keeps all results for the backward pass."""

    def forward(self, *args, **kwargs):
        kept = patch.multiple(recompute, LEAST_ON_CPU=math.inf, LEAST_ON_GPU=math.inf)
        with kept, patch.object(operators, "runs_kernels", lambda x: False):
            return super().forward(*args, **kwargs)


class PlainGatedAttention(Plain, MovingAverageGatedAttention):
    def _attend(self, q, k, v, padding_mask, need_weights, values):
        batch, length, size, v = q.size(0), q.size(1), self.chunk_size, values(v)
        if 0 < size < length:
            padding_mask = window_mask(padding_mask, q, size, 0, not self.bidirectional)
            q, k, v = (to_chunks(t, size) for t in (q, k, v))
        bias = dense_bias(self.rel_pos_bias, k.size(1))
        weights = attention(q, k, bias, not self.bidirectional, padding_mask)
        o = torch.bmm(self.attention_dropout(weights), v)
        return o.reshape(batch, -1, self.hdim)[:, :length], None


class PlainCrossAttention(Plain, GatedCrossAttention):
    def _attend(self, q, source, key_padding_mask, need_weights):
        k, v = self.k_proj(source), self.activation(self.v_proj(source))
        length, keys = q.size(1), k.size(1)
        bias = dense_bias(self.rel_pos_bias, max(length, keys))[:length, :keys]
        weights = attention(q, k, bias, False, key_padding_mask)
        return torch.bmm(self.attention_dropout(weights), self.hidden_dropout(v)), None


class PlainFeedForward(Plain, NormalizedFeedForwardNetwork):
    pass


PLAIN = {
    Dropout: FairseqDropout,
    NormalizedFeedForwardNetwork: PlainFeedForward,
    MultiHeadEMA: PlainEMA,
    MovingAverageGatedAttention: PlainGatedAttention,
    GatedCrossAttention: PlainCrossAttention,
}
