"""What the EMAs of a layer remember: half-lives, kernels, and what is known of the gates."""

import math
from typing import Dict, List, NamedTuple, Tuple

import torch
from torch import Tensor

from ..ops.ema import EMACoefficients, half_lives
from .weights import Layer

LONGEST_KERNEL = 100_000  # positions that are drawn
KERNEL_POINTS = 120


class Spans(NamedTuple):
    """Half-lives of a layer's EMA in one direction: ``(D, N)`` positions, and the weights
    ``p beta gamma / sqrt(N)`` that its dimensions have in the kernel of their channel."""

    layer: str
    direction: str
    half_lives: Tensor
    weights: Tensor

    @property
    def median(self) -> float:
        return self.half_lives.median().item()

    @property
    def longest(self) -> float:
        return self.half_lives.max().item()


def spans_of(layer: Layer) -> List[Spans]:
    return [
        Spans(layer.name, direction, half_lives(each.log_decay), _dimension_weights(each))
        for direction, each in layer.directions().items()
    ]


class Kernel(NamedTuple):
    """The kernel of a channel, ``k[tau] = sum_n weight_n q_n^tau``."""

    layer: str
    direction: str
    which: str  # strongest or longest
    channel: int
    lags: Tensor  # tau, positions
    taps: Tensor  # k[tau]


def kernels_of(layer: Layer) -> List[Kernel]:
    """In each direction those of the strongest channel, whose squared taps have the largest sum,
    and of the longest, whose squared taps lie farthest back in the mean."""
    found = []
    for direction, each in layer.directions().items():
        energy, lag = kernel_energy(each)
        for which, channel in (("strongest", energy.argmax()), ("longest", lag.argmax())):
            c = int(channel)
            one = EMACoefficients(*(part[c : c + 1] for part in each))
            lags = _lags(half_lives(one.log_decay).max().item(), layer.truncation)
            taps = (_dimension_weights(one) * torch.exp(one.log_decay * lags.unsqueeze(1))).sum(-1)
            found.append(Kernel(layer.name, direction, which, c, lags, taps))
    return found


def _dimension_weights(coefficients: EMACoefficients) -> Tensor:
    return coefficients.input_weight * coefficients.output_weight


def kernel_energy(coefficients: EMACoefficients) -> Tuple[Tensor, Tensor]:
    """``E = sum_tau k[tau]^2`` of each channel, and ``sum_tau tau k[tau]^2 / E``: ``(D,)`` each.

    ``k[tau]^2`` is a sum over pairs of dimensions of ``w_n w_m r^tau`` with ``r = q_n q_m``, and
    ``sum_tau r^tau = 1 / (1 - r)``, ``sum_tau tau r^tau = r / (1 - r)^2``.
    """
    log_decay, weight = coefficients.log_decay, _dimension_weights(coefficients)
    log_r = log_decay.unsqueeze(2) + log_decay.unsqueeze(1)  # (D, N, N)
    pairs = weight.unsqueeze(2) * weight.unsqueeze(1)
    rest = (-torch.expm1(log_r)).clamp(min=1e-12)  # 1 - r
    energy = (pairs / rest).sum((1, 2)).clamp(min=1e-300)
    return energy, (pairs * log_r.exp() / rest.square()).sum((1, 2)) / energy


def _lags(longest: float, truncation: int) -> Tensor:
    """Up to 4 half-lives, closer together where they are small."""
    last = min(max(4 * longest, 16), LONGEST_KERNEL, truncation - 1 if truncation else math.inf)
    points = torch.linspace(0, math.log1p(last), KERNEL_POINTS, dtype=torch.float64)
    return torch.expm1(points).round().unique()


class Gate(NamedTuple):
    """What the weights alone say of a gate of a layer."""

    layer: str
    gate: str
    at_zero: Tensor  # its value in each channel where the input to its projection is 0
    reach: Tensor  # norm of each channel's row of weights: how far the input moves it


GATES = {
    "update gate u": "1 takes what the layer computed, 0 keeps the residual",
    "reset gate r": "multiplies what attention has found",
    "cross attention's update gate u": "1 takes what was found in the source",
    "cross attention's reset gate r": "multiplies what was found in the source",
}


def gates_of(layer: Layer) -> List[Gate]:
    """The gates' values at a zero input, ``sigmoid(b)`` of update and ``silu(b)`` of reset gates.

    What they are on a text depends on the text; how much, the norms of the weights tell.
    """
    dim, zdim = layer.dim, layer.weights["gamma"].size(1)
    bias, weight = (layer.weights[f"mx_proj.{name}"].double() for name in ("bias", "weight"))
    h = layer.weights["h_proj.weight"].size(1)
    ranges = {"update gate u": (0, dim), "reset gate r": (dim + zdim, dim + zdim + h)}
    found = [_gate(layer.name, gate, bias, weight, *rows) for gate, rows in ranges.items()]
    if "q_proj.bias" in layer.cross:
        bias, weight = (layer.cross[f"q_proj.{name}"].double() for name in ("bias", "weight"))
        for i, gate in enumerate("ur"):
            name = next(n for n in GATES if n.startswith("cross") and n.endswith(f" {gate}"))
            found.append(_gate(layer.name, name, bias, weight, i * dim, (i + 1) * dim))
    return found


def _gate(layer: str, gate: str, bias: Tensor, weight: Tensor, first: int, last: int) -> Gate:
    b = bias[first:last]
    at_zero = torch.sigmoid(b) if gate.endswith(" u") else torch.nn.functional.silu(b)
    return Gate(layer, gate, at_zero, weight[first:last].norm(dim=1))


def quantiles(values: Tensor) -> Dict[str, float]:
    """The percentiles that boxes are drawn of."""
    levels = torch.tensor([0.05, 0.25, 0.5, 0.75, 0.95], dtype=values.dtype)
    names = ("p5", "p25", "p50", "p75", "p95")
    ranked = values.flatten().sort().values
    places = (levels * (ranked.numel() - 1)).round().long()
    return dict(zip(names, ranked[places].tolist()))
