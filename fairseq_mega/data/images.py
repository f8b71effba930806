"""Folders of images by class, read with Pillow."""

from pathlib import Path
from typing import Callable, Dict, List, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from .batches import EveryBatch

try:
    from PIL import Image, ImageOps
except ImportError:  # no other task needs it
    Image = None  # type: ignore[assignment]

SUFFIXES = {".jpg", ".jpeg", ".png"}
# Of the three colours over ImageNet, from 0 to 1.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
BORDER = (1 - 224 / 256) / 2  # of the shorter side, left out on each side of the middle


def load_image(path: Path):
    """A Pillow image in red, green and blue.

    Raises:
        ImportError: if Pillow is not installed.
        ValueError: if the file is not an image.
    """
    if Image is None:
        raise ImportError("image_folder reads images with Pillow: pip install Pillow")
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as an image: {error}") from error


def middle(image, size: int) -> Tensor:
    """The middle square of a Pillow image, ``(3, size, size)``, normalised."""
    square = ImageOps.fit(image, (size, size), Image.Resampling.BICUBIC, bleed=BORDER)
    return normalise(square)


def normalise(image) -> Tensor:
    """A Pillow image to ``(3, height, width)``, with mean 0 and variance 1 over ImageNet."""
    x = torch.from_numpy(np.array(image, dtype=np.float32)).permute(2, 0, 1) / 255
    return (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def find_images(folder: Path, classes: Sequence[str]) -> Tuple[List[Path], np.ndarray]:
    """The images of ``folder``/CLASS in order, and the number of the class of each ``(n,)``.

    Raises:
        FileNotFoundError: if there are none.
        ValueError: at an image in a folder that is not a class.
    """
    paths = sorted(path for path in folder.glob("*/*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise FileNotFoundError(f"no images in {folder}: put them in CLASS/*.jpg (or .jpeg, .png)")
    numbers = {name: number for number, name in enumerate(classes)}
    for path in paths:
        if path.parent.name not in numbers:
            raise ValueError(f"{path.parent} is not a class of the training set")
    return paths, np.array([numbers[path.parent.name] for path in paths])


class ImageFolderDataset(EveryBatch):
    """Images with a class each.

    Args:
        paths, targets: the files, and the number of the class of each ``(n,)``.
        transform: of a Pillow image to ``(3, size, size)``.
        shuffle: put images together in batches in another way in every epoch; else in order.
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
        images = self.transform(load_image(self.paths[index]))
        return {
            "id": index,
            "net_input": {"images": images},  # (3, size, size)
            "target": self.targets[index],
        }

    def collater(self, samples: List[Dict]) -> Dict:
        """A batch: ``id``, ``target`` ``(B,)``, ``net_input`` of ``images`` ``(B, 3, size, size)``,
        ``nsentences`` and ``ntokens``, both the number of images."""
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
