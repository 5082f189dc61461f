"""Augmentation of training posters on the host, one at a time."""

from torchvision.transforms import v2


def create_augmentation(name: str, image_size: int) -> v2.Transform | None:
    """Random transform of a PIL poster to a PIL picture of `image_size` squared.

    Args:
        name: `report` (report, section 4.2, in its order) or `none`.
    """
    if name == "none":
        return None
    return v2.Compose(
        [
            v2.RandomResizedCrop(image_size, scale=(0.7, 1.0)),
            v2.RandomHorizontalFlip(0.5),
            v2.ColorJitter(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.15),
            v2.RandomRotation(20),
            v2.RandomAffine(degrees=0, translate=(0.1, 0.1), scale=(0.9, 1.1), shear=10),
        ]
    )
