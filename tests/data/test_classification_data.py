"""Datasets of classification: batches of similar lengths, anew in every epoch, all samples."""

import numpy as np
import pytest
import torch
from fairseq.data import data_utils

from fairseq_mega.data.arrays import MappedArray
from fairseq_mega.data.classification import (
    ClassificationDataset,
    Numbers,
    Texts,
    held_out_rows,
)


class Lines(list):
    @property
    def sizes(self):
        return np.array([len(line) for line in self])


def lines(count, seed=0, longest=400):
    rng = np.random.default_rng(seed)
    return Lines(torch.from_numpy(rng.integers(4, 20, n)) for n in rng.integers(1, longest, count))


def make_texts(count=2000, documents=1, order="anew", longest=None, first=None):
    texts = [Texts(lines(count, seed), longest, first) for seed in range(documents)]
    classes = np.arange(count) % 3
    return ClassificationDataset(texts, classes, np.arange(count), order, pad=1)


def batches(dataset, epoch=1, seed=1, **limits):
    """As fairseq's task makes them."""
    limits = limits or {"max_sentences": 16}
    with data_utils.numpy_seed(seed + epoch):
        indices = dataset.ordered_indices()
    return dataset.batch_by_size(indices, **limits)


LIMITS = [
    {"max_sentences": 16},
    {"max_sentences": 25, "required_batch_size_multiple": 8},
    {"max_tokens": 4000},
    {"max_tokens": 4000, "max_sentences": 16, "required_batch_size_multiple": 8},
    {"max_sentences": 2, "required_batch_size_multiple": 8},
]


@pytest.mark.parametrize("limits", LIMITS, ids=str)
@pytest.mark.parametrize("count", [2000, 1003, 3])
def test_every_sample_once_in_an_epoch(limits, count):
    dataset = make_texts(count)
    for epoch in (1, 2):
        made = batches(dataset, epoch, **limits)
        assert sorted(np.concatenate(made)) == list(range(count))
        if "max_sentences" in limits:
            assert max(map(len, made)) <= limits["max_sentences"]
        if "max_tokens" in limits:
            assert max(len(b) * dataset.sizes[b].max() for b in made) <= limits["max_tokens"]


def test_batches_are_composed_anew_and_the_seed_decides_how():
    dataset = make_texts()

    def composition(*args):
        return {frozenset(batch.tolist()) for batch in batches(dataset, *args)}

    first, second = composition(1), composition(2)
    assert composition(1) == first  # so that a training goes on as it would have
    assert len(first & second) < 0.05 * len(first)
    assert len(first & composition(1, 7)) < 0.05 * len(first)
    assert not dataset.can_reuse_epoch_itr_across_epochs  # so that fairseq asks in every epoch


def test_batches_are_of_similar_lengths():
    """Little of them is padding: at random it would be most."""
    dataset = make_texts()

    def padding(made):
        shape = sum(len(batch) * dataset.sizes[batch].max() for batch in made)
        return 1 - dataset.sizes.sum() / shape

    assert padding(batches(dataset)) < 0.06
    assert padding(batches(make_texts(order="by_length"))) < 0.02
    assert padding(batches(make_texts(order="by_row"))) > 0.4


@pytest.mark.parametrize("order", ["by_row", "by_length"])
def test_orders_that_stay(order):
    dataset = make_texts(40, order=order)
    rows = np.concatenate(batches(dataset))
    assert sorted(rows) == list(range(40)) and dataset.can_reuse_epoch_itr_across_epochs
    assert (np.concatenate(batches(dataset, epoch=2)) == rows).all()
    assert (rows == np.arange(40)).all() == (order == "by_row")


@pytest.mark.parametrize("longest", [None, 50])
@pytest.mark.parametrize("first", [None, 20])
def test_texts(longest, first):
    """Cut to their first symbols, that before them included."""
    raw = lines(30)
    texts = Texts(raw, longest, first)
    for i, line in enumerate(raw):
        expected = ([] if first is None else [first]) + line.tolist()
        assert texts[i].tolist() == expected[:longest]
        assert texts.sizes[i] == len(texts[i])


def test_a_batch_of_pairs():
    dataset = make_texts(6, documents=2)
    batch = dataset.collater([dataset[i] for i in (4, 1)])
    assert batch["id"].tolist() == [4, 1] and batch["target"].tolist() == [1, 1]
    assert batch["nsentences"] == 2
    tokens = 0
    for name, texts in zip(("net_input", "net_input1"), dataset.documents):
        rows, lengths = batch[name]["src_tokens"], batch[name]["src_lengths"]
        for row, length, i in zip(rows, lengths, (4, 1)):
            assert row[:length].tolist() == texts[i].tolist() and (row[length:] == 1).all()
            tokens += len(texts[i])
    assert batch["ntokens"] == tokens
    assert dataset.size(4) == max(len(each[4]) for each in dataset.documents)
    assert dataset.num_tokens(4) == sum(len(each[4]) for each in dataset.documents)


def test_pairs_that_are_too_long_together():
    """fairseq leaves out what it finds too long by the longer text."""
    dataset = make_texts(6, documents=2)
    longest = max(dataset.num_tokens(i) for i in range(6))
    assert len(dataset.batch_by_size(np.arange(6), max_tokens=longest)) > 1
    with pytest.raises(ValueError, match=f"--max-tokens is {longest - 1}.*{longest} symbols in"):
        dataset.batch_by_size(np.arange(6), max_tokens=longest - 1)


def test_a_batch_of_nothing():
    """That of some workers, at the end of an epoch."""
    assert make_texts(3).collater([]) == {}


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float16, np.float32])
def test_numbers(dtype, tmp_path):
    """In float32, whatever the type on the disk."""
    rows = np.arange(24).reshape(4, 6).astype(dtype)
    np.save(tmp_path / "rows.npy", rows)
    numbers = Numbers(MappedArray(tmp_path / "rows.npy", np.load), unit=255.0, mean=0.48, std=0.24)
    assert numbers[2].dtype == torch.float32 and len(numbers) == 4
    expected = (torch.arange(12, 18) / 255 - 0.48) / 0.24
    assert torch.allclose(numbers[2], expected) and (numbers.sizes == 6).all()


def test_rows_that_are_chosen():
    classes = np.arange(10) % 3
    dataset = ClassificationDataset([Texts(lines(10), None, None)], classes, np.array([7, 2]))
    assert len(dataset) == 2 and [dataset[i]["id"] for i in range(2)] == [7, 2]
    assert [dataset[i]["target"] for i in range(2)] == [1, 2]


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.25, 0.999])
def test_held_out(fraction):
    """That fraction of each class, the same in every process and training."""
    classes = np.random.default_rng(3).integers(0, 3, 1000)
    np.random.seed(1)
    held_out = held_out_rows(classes, fraction)
    np.random.seed(2)
    assert (held_out_rows(classes, fraction) == held_out).all()
    for each in range(3):
        assert held_out[classes == each].sum() == int(fraction * (classes == each).sum())
    if fraction == 0.25:  # not simply the first
        assert 200 < np.flatnonzero(held_out).mean() < 800
