"""The task ``image_folder``: classification of images."""

from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import List

from fairseq.dataclass import FairseqDataclass
from fairseq.tasks import FairseqTask, register_task
from omegaconf import II

from ..data.images import ImageFolderDataset, find_images, middle
from ..modules.checks import check_positive

AUGMENTATION = "fairseq_mega.data.augmentation"  # imports torchvision


@dataclass
class ImageFolderConfig(FairseqDataclass):
    data: str = field(default="", metadata={"help": "folder with train/CLASS/*.jpg and val/CLASS"})
    image_size: int = field(default=224, metadata={"help": "side of the square images, in pixels"})
    augment: bool = field(
        default=False,
        metadata={
            "help": "augment training images with random crops, flips, RandAugment and erasing "
            "(needs torchvision); otherwise images are only resized, cropped and normalised"
        },
    )
    train_subset: str = II("dataset.train_subset")


@register_task("image_folder", dataclass=ImageFolderConfig)
class ImageFolderTask(FairseqTask):
    """Reads images from ``train/CLASS/*.jpg`` (or png) and ``val/CLASS``. The classes are the
    sorted folders of ``train``, or of ``val`` if there is no ``train``."""

    source_dictionary = None
    target_dictionary = None

    def __init__(self, cfg: ImageFolderConfig, class_names: List[str]):
        super().__init__(cfg)
        self.class_names = class_names

    @classmethod
    def setup_task(cls, cfg: ImageFolderConfig, **kwargs) -> "ImageFolderTask":
        check_positive(**{"--image-size": cfg.image_size})
        names = (cfg.train_subset or "train", "train", "valid", "val")
        folders = (Path(cfg.data) / name for name in names)
        folder = next((each for each in folders if each.is_dir()), None)
        if folder is None:
            raise FileNotFoundError(f"no folder train or val in {cfg.data!r}: give another folder")
        return cls(cfg, sorted(each.name for each in folder.iterdir() if each.is_dir()))

    def load_dataset(self, split: str, epoch=1, combine=False, **kwargs) -> None:
        folder = Path(self.cfg.data) / split
        if split == "valid" and not folder.is_dir():
            folder = folder.with_name("val")
        if not folder.is_dir():
            raise FileNotFoundError(f"no folder of images at {folder}: give another set or folder")
        training, size = split == self.cfg.train_subset, self.cfg.image_size
        transform = partial(middle, size=size)
        if training and self.cfg.augment:
            try:
                transform = import_module(AUGMENTATION).make_augmentation(size)
            except (ImportError, OSError, RuntimeError) as error:  # missing, or for another torch
                raise ValueError(
                    f"--augment needs torchvision, which cannot be imported ({error}): install the "
                    "version for your torch, or leave --augment out"
                ) from error
        paths, targets = find_images(folder, self.class_names)
        self.datasets[split] = ImageFolderDataset(paths, targets, transform, shuffle=training)

    def max_positions(self) -> None:
        """Sets no limit: all images have the same size."""
