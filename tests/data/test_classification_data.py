"""Batches for classification: all samples, similar lengths, redrawn for each epoch."""

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
    """Makes batches as fairseq's task does."""
    with data_utils.numpy_seed(seed + epoch):
        indices = dataset.ordered_indices()
    return dataset.batch_by_size(indices, **(limits or {"max_sentences": 16}))


@pytest.mark.parametrize(
    "count, limits",
    [
        (1003, {"max_sentences": 25, "required_batch_size_multiple": 8}),
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
    assert composition(1) == first  # for resumed trainings
    assert len(first & second) < 0.05 * len(first)
    assert len(first & composition(1, 7)) < 0.05 * len(first)
    assert not dataset.can_reuse_epoch_itr_across_epochs  # fairseq then asks in each epoch


@pytest.mark.parametrize("order, most", [("random", 0.06), ("by_length", 0.02), ("by_row", 0.6)])
def test_orders_and_their_padding(order, most):
    """Half of the tokens would be padding at random. Fixed orders are those of all epochs."""
    dataset = make_texts(order=order)
    made = batches(dataset)
    assert 1 - dataset.sizes.sum() / sum(len(b) * dataset.sizes[b].max() for b in made) < most
    rows = np.concatenate(made)
    assert (rows == np.arange(2000)).all() == (order == "by_row")
    assert (np.concatenate(batches(dataset, epoch=2)) == rows).all() == (order != "random")
    assert dataset.can_reuse_epoch_itr_across_epochs == (order != "random")


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


@pytest.mark.parametrize("fraction", [0.0, 0.25, 0.999])
def test_held_out(fraction):
    """The fraction is that of each class, and the rows do not depend on the seed."""
    classes = np.random.default_rng(3).integers(0, 3, 1000)
    np.random.seed(1)
    held_out = held_out_rows(classes, fraction)
    np.random.seed(2)
    assert (held_out_rows(classes, fraction) == held_out).all()
    for each in range(3):
        assert held_out[classes == each].sum() == int(fraction * (classes == each).sum())
    if fraction == 0.25:  # not simply the first
        assert 200 < np.flatnonzero(held_out).mean() < 800
