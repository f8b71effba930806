"""Reads folders of images by class with Pillow."""

from pathlib import Path
from typing import Callable, Dict, List, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from .batches import EveryBatch

try:
    from PIL import Image, ImageOps
except ImportError:  # other tasks do not need it
    Image = None  # type: ignore[assignment]

SUFFIXES = {".jpg", ".jpeg", ".png"}
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the colours in ImageNet
BORDER = (1 - 224 / 256) / 2  # cut off on each side, relative to the shorter side


def load_image(path: Path):
    """Reads an RGB image."""
    if Image is None:
        raise ImportError("the task image_folder needs Pillow: pip install Pillow")
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(
            f"{path} cannot be read as an image ({error}): remove it, or copy it again"
        ) from error


def middle(image, size: int) -> Tensor:
    """Resizes the centre of an image to a normalised square ``(3, size, size)``."""
    square = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC, bleed=BORDER)
    return normalise(square)


def normalise(image) -> Tensor:
    """Converts an image to ``(3, height, width)``, with mean 0 and variance 1 over ImageNet."""
    x = torch.from_numpy(np.array(image, dtype=np.float32)).permute(2, 0, 1) / 255
    return (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def find_images(folder: Path, classes: Sequence[str]) -> Tuple[List[Path], np.ndarray]:
    """Returns the images in ``folder``/CLASS in order, and the class number of each, ``(n,)``."""
    paths = sorted(path for path in folder.glob("*/*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise FileNotFoundError(f"no images in {folder}: put them in CLASS/*.jpg (.jpeg, .png)")
    numbers = {name: number for number, name in enumerate(classes)}
    for path in paths:
        if path.parent.name not in numbers:
            raise ValueError(
                f"{path.parent} is not a class of the training set: remove it, or add training "
                "images"
            )
    return paths, np.array([numbers[path.parent.name] for path in paths])


class ImageFolderDataset(EveryBatch):
    """Images, each with a class.

    Args:
        paths, targets: the files, and the class number of each, ``(n,)``.
        transform: converts a Pillow image to ``(3, size, size)``.
        shuffle: redraw the batches for each epoch, instead of reading the images in order.
    """

    def __init__(self, paths: List[Path], targets: np.ndarray, transform: Callable, shuffle: bool):
        super().__init__()
        self.paths, self.targets = paths, targets
        self.transform, self.shuffle = transform, shuffle

    @property
    def can_reuse_epoch_itr_across_epochs(self) -> bool:
        return not self.shuffle

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Dict:
        image = self.transform(load_image(self.paths[index]))  # (3, size, size)
        return {"id": index, "net_input": {"images": image}, "target": self.targets[index]}

    def collater(self, samples: List[Dict]) -> Dict:
        """Returns a batch: ``id``, ``target`` ``(B,)``, ``net_input`` with ``images``
        ``(B, 3, size, size)``, and ``nsentences`` and ``ntokens``, the number of images."""
        if not samples:  # in the last batch of some workers
            return {}
        return {**default_collate(samples), "nsentences": len(samples), "ntokens": len(samples)}

    def size(self, index: int) -> int:
        return 1

    num_tokens = size

    def ordered_indices(self) -> np.ndarray:
        if self.shuffle:
            return np.random.permutation(len(self))  # fairseq has seeded numpy for the epoch
        return np.arange(len(self))
