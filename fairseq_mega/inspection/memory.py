"""Computes half-lives, kernels and biases of layers: rows of CSV files, of which the first is the
head."""

import math
from typing import List, Optional, Tuple

import torch
from torch import Tensor

from ..ops.ema import EMACoefficients, half_lives
from ..ops.positions import rotary_bias
from .weights import Layer

LONGEST_KERNEL = 100_000  # positions that are plotted
KERNEL_POINTS = 120
LONGEST_BIAS = 128  # offsets either way that are plotted
Rows = List[Tuple]


def memory_rows(layers: List[Layer]) -> Rows:
    """Returns the half-life of each EMA dimension, and its weight in its channel's kernel."""
    rows: Rows = [
        ("layer", "direction", "channel", "dimension", "half_life_tokens", "weight_in_kernel")
    ]
    for layer in layers:
        for direction, each in layer.directions().items():
            values = half_lives(each.log_decay).tolist(), dimension_weights(each).tolist()  # (D, N)
            for channel, (lives, weights) in enumerate(zip(*values)):
                pairs = enumerate(zip(lives, weights))
                rows += [(layer.name, direction, channel, n, *pair) for n, pair in pairs]
    return rows


def kernel_rows(layers: List[Layer]) -> Rows:
    """Returns the root mean square over the channels of ``k[tau] = sum_n weight_n q_n^tau``;
    earlier tokens, which the forward EMA reads, have negative offsets."""
    rows: Rows = [("layer", "direction", "offset_tokens", "weight")]
    for layer in layers:
        for direction, each in layer.directions().items():
            lags = _lags(half_lives(each.log_decay).max().item(), layer.truncation)
            decays = torch.exp(each.log_decay * lags.view(-1, 1, 1))  # (lags, D, N)
            taps = (dimension_weights(each) * decays).sum(-1).square().mean(-1).sqrt()
            offsets = (-lags if direction == "forward" else lags).int().tolist()
            rows += [(layer.name, direction, *pair) for pair in zip(offsets, taps.tolist())]
    return rows


def dimension_weights(coefficients: EMACoefficients) -> Tensor:
    """Returns the weights ``p beta gamma / sqrt(N)`` of the dimensions in the kernels."""
    return coefficients.input_weight * coefficients.output_weight


def _lags(longest: float, truncation: int) -> Tensor:
    """Returns lags up to 4 half-lives, in logarithmic steps."""
    last = min(max(4 * longest, 16), LONGEST_KERNEL, truncation - 1 if truncation else math.inf)
    points = torch.linspace(0, math.log1p(last), KERNEL_POINTS, dtype=torch.float64)
    return torch.expm1(points).round().unique()


def bias_rows(layers: List[Layer]) -> Rows:
    """Returns the relative bias of self and cross attention by the offset of the key from the
    query, up to ``LONGEST_BIAS`` and the longest offset within the chunks that it sees."""
    rows: Rows = [("layer", "attention", "offset_tokens", "bias")]
    for layer in layers:
        span = (layer.chunks_before + 1) * layer.chunk_size
        reach = min(span - 1 if span > 0 else LONGEST_BIAS, LONGEST_BIAS)
        for attention, weights in (("self", layer.weights), ("cross", layer.cross)):
            values = _bias({n.removeprefix("rel_pos_bias."): w for n, w in weights.items()}, reach)
            if values is None:
                continue
            first = -(len(values) // 2)
            if attention == "self" and not layer.bidirectional:  # no key comes after the query
                values = values[: 1 - first]
            pairs = enumerate(values.tolist(), first)
            rows += [(layer.name, attention, *pair) for pair in pairs]
    return rows


def _bias(weights: dict[str, Tensor], reach: int) -> Optional[Tensor]:
    """Returns the biases at offsets from ``-reach`` to ``reach``, within the table; None without a
    bias."""
    if "rel_pos_bias" in weights:
        table = weights["rel_pos_bias"].double()
        middle = len(table) // 2
        return table[max(middle - reach, 0) : middle + reach + 1]
    if "alpha" in weights and "beta" in weights:
        return rotary_bias(weights["alpha"].double(), weights["beta"].double(), -reach, reach)
    return None
