"""Preparing images with classes: CIFAR-10, Pathfinder, people's own."""

import pickle
from pathlib import Path

import archives
import numpy as np
import pytest
import torch
from PIL import Image
from preparing import SPLITS, lines, make, refused, serving_all, train
from scipy import ndimage

from examples.classification import pathfinder


@pytest.fixture(scope="module")
def server():
    with serving_all() as server:
        yield server


def cifar_batch(count, seed):
    """A batch as CIFAR-10 has it: a pickle of Python 2, whose strings are bytes."""
    draw = np.random.default_rng(seed)
    pixels = draw.integers(0, 256, (count, 3072), dtype=np.uint8)
    labels = [i % 10 for i in range(count)]
    return pickle.dumps({b"data": pixels, b"labels": labels}, protocol=2), pixels, labels


def test_cifar10_from_its_archive(server, tmp_path):
    batches = [cifar_batch(12, seed) for seed in range(6)]
    names = [f"cifar-10-batches-py/{n}" for n in (*(f"data_batch_{i}" for i in range(1, 6)),
                                                 "test_batch")]  # fmt: skip
    server.files = {"LRA_CIFAR10": archives.tgz({n: b[0] for n, b in zip(names, batches)})}
    make("image", "--held-out", 10, "--workdir", tmp_path)
    rows = {split: np.loadtxt(tmp_path / f"input/{split}.src", dtype=int) for split in SPLITS}
    assert [rows[split].shape for split in SPLITS] == [(50, 1024), (10, 1024), (12, 1024)]
    colours = batches[5][1].reshape(12, 3, 1024).astype(float)
    brightness = np.einsum("ncp,c->np", colours, [0.299, 0.587, 0.114])
    assert np.abs(rows["test"] - brightness).max() <= 1
    assert lines(tmp_path / "label/test.label") == [str(label) for label in batches[5][2]]


class Harmful:
    def __reduce__(self):
        return (Path.touch, (Path(self.target),))


def test_a_pickle_runs_no_code(tmp_path):
    for i in range(1, 6):
        (tmp_path / f"data_batch_{i}").write_bytes(cifar_batch(4, i)[0])
    words = ["image", "--held-out", 2, "--from", tmp_path, "--workdir", tmp_path / "data"]
    refused("test_batch is not there: --from", *words)
    bad, Harmful.target = Harmful(), str(tmp_path / "harm")
    whole = cifar_batch(4, 9)[0]
    objects = pickle.dumps({b"data": np.array([object]), b"labels": [1]})
    for content in (pickle.dumps({b"data": bad, b"labels": []}), whole[:-500], b"", objects,
                    pickle.dumps({b"data": b"raw", b"labels": [3]})):  # fmt: skip
        (tmp_path / "test_batch").write_bytes(content)
        refused("test_batch is no batch of CIFAR-10 that can be read", *words)
    assert not (tmp_path / "harm").exists()


@pytest.mark.parametrize("size", [32, 64])
def test_generated_pathfinder_is_labelled_right(size):
    """Dashes grown by a pixel join, contours do not: are both dots in one component?"""
    source = pathfinder.generate(size, seed=5)
    for _ in range(60):
        label, image = next(source)
        grown = ndimage.binary_dilation(image > 0, np.ones((3, 3)))
        components, count = ndimage.label(grown, np.ones((3, 3)))
        dots, dot_count = ndimage.label(image == pathfinder.DOT)
        assert count == 2 and dot_count == 2
        places = [components[dots == i][0] for i in (1, 2)]
        assert (places[0] == places[1]) == bool(label)


def test_pathfinder_generated_and_trained(tmp_path):
    words = ["pathfinder", "--sizes", 20, 8, 8, "--size"]
    make(*words, 24, "--workdir", tmp_path / "data")
    assert np.loadtxt(tmp_path / "data/input/train.src").shape == (20, 576)
    assert lines(tmp_path / "data/label/valid.label").count("1") == 4
    train(tmp_path / "data", "lra-image -a mega_pathfinder")
    refused("--size is 10, but must be at least 24", *words, 10, "--workdir", tmp_path / "a")


def test_pathfinder_of_the_arena(tmp_path):
    """Metadata as text, and as an array of strings; in the order of their numbers."""
    rows = []
    for i in range(20):
        path = tmp_path / f"imgs/{i % 2}/sample_{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((6, 6), 10 * i, np.uint8)).save(path)
        rows.append([f"imgs/{i % 2}", path.name, str(i), str(i % 2), "1.8", "6"])
    (tmp_path / "metadata").mkdir()
    (tmp_path / "metadata/2.npy").write_text("".join(" ".join(row) + "\n" for row in rows[:10]))
    np.save(tmp_path / "metadata/10.npy", np.array(rows[10:]))
    words = ["pathfinder", "--from", tmp_path, "--workdir"]
    make(*words, tmp_path / "data")
    order = torch.randperm(20, generator=torch.Generator().manual_seed(42)).tolist()
    pixels = [np.loadtxt(tmp_path / f"data/input/{s}.src", dtype=int, ndmin=2) for s in SPLITS]
    assert [len(each) for each in pixels] == [16, 2, 2]
    assert [row[0] // 10 for each in pixels for row in each] == order
    labels = [int(x) for s in SPLITS for x in lines(tmp_path / f"data/label/{s}.label")]
    assert labels == [i % 2 for i in order]
    Image.fromarray(np.zeros((7, 6), np.uint8)).save(tmp_path / "imgs/1/sample_19.png")
    refused("has 6 x 7 pixels, but those before have 6 x 6|6 x 6 pixels, but.*6 x 7", *words,
            tmp_path / "a")  # fmt: skip
    np.save(tmp_path / "metadata/11.npy", np.array([Path()], dtype=object))
    refused("11.npy is neither text nor an array without code", *words, tmp_path / "b")
    (tmp_path / "metadata/11.npy").write_text("../etc passwd 0 1\n")
    refused("11.npy, line 1 leads out of", *words, tmp_path / "c")


def picture_folders(folder, size=(6, 5), names=("cat", "dog")):
    for level, name in enumerate(names):
        (folder / name).mkdir(parents=True)
        for i in range(10):
            Image.new("RGB", size, (100 * level, i, 0)).save(folder / name / f"{i}.png")
    return folder


def test_pictures_of_ones_own(tmp_path):
    folder = picture_folders(tmp_path / "own")
    words = ["pictures", "--from", folder, "--workdir"]
    make(*words, tmp_path / "data")
    assert np.loadtxt(tmp_path / "data/input/train.src").shape == (16, 30)
    assert lines(tmp_path / "data/input/classes.txt") == ["cat", "dog"]
    Image.new("L", (9, 9)).save(folder / "cat/x.png")
    refused(r"9 x 9 pixels, but those before have 6 x 5.*--size WIDTH HEIGHT|have 9 x 9", *words,
            tmp_path / "a")  # fmt: skip
    make(*words, tmp_path / "scaled", "--size", 4, 3)
    assert np.loadtxt(tmp_path / "scaled/input/test.src").shape == (2, 12)
    (folder / "cat/x.png").write_bytes((folder / "dog/1.png").read_bytes()[:50])
    refused("cat/x.png is no picture that can be read", *words, tmp_path / "b")
    refused("has no folder bird: look at --classes", *words, tmp_path / "c", "--classes", "cat",
            "bird")  # fmt: skip
