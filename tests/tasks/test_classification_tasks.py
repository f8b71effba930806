"""The tasks of classification, as fairseq's commands set them up and call them."""

import copy
import json

import fairseq.tasks
import numpy as np
import pytest
import torch
from classification import (
    IMAGE,
    TEXT,
    TINY,
    dictionary_of,
    make_clips,
    make_data,
    make_images,
    make_texts,
    write_lines,
)
from fairseq.criterions import build_criterion
from helpers import parse

from fairseq_mega.data.audio import WORDS
from fairseq_mega.tasks.predictions import summary

SPEECH = f"--task speech_commands -a mega_speech {TINY}"
OPTIONS = {"text": TEXT, "pair": TEXT, "image": IMAGE, "speech": SPEECH}
CRITERION = "--criterion lra_cross_entropy --sentence-avg"


def make_task(kind, data, options="", build=True, **task_options):
    """The task with its model, and the model's configuration."""
    positions = "--max-positions 60" if "--max-positions" not in options else ""
    cfg = copy.deepcopy(parse(f"{OPTIONS[kind]} {CRITERION} {positions} {options}"))
    cfg.task.data = str(data)
    for name, value in task_options.items():
        cfg.task[name] = value
    task = fairseq.tasks.setup_task(cfg.task)
    model = task.build_model(cfg.model).eval() if build else None
    return task, model, cfg


def load(kind, data, split="train", **kwargs):
    task, _, _ = make_task(kind, data, **kwargs)
    task.load_dataset(split)
    return task.dataset(split)


@pytest.mark.parametrize("kind", OPTIONS)
def test_sets(kind, tmp_path):
    """All samples with their classes, which the model reads; training sets alone are shuffled."""
    data = make_data(kind, tmp_path / "data", 3)
    task, model, _ = make_task(kind, data)
    for split, count in (("train", 60), ("valid", 20), ("test", 20)):
        task.load_dataset(split)
        dataset = task.dataset(split)
        assert len(dataset) == count
        assert dataset.order == ("anew" if split == "train" else "by_length")
        batch = dataset.collater([dataset[i] for i in range(count)])
        assert ("net_input1" in batch) == (kind == "pair")
        with torch.no_grad():
            assert model(batch)["encoder_out"].shape == (count, 3)
        names = task.class_names()
        expected = [str(i % 3) for i in range(count)]
        assert [names[target] for target in batch["target"]] == expected


def test_numbers_of_classes_are_places_in_the_dictionary(tmp_path):
    """The data's dictionary goes down: 2, 1, 0."""
    data = make_texts(tmp_path, classes=3)
    task, _, _ = make_task("text", data)
    assert task.class_names() == ["2", "1", "0"]
    assert load("text", data).classes[:4].tolist() == [2, 1, 0, 2]


def test_vocabulary_and_class_token(tmp_path):
    data = make_texts(tmp_path, classes=3)
    for pooling in ("mp", "cls"):
        task, model, _ = make_task("text", data, f"--sen-rep-type {pooling}")
        assert model.encoder["encoder"].embed_tokens.embed.num_embeddings == 4 + 10 + 1
        task.load_dataset("test")
        for i in range(20):
            first = task.source_dictionary[int(task.dataset("test")[i]["documents"][0][0])]
            assert first == ("<CLS>" if pooling == "cls" else "abc"[i % 3])


def test_texts_are_cut_to_what_the_model_reads(tmp_path):
    data = make_texts(tmp_path, classes=3)
    for options, longest in (("--max-positions 7", 7), ("--max-positions 60", 25)):
        dataset = load("text", data, options=options)
        assert max(dataset.sizes) == longest or 20 < max(dataset.sizes) <= longest
        assert max(len(dataset[i]["documents"][0]) for i in range(60)) == max(dataset.sizes)


def test_pixels_are_normalised(tmp_path):
    data = make_images(tmp_path, classes=3)
    line = (data / "input" / "test.src").read_text().splitlines()[4]
    raw = torch.tensor([int(word) for word in line.split()])
    dataset = load("image", data, "test", options="--pixel-normalization 0.48 0.24")
    assert torch.allclose(dataset[4]["documents"][0], (raw / 255 - 0.48) / 0.24)
    default = load("image", data, "test")
    assert torch.allclose(default[4]["documents"][0], (raw / 255 - 0.5) / 0.5)


def test_whole_numbers_of_audio_are_fractions(tmp_path):
    data = make_clips(tmp_path, classes=3, dtype=torch.int16)
    raw = torch.load(data / "processed_data" / "raw" / "test_X.pt")
    assert torch.equal(load("speech", data, "test")[4]["documents"][0], raw[4, 0] / 2**15)


def test_names_of_spoken_words(tmp_path):
    data = make_clips(tmp_path)
    task, _, _ = make_task("speech", data, "--sentence-class-num 10")
    assert task.class_names() == list(WORDS)


