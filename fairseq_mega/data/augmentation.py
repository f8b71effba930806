"""Augments training images with torchvision, whose slow import only ``--augment`` needs."""

from torchvision import transforms

from .images import normalise


def make_augmentation(size: int) -> transforms.Compose:
    """Returns a transform of a Pillow image to ``(3, size, size)``."""
    return transforms.Compose(
        [
            transforms.RandomResizedCrop(size, interpolation=transforms.InterpolationMode.BICUBIC),
            transforms.RandomHorizontalFlip(),
            transforms.RandAugment(num_ops=2, magnitude=9),
            normalise,
            transforms.RandomErasing(p=0.25, value="random"),
        ]
    )
