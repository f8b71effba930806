"""Classes of people's own samples, from Python, and classifiers as files without code."""

import numpy as np
import pytest
import torch
from classification import KINDS, PARITY, parity_data
from fairseq.data import data_utils
from helpers import assert_close

from fairseq_mega.checkpoints.exchange import export_checkpoint, import_folder
from fairseq_mega.models.classifier import MegaClassifier

kinds = pytest.mark.parametrize("kind", KINDS)


def load(kind, data):
    folder = PARITY / kind
    return MegaClassifier.from_pretrained(str(folder), "checkpoint.pt", str(data.resolve()))


def samples_of(kind, hub, data):
    """The test set before it is prepared."""
    if kind == "image":
        lines = (data / "input/test.src").read_text().splitlines()
        return [np.array(line.split(), dtype=np.uint8).reshape(-1, 2) for line in lines]
    if kind == "speech":
        return list(torch.load(data / "processed_data/raw/test_X.pt"))
    folders = [f for f in ("src-bin", "src1-bin") if (data / f).is_dir()]
    documents = [data_utils.load_indexed_dataset(f"{data}/{f}/test") for f in folders]
    words = [[hub.task.source_dictionary.string(line) for line in texts] for texts in documents]
    return words[0] if len(words) == 1 else list(zip(*words))


@kinds
def test_predictions_are_the_published_ones(kind, tmp_path):
    data = parity_data(kind, tmp_path / "data")
    hub = load(kind, data)
    expected = torch.load(PARITY / kind / "expected.pt", torch.get_default_device())
    expected = expected["logits"].softmax(dim=-1)
    predictions = hub.predict(samples_of(kind, hub, data), batch_size=3)
    names = hub.class_names
    found = torch.tensor([[each.probabilities[name] for name in names] for each in predictions])
    assert_close(found, expected, 1e-5, floor=1e-3)
    assert [each.name for each in predictions] == [names[i] for i in expected.argmax(dim=-1)]


@kinds
def test_exported_and_imported_to_the_last_bit(kind, tmp_path):
    data = parity_data(kind, tmp_path / "data")
    before = load(kind, data)
    export_checkpoint(PARITY / kind / "checkpoint.pt", tmp_path / "out", data)
    import_folder(tmp_path / "out", tmp_path / "again.pt", tmp_path / "again")
    samples = samples_of(kind, before, data)
    expected = before.predict(samples)
    exported = MegaClassifier.from_pretrained(str(tmp_path / "out"))
    again = MegaClassifier.from_pretrained(str(tmp_path), "again.pt", str(tmp_path / "again"))
    for hub in (exported, again):
        assert hub.predict(samples) == expected
        assert hub.task.documents == before.task.documents


def test_an_ensemble_averages_probabilities(tmp_path):
    data = parity_data("text", tmp_path / "data")
    state = torch.load(PARITY / "text/checkpoint.pt")
    torch.save(state, tmp_path / "a.pt")
    state["model"]["sentence_projection_layer.weight"] *= -1
    torch.save(state, tmp_path / "b.pt")
    hubs = [
        MegaClassifier.from_pretrained(str(tmp_path), name, str(data.resolve()))
        for name in ("a.pt", "b.pt", "a.pt:b.pt")
    ]
    a, b, both = (hub.predict(["12 40 7"])[0].probabilities for hub in hubs)
    assert a != b
    assert all(both[name] == pytest.approx((a[name] + b[name]) / 2, rel=1e-5) for name in a)


@pytest.mark.parametrize(
    "kind, samples, says",
    [
        ("text", "3 4", "put it in a list"),
        ("text", ["3 4", 5], "sample 1: a text must be a string"),
        ("pair", ["3 4"], "sample 0 must be a pair"),
        ("pair", [("3", "4"), ("3", "4", "5")], "sample 1 must be a pair"),
        ("image", [[[1, 2], [3]]], "sample 0: an image must be an array of numbers"),
        ("image", [[]], "sample 0 has 0 positions"),
        ("image", [[1], [0] * 10], "sample 1 has 10 positions, .* at most 9"),
        ("speech", [[0, 12, 300]], "must be an array of int16"),
    ],
)
def test_bad_samples(kind, samples, says, tmp_path):
    hub = load(kind, parity_data(kind, tmp_path / "data"))
    hub.task.max_input = 9
    with pytest.raises(ValueError, match=says):
        hub.predict(samples)
