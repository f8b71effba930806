"""Arguments that a layer cannot have are refused by name and value."""

import pytest
from helpers import CROSS, FEED_FORWARD, GATED

from fairseq_mega.modules import (
    GatedCrossAttention,
    MovingAverageGatedAttention,
    MultiHeadEMA,
    NormalizedFeedForwardNetwork,
)

GOOD = {
    MultiHeadEMA: {"embed_dim": 4, "ndim": 2},
    MovingAverageGatedAttention: GATED,
    GatedCrossAttention: CROSS,
    NormalizedFeedForwardNetwork: FEED_FORWARD,
}
ACTIVATION, NORM = {"activation": "swoosh"}, {"norm_type": "evennorm"}
ATTENTION = (
    {"embed_dim": 0},
    {"zdim": 0},
    {"rel_pos_bias": "rotary", "zdim": 5},
    {"rel_pos_bias": "alibi"},
    {"attention_activation": "hardmax"},
    ACTIVATION,
    NORM,
)
BAD = {
    MultiHeadEMA: (
        {"embed_dim": 0},
        {"ndim": -3},
        {"longest_memory": 1},
        {"longest_memory": -5},
    ),
    MovingAverageGatedAttention: (
        *ATTENTION,
        {"zdim": -2},
        {"hdim": 0},
        {"ndim": -1},
        {"chunk_size": 0},
        {"chunk_size": -2},
    ),
    GatedCrossAttention: ATTENTION,
    NormalizedFeedForwardNetwork: ({"embed_dim": 0}, {"ffn_hidden_dim": -1}, ACTIVATION, NORM),
}


@pytest.mark.parametrize(
    "layer, bad", [(layer, bad) for layer, rows in BAD.items() for bad in rows], ids=str
)
def test_bad_arguments_are_named(layer, bad):
    layer(**GOOD[layer])
    name, value = list(bad.items())[-1]
    with pytest.raises(ValueError, match=rf"{name}.*{value}"):
        layer(**{**GOOD[layer], **bad})