@pytest.mark.parametrize("kind", OPTIONS)
def test_held_out_set(kind, tmp_path):
    """A part of the training set, which the training does not see, with its own rows as numbers."""
    data = make_data(kind, tmp_path / "data", 3)
    task, _, _ = make_task(kind, data, held_out=0.2)
    for split in ("train", "heldout", "valid", "test"):
        task.load_dataset(split)
    kept, held_out = (
        {task.dataset(split)[i]["id"] for i in range(len(task.dataset(split)))}
        for split in ("train", "heldout")
    )
    assert len(held_out) == 12 and len(kept) == 48 and kept | held_out == set(range(60))
    assert task.dataset("heldout").order == "by_length" and len(task.dataset("valid")) == 20
    assert np.bincount(task.dataset("heldout").classes[sorted(held_out)]).tolist() == [4, 4, 4]


def test_no_shuffle(tmp_path):
    assert load("text", make_texts(tmp_path, 3), no_shuffle=True).order == "by_row"


# --- the criterion, and predictions -------------------------------------------------------------


def run_valid_steps(task, model, cfg, split="test", size=7):
    criterion = build_criterion(cfg.criterion, task).eval()
    task.load_dataset(split)
    dataset = task.dataset(split)
    outputs = []
    for start in range(0, len(dataset), size):
        rows = range(start, min(start + size, len(dataset)))
        batch = dataset.collater([dataset[i] for i in rows])
        outputs.append(task.valid_step(batch, model, criterion)[2])
    return dataset, criterion, outputs


@pytest.mark.parametrize("sentence_avg", [True, False])
def test_loss_and_accuracy(sentence_avg, tmp_path):
    task, model, cfg = make_task("pair", make_texts(tmp_path, 3, documents=2))
    cfg.criterion.sentence_avg = sentence_avg
    dataset, criterion, outputs = run_valid_steps(task, model, cfg)
    with fairseq.logging.metrics.aggregate() as logged:
        task.reduce_metrics(outputs, criterion)
    with torch.no_grad():
        batch = dataset.collater([dataset[i] for i in range(20)])
        lprobs = torch.log_softmax(model(batch)["encoder_out"].double(), dim=1)
    nll = -lprobs.gather(1, batch["target"].unsqueeze(1)).sum().item()
    size = 20 if sentence_avg else batch["ntokens"]
    assert logged["loss"].avg == pytest.approx(nll / size / np.log(2), rel=1e-5)
    correct = (lprobs.argmax(1) == batch["target"]).sum().item()
    assert logged["accuracy"].avg == pytest.approx(5 * correct)


@pytest.mark.parametrize("kind", ["text", "image"])
def test_predictions(kind, tmp_path):
    data = make_data(kind, tmp_path / "data", 3)
    task, model, cfg = make_task(kind, data, results_path=str(tmp_path / "results"))
    dataset, criterion, outputs = run_valid_steps(task, model, cfg)
    task.reduce_metrics(outputs, criterion)
    header, *rows = (tmp_path / "results" / "predictions-test.tsv").read_text().splitlines()
    names = task.class_names()
    assert header.split("\t")[3:] == [f"log p({name})" for name in names]
    confusion = np.zeros((3, 3), int)
    for i, row in enumerate(rows):
        number, target, predicted, *lprobs = row.split("\t")
        with torch.no_grad():
            scores = model(dataset.collater([dataset[i]]))["encoder_out"][0]
        assert int(number) == i and target == str(i % 3)
        assert predicted == names[scores.argmax()]
        expected = torch.log_softmax(scores, 0)
        assert torch.allclose(torch.tensor([float(x) for x in lprobs]), expected, atol=2e-5)
        confusion[names.index(target), names.index(predicted)] += 1
    outcome = json.loads((tmp_path / "results" / "summary-test.json").read_text())
    assert len(rows) == outcome["samples"] == 20
    assert outcome["confusion"] == confusion.tolist() and outcome["classes"] == names
    assert outcome["accuracy"] == pytest.approx(5 * np.trace(confusion))
    low, high = outcome["interval_95"]
    assert low <= outcome["accuracy"] <= high and low < high


def test_a_summary_counts_and_has_wilsons_interval():
    outcome = summary([(0, 0), (1, 0)], ["a", "b"])
    assert outcome["confusion"] == [[1, 0], [1, 0]]
    certain = summary([(0, 0)] * 50, ["a", "b"])
    assert certain["interval_95"] == pytest.approx([100 * 50 / (50 + 1.959964**2), 100])


# --- bad input ----------------------------------------------------------------------------------


def says(error, *words):
    for each in words:
        assert each in str(error.value), str(error.value)


@pytest.mark.parametrize("kind", OPTIONS)
def test_a_set_that_is_missing(kind, tmp_path):
    data = make_data(kind, tmp_path / "data", 3)
    with pytest.raises(FileNotFoundError) as error:
        load(kind, data, "test2")
    says(error, "test2", "the folder has", "train", "--valid-subset")


def test_results_that_cannot_be_written(tmp_path, monkeypatch):
    """Before there are any."""
    (tmp_path / "file").write_text("mine")
    data = make_data("text", tmp_path / "data", 3)
    task, _, _ = make_task("text", data, results_path=str(tmp_path / "file/results"))
    with pytest.raises(OSError, match="--results-path is .*file/results, which cannot be written"):
        task.load_dataset("test")
    # A process that writes nothing needs no such folder on its machine.
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    task.load_dataset("test")


