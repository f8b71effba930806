"""The classification tasks, as fairseq's commands set them up and call them."""

import copy
import json
from contextlib import contextmanager

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

SPEECH = f"--task speech_commands -a mega_speech {TINY}"
OPTIONS = {"text": TEXT, "pair": TEXT, "image": IMAGE, "speech": SPEECH}
CRITERION = "--criterion lra_cross_entropy --sentence-avg"


def make_task(kind, data, options="", build=True, **task_options):
    """Returns the task, its model and the configuration."""
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
    """Each set has all samples with their classes, and only training sets are shuffled. A part of
    the training set is held out and keeps its row numbers."""
    data = make_data(kind, tmp_path / "data", 3)
    task, model, _ = make_task(kind, data, held_out=0.2)
    ids = {}
    for split, count in (("train", 48), ("heldout", 12), ("valid", 20), ("test", 20)):
        task.load_dataset(split)
        dataset = task.dataset(split)
        assert len(dataset) == count
        assert dataset.order == ("random" if split == "train" else "by_length")
        batch = dataset.collater([dataset[i] for i in range(count)])
        assert ("net_input1" in batch) == (kind == "pair")
        with torch.no_grad():
            assert model(batch)["encoder_out"].shape == (count, 3)
        ids[split] = batch["id"].tolist()
        names = task.class_names()
        assert [names[target] for target in batch["target"]] == [str(i % 3) for i in ids[split]]
    assert ids["test"] == list(range(20))
    assert sorted(ids["train"] + ids["heldout"]) == list(range(60))
    assert np.bincount(np.array(ids["heldout"]) % 3).tolist() == [4, 4, 4]


@pytest.mark.parametrize("pooling", ["mp", "cls"])
def test_what_the_model_reads_of_a_text(pooling, tmp_path):
    """The model reads the first symbols, of which the class token may be one."""
    data = make_texts(tmp_path, classes=3)
    options = f"--sen-rep-type {pooling}"
    task, model, _ = make_task("text", data, f"{options} --max-positions 7")
    assert model.encoder["encoder"].embed_tokens.embed.num_embeddings == 4 + 10 + 1
    assert task.class_names() == ["2", "1", "0"]  # in the order of the dictionary
    assert load("text", data, no_shuffle=True).order == "by_row"
    task.load_dataset("test")
    cut, whole = task.dataset("test"), load("text", data, "test", options=options)
    assert 20 < max(whole.sizes) <= 26
    for i in range(20):
        symbols = whole[i]["documents"][0]
        words = [task.source_dictionary[int(symbol)] for symbol in symbols]
        first = ["<CLS>"] if pooling == "cls" else []
        assert words[: len(first) + 1] == [*first, "abc"[i % 3]]
        assert cut[i]["documents"][0].tolist() == symbols[:7].tolist()
        assert cut.sizes[i] == len(cut[i]["documents"][0])
        line = " ".join(words[len(first) : -1])
        assert task.encode(line).tolist() == symbols[:7].tolist()


def test_pixels_and_samples_are_normalised(tmp_path):
    data = make_images(tmp_path, classes=3)
    line = (data / "input" / "test.src").read_text().splitlines()[4]
    raw = torch.tensor([int(word) for word in line.split()])
    for options, mean, std in (("", 0.5, 0.5), ("--pixel-normalization 0.48 0.24", 0.48, 0.24)):
        dataset = load("image", data, "test", options=options)
        assert torch.allclose(dataset[4]["documents"][0], (raw / 255 - mean) / std)
    data = make_clips(tmp_path, classes=3, dtype=torch.int16)
    raw = torch.load(data / "processed_data" / "raw" / "test_X.pt")
    assert torch.equal(load("speech", data, "test")[4]["documents"][0], raw[4, 0] / 2**15)
    task, _, _ = make_task("speech", data, "--sentence-class-num 10")
    assert task.class_names() == list(WORDS)


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


def test_predictions(tmp_path):
    data = make_texts(tmp_path / "data", 3)
    task, model, cfg = make_task("text", data, results_path=str(tmp_path / "results"))
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


