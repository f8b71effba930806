"""A text is cut into samples with every token once, complete lines and the given lengths."""

import math

import numpy as np
import pytest
from fairseq.data import TokenBlockDataset
from hypothesis import given
from hypothesis import strategies as st

from fairseq_mega.data.cutting import (
    cut_into_samples,
    cut_into_streams,
    line_ends,
    most_samples,
    stream_length,
)

MODES = ("none", "complete", "complete_doc", "eos")
# Sizes of lines; in fairseq's texts, an empty line has the end of the sentence alone.
TEXTS = st.lists(st.integers(1, 12), min_size=1, max_size=40).map(np.array)
WITH_WORDS = TEXTS.filter(lambda sizes: sizes.max() > 1)


def cut(sizes, block, mode):
    ends = line_ends(sizes)
    return cut_into_samples(ends, np.full(most_samples(ends, block, mode), block), mode)


def cut_at_random(sizes, shortest, seed, mode):
    """Returns slices of random lengths, and these lengths."""
    ends = line_ends(sizes)
    most = most_samples(ends, shortest, mode)
    lengths = np.random.default_rng(seed).integers(shortest, 3 * shortest, most)
    return cut_into_samples(ends, lengths, mode), lengths


def tokens_of(slices):
    return [token for start, stop in slices for token in range(start, stop)]


@given(WITH_WORDS, st.integers(1, 30), st.sampled_from(MODES))
def test_equal_lengths_give_the_blocks_of_fairseq(sizes, block, mode):
    _, _, expected = TokenBlockDataset._build_slice_indices(sizes, mode, 1, block)
    assert cut(sizes, block, mode).tolist() == expected.tolist()


@given(WITH_WORDS, st.integers(1, 9), st.integers(0, 99), st.sampled_from(MODES))
def test_every_token_is_in_one_sample(sizes, shortest, seed, mode):
    tokens = tokens_of(cut_at_random(sizes, shortest, seed, mode)[0])
    between_documents = set()
    if mode == "complete_doc":
        between_documents = set(line_ends(sizes)[sizes == 1] - 1)
    assert tokens == [token for token in range(sizes.sum()) if token not in between_documents]


@given(TEXTS, st.integers(1, 9), st.integers(0, 99))
def test_samples_have_the_lengths_asked_for(sizes, shortest, seed):
    """Slices have exactly these lengths, and slices of lines as many lines as fit."""
    slices, lengths = cut_at_random(sizes, shortest, seed, "none")
    actual = slices[:, 1] - slices[:, 0]
    assert actual[:-1].tolist() == lengths[: len(slices) - 1].tolist()
    assert 0 < actual[-1] <= lengths[len(slices) - 1]
    ends = line_ends(sizes)
    for (start, stop), length in zip(*cut_at_random(sizes, shortest, seed, "complete")):
        lines = ends[(start < ends) & (ends <= stop)]
        assert stop == lines[-1]
        assert stop - start <= length or len(lines) == 1
        assert stop == ends[-1] or ends[ends > stop][0] - start > length


def test_lines_without_tokens_are_in_no_sample():
    sizes = np.array([0, 5, 0, 3, 0])
    assert line_ends(sizes).tolist() == [5, 8]
    assert cut(sizes, 4, "complete").tolist() == [[0, 5], [5, 8]]
    assert cut(sizes, 4, "eos").tolist() == [[0, 5], [5, 8]]
    with pytest.raises(ValueError, match="complete_doc, but .*all of its lines are empty"):
        cut(np.ones(9, dtype=np.int64), 4, "complete_doc")


@given(TEXTS, st.integers(1, 9), st.sampled_from(MODES), st.sampled_from(["splits", "size"]))
def test_streams_are_the_published_ones(sizes, number, mode, kind):
    """Lines, or tokens in the mode none, are added to a stream while it has at most ``size`` or
    ceil(tokens / splits) tokens."""
    longest, expected = math.ceil(sizes.sum() / number) if kind == "splits" else number, [0]
    for size in [1] * sizes.sum() if mode == "none" else sizes:
        if expected[-1] + size > longest and expected[-1] > 0:
            expected.append(0)
        expected[-1] += size
    ends = line_ends(sizes)
    streams = cut_into_streams(ends, stream_length(f"{kind}:{number}", int(ends[-1])), mode)
    assert tokens_of(streams) == list(range(sizes.sum()))
    assert (streams[:, 1] - streams[:, 0]).tolist() == expected


@pytest.mark.parametrize("option", ["10", "splits:", "splits:0", "size:1.5", "parts:3"])
def test_malformed_valid_blocks(option):
    with pytest.raises(ValueError, match=f"--valid-block is {option!r}.*splits:K.*size:N"):
        stream_length(option, 12)
