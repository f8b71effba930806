"""Texts of up to a million tokens, read with a state of constant size, do not drift."""

import pytest
import torch
from helpers import TINY, make_model, randint

CHUNK = 64
OPTIONS = dict(rel_pos_bias="rotary", decoder_chunk_size=CHUNK, truncation_length=0)


def with_long_memory(model):
    """The EMA of the first layer forgets over a million positions, not over tens."""
    with torch.no_grad():
        model.decoder.layers[0].mega_layer.move.delta.fill_(-7.0)
        model.decoder.layers[0].mega_layer.move.alpha.fill_(-7.0)
    return model


def drifts(tokens, part):
    """The largest difference of log-probabilities to float64 in each part of the text."""
    exact = with_long_memory(make_model(TINY["mega_lm"], **OPTIONS))
    rough = with_long_memory(make_model(TINY["mega_lm"], **OPTIONS)).float()
    states = exact.start(), rough.start()
    for words in tokens.split(part, dim=1):
        expected, found = (state.read(words) for state in states)
        yield (found.double() - expected).abs().max().item()


def random_tokens(count):
    return randint(4, 20, (1, count))


@pytest.mark.parametrize(
    "count, bound",
    [(20_000, 5e-5), pytest.param(1_000_000, 1e-3, marks=pytest.mark.long)],
    ids=["20,000", "1,000,000"],
)
def test_a_state_in_float32_stays_with_one_in_float64(count, bound):
    """Errors grow only as long as the memory does: the last tenth of the text is as exact as the
    first half."""
    found = list(drifts(random_tokens(count), count // 10))
    print([f"{each:.1e}" for each in found])
    assert max(found) < bound and found[-1] < 3 * max(found[:5])
