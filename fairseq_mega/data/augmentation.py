"""Random changes of training images, by torchvision.

Importing torchvision takes a second of processor time, so that only ``--augment`` loads this file.
"""

from torchvision import transforms

from .images import normalise


def make_augmentation(size: int) -> transforms.Compose:
    """Random crops, flips, RandAugment (2 of magnitude 9) and erasing (probability 0.25), of a
    Pillow image to ``(3, size, size)``."""
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(size, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.RandomHorizontalFlip(),
            transforms.RandAugment(num_ops=2, magnitude=9),
            normalise,
            transforms.RandomErasing(p=0.25, value="random"),
        ]
    )
