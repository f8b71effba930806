"""Samples of classification: batches of similar lengths, others in every epoch, of all samples."""

import numpy as np
import pytest
import torch
from fairseq.data import ListDataset, data_utils

from fairseq_mega.data.classification import ClassificationDataset, held_out_rows


def make_texts(count=2000, documents=1, order="random"):
    """Texts of 1 to 400 symbols."""
    texts = []
    for seed in range(documents):
        rng = np.random.default_rng(seed)
        sizes = rng.integers(1, 400, count)
        texts.append(ListDataset([torch.from_numpy(rng.integers(4, 20, n)) for n in sizes], sizes))
    return ClassificationDataset(texts, np.arange(count) % 3, np.arange(count), order, pad=1)


def batches(dataset, epoch=1, seed=1, **limits):
    """As fairseq's task makes them."""
    with data_utils.numpy_seed(seed + epoch):
        indices = dataset.ordered_indices()
    return dataset.batch_by_size(indices, **(limits or {"max_sentences": 16}))


@pytest.mark.parametrize(
    "count, limits",
    [
        (2000, {"max_sentences": 16}),
        (1003, {"max_sentences": 25, "required_batch_size_multiple": 8}),
        (1003, {"max_tokens": 4000}),
        (2000, {"max_tokens": 4000, "max_sentences": 16, "required_batch_size_multiple": 8}),
        (3, {"max_sentences": 2, "required_batch_size_multiple": 8}),
    ],
)
def test_every_sample_once_in_an_epoch(count, limits):
    dataset = make_texts(count)
    for epoch in (1, 2):
        made = batches(dataset, epoch, **limits)
        assert sorted(np.concatenate(made)) == list(range(count))
        assert max(map(len, made)) <= limits.get("max_sentences", count)
        if "max_tokens" in limits:
            assert max(len(b) * dataset.sizes[b].max() for b in made) <= limits["max_tokens"]


def test_batches_differ_between_epochs_and_the_seed_decides_how():
    dataset = make_texts()

    def composition(*args):
        return {frozenset(batch.tolist()) for batch in batches(dataset, *args)}

    first, second = composition(1), composition(2)
    assert composition(1) == first  # so that a resumed training continues with the same
    assert len(first & second) < 0.05 * len(first)
    assert len(first & composition(1, 7)) < 0.05 * len(first)
    assert not dataset.can_reuse_epoch_itr_across_epochs  # so that fairseq asks in every epoch


def test_batches_are_of_similar_lengths():
    """Little of them is padding: at random, half would be."""

    def padding(order):
        dataset = make_texts(order=order)
        made = batches(dataset)
        return 1 - dataset.sizes.sum() / sum(len(b) * dataset.sizes[b].max() for b in made)

    assert padding("random") < 0.06
    assert padding("by_length") < 0.02
    assert padding("by_row") > 0.4


@pytest.mark.parametrize("order", ["by_row", "by_length"])
def test_orders_that_stay(order):
    dataset = make_texts(40, order=order)
    rows = np.concatenate(batches(dataset))
    assert sorted(rows) == list(range(40)) and dataset.can_reuse_epoch_itr_across_epochs
    assert (np.concatenate(batches(dataset, epoch=2)) == rows).all()
    assert (rows == np.arange(40)).all() == (order == "by_row")


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
    assert dataset.collater([]) == {}  # of some workers, at the end of an epoch


def test_a_pair_that_is_too_long_is_refused():
    """fairseq by itself counts the longer text."""
    dataset = make_texts(6, documents=2)
    longest = max(dataset.num_tokens(i) for i in range(6))
    assert len(dataset.batch_by_size(np.arange(6), max_tokens=longest)) > 1
    with pytest.raises(AssertionError, match=f"max_tokens limit of {longest - 1}|{longest - 1}"):
        dataset.batch_by_size(np.arange(6), max_tokens=longest - 1)


@pytest.mark.parametrize("fraction", [0.0, 0.25, 0.999])
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