def test_no_data(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder of data at.*nowhere"):
        make_task("text", tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no dictionary at.*src-bin/dict.txt"):
        make_task("text", tmp_path)


@pytest.mark.parametrize("kind", OPTIONS)
def test_a_class_without_samples(kind, tmp_path):
    """That no training sample has; of other sets there may be some."""
    data = make_data(kind, tmp_path / "data", 3)
    with pytest.raises(ValueError) as error:
        load(kind, data, options="--sentence-class-num 4")
    says(error, "--sentence-class-num is 4", "train", "no sample of class 3", "(3)")
    assert len(load(kind, data, "test", options="--sentence-class-num 4")) == 20


@pytest.mark.parametrize("kind", OPTIONS)
def test_more_classes_than_the_model_has(kind, tmp_path):
    data = make_data(kind, tmp_path / "data", 3)
    with pytest.raises(ValueError) as error:
        load(kind, data, "test", options="--sentence-class-num 2")
    says(error, "test", "class 2", "--sentence-class-num is 2", "raise it to 3")


@pytest.mark.parametrize("kind", OPTIONS)
def test_more_samples_than_labels(kind, tmp_path):
    data = make_data(kind, tmp_path / "data", 3)
    if kind == "image":
        path = data / "label" / "test.label"
        path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    elif kind == "speech":
        path = data / "processed_data" / "raw" / "test_y.pt"
        torch.save(torch.load(path)[:-1], path)
    else:
        path = data / "label-bin" / "test"
        write_lines(path, [["1"]] * 19, dictionary_of("210"))
    with pytest.raises(ValueError) as error:
        load(kind, data, "test")
    says(error, str(path), "has 19 labels", "has 20 samples", "same order")


def test_more_first_than_second_texts(tmp_path):
    data = make_texts(tmp_path, 3, documents=2)
    write_lines(data / "src1-bin" / "test", [["a"]] * 18, dictionary_of("abcdefghij"))
    with pytest.raises(ValueError, match="has 20 labels.*has 18 samples"):
        load("pair", data, "test")


@pytest.mark.parametrize(
    "labels, words",
    [
        ([["1"]] * 19 + [["7"]], ["line 20 has a label that is not in its dict.txt", "--srcdict"]),
        ([["1"]] * 19 + [["1", "2"]], ["line 20 has 2 labels", "a label a line"]),
        ([["1"]] * 19 + [[]], ["line 20 has 0 labels", "a label a line"]),
    ],
)
def test_bad_labels_of_texts(labels, words, tmp_path):
    data = make_texts(tmp_path, 3)
    write_lines(data / "label-bin" / "test", labels, dictionary_of("210"))
    with pytest.raises(ValueError) as error:
        load("text", data, "test")
    says(error, "label-bin/test", *words)


@pytest.mark.parametrize("word", ["x", "-1", "1.0", ""])
def test_bad_labels_of_images(word, tmp_path):
    data = make_images(tmp_path, 3)
    (data / "label" / "test.label").write_text("0\n" + word + "\n" + "1\n" * 18)
    with pytest.raises(ValueError) as error:
        load("image", data, "test")
    says(error, "test.label", "line 2", repr(word), "from 0 on")


@pytest.mark.parametrize("kind", ["image", "speech"])
def test_samples_longer_than_the_bias(kind, tmp_path):
    data = make_data(kind, tmp_path / "data", 3)
    length = {"image": 36, "speech": 50}[kind]
    full = "--chunk-size -1 --max-positions 30"
    with pytest.raises(ValueError) as error:
        load(kind, data, "test", options=full)
    says(error, f"samples of {length} numbers", "--max-positions is 30", "--chunk-size")
    assert len(load(kind, data, "test", options=f"{full} --chunk-size 7")) == 20


@pytest.mark.parametrize(
    "kind, options, words",
    [
        ("text", {"held_out": 1.0}, ["--held-out is 1.0", "below 1"]),
        ("text", {"held_out": -0.1}, ["--held-out is -0.1", "at least 0"]),
        ("image", {"pixel_normalization": [0.5, 0.0]}, ["--pixel-normalization is", "positive"]),
        ("image", {"pixel_normalization": [0.5]}, ["--pixel-normalization is [0.5]"]),
        ("speech", {"sc_dropped_rate": 0.3}, ["--sc-dropped-rate is 0.3", "leave it out"]),
        ("speech", {"mfcc": True}, ["--mfcc", "leave it out"]),
    ],
)
def test_bad_options(kind, options, words, tmp_path):
    with pytest.raises(ValueError) as error:
        make_task(kind, tmp_path, build=False, **options)
    says(error, *words)


def test_a_held_out_set_of_nothing(tmp_path):
    data = make_texts(tmp_path, 3)
    with pytest.raises(ValueError) as error:
        load("text", data, "heldout")
    says(error, "--valid-subset heldout", "--held-out is 0", "such as 0.1")
    with pytest.raises(ValueError) as error:
        load("text", data, "heldout", held_out=0.01)
    says(error, "--held-out is 0.01", "not one sample", "raise it")
