"""Initial values of the layers: ``--weight-init``.

``normal`` is the published one, which the modules give themselves; ``xavier`` is Xavier uniform for
all linear weights. ``residual`` is an addition for short trainings: Xavier, and then

- update gates of Mega layers are almost closed, and ``omega`` is near 1, so that the embeddings
  reach the top; the published biases of 0 halve them in every layer;
- the reset gate of cross attention is near 1, and ``h_proj`` makes up for the update gate and for
  an average over the source;
- its rotary bias prefers the same position of the source;
- the second linear layer of the feed-forward is half as large.

Measurements are in docs/experiments/2026-11-small-data.md.
"""

from collections.abc import Iterable

import torch
from torch import nn

from ..modules import (
    GatedCrossAttention,
    MovingAverageGatedAttention,
    NormalizedFeedForwardNetwork,
)
from ..modules.relative_bias import RotaryRelativePositionalBias

UPDATE_BIAS, CROSS_UPDATE_BIAS = -2.0, -1.0  # sigmoid: 0.12 and 0.27
RESET_BIAS = 1.28  # silu: 1.0
OMEGA_STD = 0.1  # around 1
CROSS_OUTPUT_SCALE, FEED_FORWARD_SCALE = 4.0, 0.5
DIAGONAL = 4.0  # the bias of the same position
SLOWEST, FASTEST = 0.03, 0.7  # radians a position: periods of 210 and 9 positions


@torch.no_grad()
def initialise(layers: Iterable[nn.Module], weight_init: str) -> None:
    """Sets the initial values of new layers."""
    modules = [module for layer in layers for module in layer.modules()]
    if weight_init == "normal":
        return
    for module in modules:
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
    if weight_init == "xavier":
        return
    for module in modules:
        if isinstance(module, MovingAverageGatedAttention):
            module.mx_proj.bias[: module.embed_dim] = UPDATE_BIAS
            nn.init.normal_(module.move.omega, mean=1.0, std=OMEGA_STD)
        elif isinstance(module, GatedCrossAttention):
            _let_source_through(module)
        elif isinstance(module, NormalizedFeedForwardNetwork):
            module.fc2.weight *= FEED_FORWARD_SCALE


def _let_source_through(cross: GatedCrossAttention) -> None:
    update, reset, _ = cross.q_proj.bias.split([cross.embed_dim, cross.embed_dim, cross.zdim])
    update.fill_(CROSS_UPDATE_BIAS)
    reset.fill_(RESET_BIAS)
    cross.h_proj.weight *= CROSS_OUTPUT_SCALE
    if isinstance(cross.rel_pos_bias, RotaryRelativePositionalBias):
        _prefer_diagonal(cross.rel_pos_bias)


def _prefer_diagonal(bias: RotaryRelativePositionalBias) -> None:
    """Makes the bias ``DIAGONAL mean_k cos((j - i) θ_k)``, over angles that are neither too slow to
    tell near positions apart nor so fast that far ones are near again."""
    half = bias.alpha.size(1) // 2
    angles = 10000.0 ** -(torch.arange(half, device="cpu") / half)
    chosen = ((angles > SLOWEST) & (angles < FASTEST)).float()
    if not chosen.any():  # of few dimensions
        chosen[-1] = 1.0
    values = (chosen * DIAGONAL / (2 * chosen.sum())).sqrt().repeat(2)
    bias.alpha.copy_(values)
    bias.beta.copy_(values)
