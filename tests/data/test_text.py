"""Samples of a text have fairseq's contents, and are redrawn for each epoch."""

from itertools import chain

import numpy as np
import pytest
import torch
from fairseq.data import ListDataset, MonolingualDataset, TokenBlockDataset
from fairseq.data.plasma_utils import PlasmaArray
from helpers import make_dictionary
from hypothesis import given
from hypothesis import strategies as st

from fairseq_mega.data.text import CutText, EpochSamples, Streams, TextSlices

MODES = ("none", "complete", "complete_doc", "eos")
SIZES = st.lists(st.integers(1, 12), min_size=1, max_size=30).filter(lambda sizes: max(sizes) > 1)


def lines_of(sizes):
    """Makes lines of these sizes, with all tokens different."""
    return ListDataset(list(torch.arange(4, 4 + sum(sizes)).split(sizes)), np.array(sizes))


def fairseqs(sizes, block=7, mode="none"):
    """Makes fairseq's dataset for language modeling."""
    dictionary = make_dictionary(4 + sum(sizes))
    text = TokenBlockDataset(
        lines_of(sizes),
        np.array(sizes),
        block,
        pad=dictionary.pad(),
        eos=dictionary.eos(),
        break_mode=mode,
        include_targets=True,
    )
    return MonolingualDataset(text, text.sizes, dictionary, shuffle=True, targets=["future"])


def epoch_samples(sizes, mode="none", unit=3, multiples=(1, 3), seed=1, epoch=1):
    return EpochSamples(fairseqs(sizes), unit, multiples, mode, seed, epoch)


def targets_of(dataset):
    return [dataset[i]["target"].tolist() for i in range(len(dataset))]


@given(SIZES, st.integers(1, 20), st.sampled_from(MODES))
def test_samples_are_those_of_fairseq(sizes, block, mode):
    """The source, the target and the past target are equal wherever a sample starts."""
    expected = fairseqs(sizes, block, mode).dataset
    # fairseq's offsets are unsigned: with numpy 2, its target of the past is wrong below 0.
    for name in ("_slice_indices", "_block_to_dataset_index"):
        setattr(expected, name, PlasmaArray(getattr(expected, name).array.astype(np.int64)))
    dataset = TextSlices(expected.dataset, expected.slice_indices, expected.pad, expected.eos)
    assert len(dataset) == len(expected)
    assert dataset.sizes.tolist() == expected.sizes.tolist()
    for i in range(len(dataset)):
        for ours, theirs in zip(dataset[i], expected[i]):
            assert ours.tolist() == theirs.tolist()


@given(SIZES, st.sampled_from(MODES), st.integers(1, 99), st.integers(1, 99))
def test_every_token_is_a_target_once_in_every_epoch(sizes, mode, seed, epoch):
    dataset = epoch_samples(sizes, mode, seed=seed)
    dataset.set_epoch(epoch)
    targets = targets_of(dataset)
    between = [line[0] for line in lines_of(sizes) if mode == "complete_doc" and len(line) == 1]
    assert sorted([*chain(*targets), *between]) == list(range(4, 4 + sum(sizes)))
    assert dataset.sizes.tolist() == list(map(len, targets))
    if mode == "none":
        assert set(map(len, targets[:-1])) <= {3, 6, 9}


def test_lengths_differ_between_samples_epochs_and_seeds():
    drawn = [
        tuple(epoch_samples([4000], seed=seed, epoch=epoch).sizes[:-1])
        for seed in (1, 2)
        for epoch in (1, 2, 3)
    ]
    assert len(set(drawn)) == 6
    dataset = epoch_samples([4000])
    for epoch in (3, 1):  # whatever came before
        dataset.set_epoch(epoch)
        assert tuple(dataset.sizes[:-1]) == drawn[epoch - 1]
    for lengths in drawn:
        counts = [lengths.count(length) for length in (3, 6, 9)]
        assert sum(counts) == len(lengths) and min(counts) > 0.25 * len(lengths)


@pytest.mark.parametrize(
    "limits, rows",
    [
        ({"max_tokens": 24}, 3),
        ({"max_tokens": 5}, 1),  # less than a segment
        ({"max_tokens": 24, "max_sentences": 2}, 2),
    ],
)
def test_streams_count_as_a_segment_each(limits, rows):
    text = CutText(fairseqs([100] * 8))
    text.cut(np.array([[0, 200], [200, 390], [390, 600], [600, 700], [700, 800]]))
    streams = Streams(text, segment_length=8, streaming=True)
    batches = streams.batch_by_size(
        streams.ordered_indices(), required_batch_size_multiple=8, **limits
    )
    assert sorted(chain(*batches)) == list(range(5))
    assert max(map(len, batches)) == rows
    sample = streams.collater([streams[i] for i in batches[0]])
    assert sample["net_input"]["streaming"] is True
    assert streams.collater([]) == {}