# --- bad input ----------------------------------------------------------------------------------


@contextmanager
def refused(kind, *words):
    with pytest.raises(kind) as error:
        yield
    for each in words:
        assert each in str(error.value), str(error.value)


def test_labels_that_do_not_fit_the_samples(tmp_path):
    data = make_texts(tmp_path / "texts", 3, documents=2)
    path = data / "label-bin" / "test"
    write_lines(path, [["1"]] * 19, dictionary_of("210"))
    with refused(ValueError, str(path), "has 19 labels", "has 20 samples", "same order"):
        load("pair", data, "test")
    for label, shown in ((["7"], "<unk>"), (["1", "2"], "1 2"), ([], "")):
        write_lines(path, [["1"]] * 19 + [label], dictionary_of("210"))
        with refused(ValueError, "label-bin/test, line 20", repr(shown), "one label", "--srcdict"):
            load("pair", data, "test")
    write_lines(path, [["1"]] * 20, dictionary_of("210"))
    write_lines(data / "src1-bin" / "test", [["a"]] * 18, dictionary_of("abcdefghij"))
    with refused(ValueError, "has 20 labels", "has 18 samples"):
        load("pair", data, "test")
    data = make_images(tmp_path / "images", 3)
    for word in ("x", "-1", ""):
        (data / "label" / "test.label").write_text("0\n" + word + "\n" + "1\n" * 18)
        with refused(ValueError, "test.label", "line 2", repr(word), "counted from 0"):
            load("image", data, "test")


@pytest.mark.parametrize("kind", OPTIONS)
def test_data_that_does_not_fit_the_model(kind, tmp_path):
    data = make_data(kind, tmp_path / "data", 3)
    with refused(FileNotFoundError, "test2", "the folder has", "train", "--valid-subset"):
        load(kind, data, "test2")
    # Each class must have a training sample, but not a sample in each other set.
    with refused(ValueError, "--sentence-class-num is 4", "train", "no sample of class 3", "(3)"):
        load(kind, data, options="--sentence-class-num 4")
    assert len(load(kind, data, "test", options="--sentence-class-num 4")) == 20
    with refused(ValueError, "test", "class 2", "--sentence-class-num is 2", "raise it to 3"):
        load(kind, data, "test", options="--sentence-class-num 2")


def test_samples_longer_than_the_bias(tmp_path):
    data, full = make_images(tmp_path, 3), "--chunk-size -1 --max-positions 30"
    with refused(ValueError, "samples of 36 numbers", "--max-positions is 30", "--chunk-size"):
        load("image", data, "test", options=full)
    assert len(load("image", data, "test", options=f"{full} --chunk-size 7")) == 20


@pytest.mark.parametrize(
    "kind, options, words",
    [
        ("text", {"held_out": 1.0}, ["--held-out is 1.0", "below 1"]),
        ("image", {"pixel_normalization": [0.5, 0.0]}, ["--pixel-normalization is", "positive"]),
        ("speech", {"sc_dropped_rate": 0.3}, ["--sc-dropped-rate is 0.3", "leave it out"]),
        ("speech", {"mfcc": True}, ["--mfcc", "leave it out"]),
    ],
)
def test_bad_options(kind, options, words, tmp_path):
    with refused(ValueError, *words):
        make_task(kind, tmp_path, build=False, **options)


def test_folders_and_sets_that_are_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder of data at.*nowhere"):
        make_task("text", tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no dictionary at.*src-bin/dict.txt"):
        make_task("text", tmp_path)
    data = make_texts(tmp_path, 3)
    for held_out in (0, 0.01):
        with pytest.raises(ValueError, match=f"--held-out is {held_out}.*not one sample.*raise it"):
            load("text", data, "heldout", held_out=held_out)
    (tmp_path / "file").write_text("mine")
    task, _, _ = make_task("text", data, results_path=str(tmp_path / "file/results"))
    with pytest.raises(OSError, match="--results-path is .*file/results, which cannot be created"):
        task.load_dataset("test")  # before there are any
