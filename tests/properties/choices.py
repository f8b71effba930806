"""Random options of every model, drawn from what ``config.py`` declares, and some odd values."""

import math
from dataclasses import fields
from enum import Enum
from typing import get_args

from hypothesis import strategies as st

sample = st.sampled_from
HUGE = (10**9, 2**31, 2**40, 2**63 - 1)
ODD_SIZES = (0, -1, -2, -7, 1, *HUGE)
ODD_RATES = (-0.1, -1.0, 1.0, 1.5, 1e9, math.nan, math.inf, -math.inf, 0.999999)
ODD_TEXTS = ("", "0", "-1", "8,8", "9,8", "2,30", "1e3", "8,", "x", "5,14", "20", "1")
ODD_FACTORS = (0.0, -1.0, 0.5, 4.0, 1e9, math.nan, math.inf)

# By the end of a name: usual values, and odd ones. The first that fits counts.
VALUES = {
    "compile_layers": (sample([False]), (False,)),  # takes minutes
    "layer_type": (sample(["mega"]), ("lstm",)),
    "input_type": (st.none(), ("text", "image")),
    "ema_longest": (sample([None, None, None, 64]), (0, 1, -3)),
    "peak_tflops": (sample([None, 1.0]), (0.0, -1.0)),
    "classifier_in_dim": (st.none(), ODD_SIZES),
    "decoder_input_dim": (sample([None, None, None, 7]), ODD_SIZES),
    "truncation_length": (sample([None, 0, 1, 2, 5, 1024]), ODD_SIZES),
    "adaptive_softmax_cutoff": (sample([None, None, "2,3", "8", "19", "20"]), ODD_TEXTS),
    "adaptive_input_cutoff": (sample(["2,4", "8", "5,14", "20"]), ODD_TEXTS),
    "factor": (sample([1.0, 1.0, 1.5]), ODD_FACTORS),
    "feature_dropout": (st.booleans(), (True,)),
    "dropout": (sample([0.0, 0.0, 0.1, 0.5, 0.99]), ODD_RATES),
    "drop_path": (sample([0.0, 0.1, 0.5, 0.99]), ODD_RATES),
    "chunk_size": (sample([-1, -1, 1, 2, 3, 5, 64]), ODD_SIZES),
    "chunks_before": (sample([0, 0, 1, 2]), (-1, 1, 10**9)),
    "image_size": (sample([6, 12]), ODD_SIZES),
    "patch_size": (sample([1, 2, 3, 6]), ODD_SIZES),
    "positions": (st.integers(12, 16), ODD_SIZES),
    "layers": (st.integers(1, 2), ODD_SIZES),
    "z_dim": (sample([2, 4, 6, 8, 5]), ODD_SIZES),
    "n_dim": (st.integers(1, 4), ODD_SIZES),
    "ffn_embed_dim": (st.integers(0, 9), ODD_SIZES),
    "embed_dim": (sample([6, 6, 6, 6, 5]), ODD_SIZES),  # equal in encoder and decoder, mostly
    "dim": (st.integers(1, 9), ODD_SIZES),
    "num": (st.integers(1, 5), ODD_SIZES),
}
# Without effect, or of other parts of the configuration.
OTHERS = ("embed_path", "criterion_name", "multiple", "tokens_per_sample", "add_bos_token")


def values(option):
    """Usual and odd values of a field of a dataclass; None for one that is not drawn."""
    name, types = option.name, get_args(option.type) or (option.type,)
    if (
        name.startswith("_")
        or name.endswith(OTHERS)
        or "no effect" in option.metadata.get("help", "")
    ):
        return None
    for end, found in VALUES.items():
        if name.endswith(end):
            return found
    if issubclass(types[0], Enum):
        choices = [each.value for each in types[0]]
        return sample(choices), (choices if len(types) == 1 else (None, *choices))
    assert option.type is bool, f"no values for {name}: add them to VALUES"
    return sample([False] * 4 + [True]), (True,)


@st.composite
def options(draw, config):
    """Options of a dataclass: usual values, of which up to two are replaced by odd ones."""
    found = {each.name: values(each) for each in fields(config)}
    found = {name: each for name, each in found.items() if each is not None}
    drawn = {name: draw(usual) for name, (usual, _) in found.items()}
    for name in draw(st.lists(sample(sorted(found)), max_size=2)):
        drawn[name] = draw(sample(found[name][1]))
    return drawn
