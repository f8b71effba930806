"""Images in folders with fairseq's commands."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from commands import losses, made_once, run_warm
from PIL import Image

from fairseq_mega.data.images import (
    MEAN,
    STD,
    ImageFolderDataset,
    find_images,
    load_image,
    middle,
)
from fairseq_mega.tasks.image_folder import ImageFolderConfig, ImageFolderTask

CLASSES = ("blue", "green", "red")
SIZES = (
    "-a mega_tiny_patch16_224 --encoder-layers 2 --encoder-embed-dim 16 --encoder-hidden-dim 24 "
    "--encoder-ffn-embed-dim 24 --encoder-z-dim 8 --encoder-n-dim 4 --image-size 16 --patch-size 4"
)
TRAIN = (
    f"--task image_folder {SIZES} --weight-init xavier --drop-path 0.1 --optimizer adam "
    "--criterion label_smoothed_cross_entropy --label-smoothing 0.1 --report-accuracy "
    "--sentence-avg --lr 5e-3 --lr-scheduler linear_decay --warmup-updates 5 "
    "--total-num-update 40 --max-update 30 --batch-size 16 --num-workers 0 --log-interval 1 "
    "--log-format json --no-epoch-checkpoints --best-checkpoint-metric accuracy "
    "--maximize-best-checkpoint-metric"
)


def make(folder):
    """Images of noise, in which one colour is stronger; of several sizes and both kinds."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 48), ("val", 21)):
        for i in range(count):
            name = CLASSES[i % 3]
            pixels = rng.integers(0, 120, (rng.integers(16, 40), rng.integers(16, 40), 3))
            pixels[..., 2 - i % 3] += 100
            path = folder / split / name / f"{i}{'.png' if i % 2 else '.JPEG'}"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(path)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return made_once(tmp_path_factory, "images", make)


def test_a_model_learns_and_is_validated(data, tmp_path):
    output = run_warm("train", data, TRAIN, f"--save-dir {tmp_path}")
    assert len(losses(output)) == 30
    best = tmp_path / "checkpoint_best.pt"
    output = run_warm(
        "validate", data, f"--task image_folder --path {best} --image-size 16 --batch-size 4",
        "--valid-subset valid --log-format json",
        "--criterion label_smoothed_cross_entropy --report-accuracy",
    )  # fmt: skip
    assert float(output.split('"valid_accuracy": "')[1].split('"')[0]) > 90


def test_augmentation_needs_torchvision(data, monkeypatch):
    monkeypatch.setitem(sys.modules, "torchvision", None)
    config = ImageFolderConfig(data=str(data), image_size=16, augment=True, train_subset="train")
    task = ImageFolderTask.setup_task(config)
    task.load_dataset("valid")
    with pytest.raises(ValueError, match="--augment needs torchvision"):
        task.load_dataset("train")


def test_augmented_images(data):
    pytest.importorskip("torchvision")
    config = ImageFolderConfig(data=str(data), image_size=16, augment=True, train_subset="train")
    task = ImageFolderTask.setup_task(config)
    task.load_dataset("train")
    dataset = task.datasets["train"]
    images = [dataset[0]["net_input"]["images"] for _ in range(4)]
    assert images[0].shape == (3, 16, 16) and images[0].dtype == torch.float32
    assert any(not torch.equal(images[0], image) for image in images[1:])


def test_samples_are_all_images_with_the_class_of_their_folder(data):
    task = ImageFolderTask.setup_task(ImageFolderConfig(data=str(data), train_subset="train"))
    assert task.class_names == list(CLASSES)
    task.load_dataset("valid")
    dataset = task.datasets["valid"]
    batch = dataset.collater([dataset[i] for i in range(len(dataset))])
    assert batch["net_input"]["images"].shape == (21, 3, 224, 224)
    assert batch["target"].tolist() == [0] * 7 + [1] * 7 + [2] * 7
    task.load_dataset("train")
    np.random.seed(1)
    first, second = (task.datasets["train"].ordered_indices() for _ in range(2))
    assert sorted(first) == list(range(48)) and list(first) != list(second)


def test_few_images_are_all_in_batches(data):
    """No image is lost if their number is not a multiple of --required-batch-size-multiple."""
    paths, targets = find_images(data / "val", CLASSES)
    for count in (21, 5):
        dataset = ImageFolderDataset(paths[:count], targets[:count], lambda image: image, False)
        limits = {"max_sentences": 16, "required_batch_size_multiple": 8}
        batches = dataset.batch_by_size(dataset.ordered_indices(), **limits)
        assert np.concatenate(batches).tolist() == list(range(count))


def test_the_middle_of_an_image_is_normalised(tmp_path):
    pixels = np.zeros((32, 64, 3), dtype=np.uint8)
    pixels[:, 16:48] = 255
    image = middle(Image.fromarray(pixels), 28)
    white = [(1 - mean) / std for mean, std in zip(MEAN, STD)]
    assert image.shape == (3, 28, 28)
    assert torch.allclose(image, torch.tensor(white).view(3, 1, 1).expand(3, 28, 28))


def test_folders_and_files_that_are_not_as_they_should_be(data, tmp_path):
    with pytest.raises(FileNotFoundError, match="train or val"):
        ImageFolderTask.setup_task(ImageFolderConfig(data=str(tmp_path), train_subset="train"))
    with pytest.raises(ValueError, match="--image-size"):
        ImageFolderTask.setup_task(ImageFolderConfig(data=str(data), image_size=0))
    with pytest.raises(ValueError, match="red is not a class"):
        find_images(data / "val", CLASSES[:2])
    (tmp_path / "red").mkdir()
    with pytest.raises(FileNotFoundError, match="no images"):
        find_images(tmp_path, CLASSES)
    (tmp_path / "red" / "a.jpg").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"a\.jpg cannot be read"):
        load_image(tmp_path / "red" / "a.jpg")


def test_the_package_imports_neither_pillow_nor_transformers_nor_a_compiler():
    """Each import would take every command a second, and so would the one that disables the
    compiler."""
    code = (
        "import sys; sys.modules['PIL'] = sys.modules['transformers'] = None; import fairseq_mega, "
        "fairseq_mega.checkpoints.imagenet; assert 'torch._dynamo' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
