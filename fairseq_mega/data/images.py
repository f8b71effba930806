"""Folders of images by class. Pillow is imported only where an image is read."""

from pathlib import Path
from typing import Callable, Dict, List, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor

from .batches import EveryBatch

SUFFIXES = {".jpg", ".jpeg", ".png"}
# Of the three colours over ImageNet, from 0 to 1.
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
RESIZED = 256 / 224  # the shorter side, before the middle is cut out


def load_image(path: Path):
    """A Pillow image in red, green and blue.

    Raises:
        ImportError: where Pillow is not installed.
        ValueError: where the file is no image.
    """
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("image_folder reads images with Pillow: pip install Pillow") from error
    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as an image: {error}") from error


def middle(image, size: int):
    """The middle square of ``size`` pixels of a Pillow image, once its shorter side is resized to
    ``RESIZED`` times that, bicubic."""
    from PIL import Image

    width, height = image.size
    scale = round(size * RESIZED) / min(width, height)
    wide, high = max(size, round(width * scale)), max(size, round(height * scale))
    left, top = (wide - size) // 2, (high - size) // 2
    image = image.resize((wide, high), Image.Resampling.BICUBIC)
    return image.crop((left, top, left + size, top + size))


def normalise(image) -> Tensor:
    """A Pillow image to ``(3, height, width)``, with mean 0 and variance 1 over ImageNet."""
    x = torch.from_numpy(np.array(image, dtype=np.float32)).permute(2, 0, 1) / 255
    return (x - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


def make_augmentation(size: int) -> Callable:
    """torchvision's random crops, flips, RandAugment (2 of magnitude 9) and erasing (probability
    0.25), of a Pillow image to ``(3, size, size)``.

    Raises:
        ValueError: where torchvision cannot be imported.
    """
    try:
        from torchvision import transforms
    except (ImportError, OSError, RuntimeError) as error:  # as one that is for another torch
        raise ValueError(
            f"--augment needs torchvision, which cannot be imported ({error}): install the one for "
            "your torch, or leave --augment out, and images are resized, cut and normalised alone"
        ) from error
    before = [
        transforms.RandomResizedCrop(
            size, interpolation=transforms.InterpolationMode.BICUBIC, antialias=True
        ),
        transforms.RandomHorizontalFlip(),
        transforms.RandAugment(num_ops=2, magnitude=9),
    ]
    after = transforms.RandomErasing(p=0.25, value="random")
    change = transforms.Compose(before)
    return lambda image: after(normalise(change(image)))


def find_classes(folder: Path) -> List[str]:
    """The names of the classes: of the folders in it, in order.

    Raises:
        FileNotFoundError: where there is none.
    """
    names = sorted(each.name for each in folder.iterdir() if each.is_dir())
    if not names:
        raise FileNotFoundError(f"no folders of classes in {folder}: put images in CLASS/*.jpg")
    return names


def find_images(folder: Path, classes: Sequence[str]) -> Tuple[List[Path], np.ndarray]:
    """The images of ``folder``/CLASS in order, and the number of the class of each ``(n,)``.

    Raises:
        FileNotFoundError: where there are none.
        ValueError: at a folder that is no class.
    """
    paths: List[Path] = []
    targets: List[int] = []
    for name in find_classes(folder):
        if name not in classes:
            raise ValueError(f"{folder / name} is no class of the training set")
        images = (path for path in (folder / name).iterdir() if path.suffix.lower() in SUFFIXES)
        found = sorted(images)
        paths += found
        targets += [classes.index(name)] * len(found)
    if not paths:
        raise FileNotFoundError(f"no images ({', '.join(sorted(SUFFIXES))}) in {folder}/*/")
    return paths, np.array(targets, dtype=np.int64)


class ImageFolderDataset(EveryBatch):
    """Images with a class each.

    Args:
        paths, targets: the files, and the number of the class of each ``(n,)``.
        transform: of a Pillow image to ``(3, size, size)``.
        shuffle: put images together in batches anew in every epoch; else in order.
    """

    def __init__(self, paths: List[Path], targets: np.ndarray, transform: Callable, shuffle: bool):
        super().__init__()
        self.paths, self.targets = paths, targets
        self.transform, self.shuffle = transform, shuffle
        self.sizes = np.ones(len(paths), dtype=np.int64)

    @property
    def can_reuse_epoch_itr_across_epochs(self) -> bool:
        return not self.shuffle

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Dict:
        image = self.transform(load_image(self.paths[index]))
        return {"id": int(index), "image": image, "target": int(self.targets[index])}

    def collater(self, samples: List[Dict]) -> Dict:
        """A batch: ``id``, ``target`` ``(B,)``, ``net_input`` of ``images`` ``(B, 3, size, size)``,
        ``nsentences`` and ``ntokens``, both the number of images."""
        if not samples:  # in the last batch of some workers
            return {}
        return {
            "id": torch.tensor([each["id"] for each in samples]),
            "net_input": {"images": torch.stack([each["image"] for each in samples])},
            "target": torch.tensor([each["target"] for each in samples]),
            "nsentences": len(samples),
            "ntokens": len(samples),
        }

    def size(self, index: int) -> int:
        return 1

    def num_tokens(self, index: int) -> int:
        return 1

    def num_tokens_vec(self, indices: np.ndarray) -> np.ndarray:
        return self.sizes[indices]

    def ordered_indices(self) -> np.ndarray:
        if self.shuffle:
            return np.random.permutation(len(self))  # fairseq has seeded numpy for the epoch
        return np.arange(len(self))
