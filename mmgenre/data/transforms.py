"""Augmentation of training posters: one distribution, drawn once, applied in two forms.

The distribution is the report's (section 4.2): RandomResizedCrop(scale 0.7-1), a flip,
ColorJitter(0.3, 0.3, 0.3, 0.15), RandomRotation(20), RandomAffine(translate 0.1, scale 0.9-1.1,
shear 10), all else as torchvision has it. `HostAugmentation` takes the five steps one after the
other on a PIL poster, as the report does. `CropForDevice` only cuts the crop out on the host, and
`DeviceAugmentation` does the rest for a whole batch.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.nn import functional
from torchvision.transforms.v2 import functional as F

AREA = (0.7, 1.0)  # of the crop, as a share of the poster
ASPECT = (3 / 4, 4 / 3)  # of the crop, width by height
CROP_ATTEMPTS = 10
JITTER = 0.3  # of brightness, contrast and saturation
HUE = 0.15  # of a turn
DEGREES = 20
TRANSLATE = 0.1  # of the picture's side
SCALE = (0.9, 1.1)
SHEAR_DEGREES = 10  # along the rows alone: torchvision's reading of one number

BRIGHTNESS_STEP, CONTRAST_STEP, SATURATION_STEP, HUE_STEP = range(4)
_COLOR_ORDERS = tuple(itertools.permutations(range(4)))
_NUM_UNIFORMS = 2 * CROP_ATTEMPTS + 13
GREY_WEIGHTS = (0.299, 0.587, 0.114)  # ITU-R 601, Pillow's grey


@dataclass(frozen=True)
class AugmentationParameters:
    """What is random about one poster in one epoch.

    Attributes:
        crop: Left, top, width and height in the poster's pixels.
        color_order: In which the four colour steps are taken; `BRIGHTNESS_STEP` and so on.
        hue: In turns.
        degrees: Counter-clockwise.
        translate: To the right and down, as shares of the picture's side.
        shear_degrees: Along the rows.
    """

    crop: tuple[int, int, int, int]
    flip: bool
    color_order: tuple[int, ...]
    brightness: float
    contrast: float
    saturation: float
    hue: float
    degrees: float
    translate: tuple[float, float]
    scale: float
    shear_degrees: float


def draw_parameters(seed: int, width: int, height: int) -> AugmentationParameters:
    """Draw for a poster of `width` x `height` pixels; a function of its arguments alone."""
    uniforms = iter(np.random.default_rng(seed).random(_NUM_UNIFORMS).tolist())

    def between(low: float, high: float) -> float:
        return low + (high - low) * next(uniforms)

    return AugmentationParameters(
        flip=next(uniforms) < 0.5,
        color_order=_COLOR_ORDERS[int(next(uniforms) * len(_COLOR_ORDERS))],
        brightness=between(1 - JITTER, 1 + JITTER),
        contrast=between(1 - JITTER, 1 + JITTER),
        saturation=between(1 - JITTER, 1 + JITTER),
        hue=between(-HUE, HUE),
        degrees=between(-DEGREES, DEGREES),
        translate=(between(-TRANSLATE, TRANSLATE), between(-TRANSLATE, TRANSLATE)),
        scale=between(*SCALE),
        shear_degrees=between(-SHEAR_DEGREES, SHEAR_DEGREES),
        # Last, because it takes as many numbers as it needs.
        crop=_draw_crop(between, width, height),
    )


def _draw_crop(
    between: Callable[[float, float], float], width: int, height: int
) -> tuple[int, int, int, int]:
    for _ in range(CROP_ATTEMPTS):
        area = width * height * between(*AREA)
        aspect = math.exp(between(math.log(ASPECT[0]), math.log(ASPECT[1])))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            return int(between(0, width - w + 1)), int(between(0, height - h + 1)), w, h
    # The largest central crop whose aspect is in the range.
    w = min(width, round(height * ASPECT[1]))
    h = min(height, round(width / ASPECT[0]))
    return (width - w) // 2, (height - h) // 2, w, h


class HostAugmentation:
    """The report's five steps on one PIL poster, which comes back `image_size` squared."""

    def __init__(self, image_size: int) -> None:
        self.image_size = image_size

    def __call__(self, picture: Image.Image, seed: int) -> Image.Image:
        return self.apply(picture, draw_parameters(seed, *picture.size))

    def apply(self, picture: Image.Image, parameters: AugmentationParameters) -> Image.Image:
        left, top, width, height = parameters.crop
        size = [self.image_size, self.image_size]
        picture = F.resized_crop(picture, top, left, height, width, size)
        if parameters.flip:
            picture = F.horizontal_flip(picture)
        for step in parameters.color_order:
            if step == BRIGHTNESS_STEP:
                picture = F.adjust_brightness(picture, parameters.brightness)
            elif step == CONTRAST_STEP:
                picture = F.adjust_contrast(picture, parameters.contrast)
            elif step == SATURATION_STEP:
                picture = F.adjust_saturation(picture, parameters.saturation)
            else:
                picture = F.adjust_hue(picture, parameters.hue)
        picture = F.rotate(picture, parameters.degrees)
        translate = [round(share * self.image_size) for share in parameters.translate]
        shear = [parameters.shear_degrees, 0.0]
        return F.affine(picture, 0.0, translate, parameters.scale, shear)


class CroppedPoster(NamedTuple):
    """A poster on its way to `DeviceAugmentation`.

    Attributes:
        pixels: (height, width, 3) bytes of the crop.
        numbers: The parameters but for the crop, as `DeviceAugmentation` unpacks them.
    """

    pixels: np.ndarray
    numbers: list[float]


_MISSING = CroppedPoster(
    np.zeros((0, 0, 3), np.uint8), [1.0, 1, 1, 1, 0, 0, 1, 2, 3, 0, 0, 0, 1, 0]
)


class CropForDevice:
    """Cuts the drawn crop out of a PIL poster and leaves all arithmetic to the device.

    A side of the crop longer than twice `image_size` is shrunk to that, so that a batch has a bound
    whatever the posters are.
    """

    def __init__(self, image_size: int) -> None:
        self.max_side = 2 * image_size

    def __call__(self, picture: Image.Image, seed: int) -> CroppedPoster:
        return self.apply(picture, draw_parameters(seed, *picture.size))

    def apply(self, picture: Image.Image, parameters: AugmentationParameters) -> CroppedPoster:
        left, top, width, height = parameters.crop
        box = (left, top, left + width, top + height)
        size = min(width, self.max_side), min(height, self.max_side)
        if size == (width, height):
            picture = picture.crop(box)
        else:
            picture = picture.resize(size, Image.Resampling.BILINEAR, box, reducing_gap=2.0)
        numbers = [
            -1.0 if parameters.flip else 1.0,
            parameters.brightness,
            parameters.contrast,
            parameters.saturation,
            parameters.hue,
            *map(float, parameters.color_order),
            math.radians(parameters.degrees),
            *parameters.translate,
            parameters.scale,
            math.radians(parameters.shear_degrees),
        ]
        return CroppedPoster(np.asarray(picture), numbers)


def pad_posters(posters: Sequence[CroppedPoster | None]) -> dict[str, torch.Tensor]:
    """One canvas for crops of different sizes.

    Returns:
        `posters` (batch, height, width, 3) bytes, each crop in the corner at the origin and the
        rest undefined; `poster_sizes` (batch, 2), height and width, 0 where there is no poster;
        `augmentation` (batch, numbers).
    """
    given = [_MISSING if poster is None else poster for poster in posters]
    sizes = [poster.pixels.shape[:2] for poster in given]
    height, width = (max(1, *side) for side in zip(*sizes, strict=True))
    canvas = np.empty((len(given), height, width, 3), np.uint8)
    for place, poster, (h, w) in zip(canvas, given, sizes, strict=True):
        place[:h, :w] = poster.pixels
    return {
        "posters": torch.from_numpy(canvas),
        "poster_sizes": torch.tensor(sizes),
        "augmentation": torch.tensor([poster.numbers for poster in given]),
    }


class DeviceAugmentation(nn.Module):
    """Augments, rescales and normalises a batch of crops on the device that they are on.

    Departures from the host form, for one resampling in place of three and no branch a sample:
    the picture is sampled once, bilinearly, at `OVERSAMPLING` squared points a pixel, where the
    report resizes with antialiasing and then rotates and shears by nearest neighbour; the colour
    steps are one affine map of (red, green, blue), so that values are clipped once at the end and
    not after each step, and hue is a rotation about the grey axis in place of a shift in HSV.

    Args:
        image_mean, image_std: Of each channel, on [0, 1].
        mark_missing: Also give `image_present`.
    """

    OVERSAMPLING = 2
    points: torch.Tensor
    image_mean: torch.Tensor
    image_std: torch.Tensor
    grey: torch.Tensor

    def __init__(
        self,
        image_size: int,
        image_mean: Sequence[float],
        image_std: Sequence[float],
        mark_missing: bool = False,
    ) -> None:
        super().__init__()
        self.image_size = image_size
        self.mark_missing = mark_missing
        side = torch.arange(self.OVERSAMPLING * image_size) + 0.5
        side = side / self.OVERSAMPLING - image_size / 2
        y, x = torch.meshgrid(side, side, indexing="ij")
        # (points, 3): x, y from the centre in output pixels, 1
        self.register_buffer("points", torch.stack([x, y, torch.ones_like(x)], -1).flatten(0, 1))
        self.register_buffer("image_mean", torch.tensor(image_mean).view(3, 1, 1))
        self.register_buffer("image_std", torch.tensor(image_std).view(3, 1, 1))
        self.register_buffer("grey", torch.tensor(GREY_WEIGHTS))

    @torch.no_grad()
    def forward(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The batch with `pixel_values` (batch, 3, image_size, image_size) in place of its posters.

        Args:
            batch: What `pad_posters` makes, and other entries, which stay.
        """
        batch = dict(batch)
        posters = batch.pop("posters").permute(0, 3, 1, 2).float()
        sizes = batch.pop("poster_sizes")
        parameters = batch.pop("augmentation")
        there = sizes[:, 0] > 0

        grid, covered = self._grid(posters.shape[-2:], sizes, parameters)
        pixels = functional.grid_sample(posters, grid, align_corners=False) * covered
        pixels = functional.avg_pool2d(pixels, self.OVERSAMPLING)
        covered = functional.avg_pool2d(covered, self.OVERSAMPLING)

        matrix, offset = self._colors(_mean_color(posters, sizes), parameters)
        pixels = torch.einsum("bij,bjhw->bihw", matrix, pixels) + offset[..., None, None] * covered
        pixels = torch.minimum(pixels.clamp(min=0), 255 * covered)
        pixels = (pixels / 255 - self.image_mean) / self.image_std
        batch["pixel_values"] = pixels.where(there.view(-1, 1, 1, 1), 0)
        if self.mark_missing:
            batch["image_present"] = there
        return batch

    def _grid(
        self, canvas: torch.Size, sizes: torch.Tensor, parameters: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Where each output point lies on the canvas, and whether it shows the poster at all.

        Returns:
            (batch, side, side, 2) in `grid_sample`'s coordinates, and (batch, 1, side, side), 0
            where one of the report's two steps finds nothing in its picture, which is black.
        """
        flip, degrees, shift_x, shift_y, scale, shear = parameters[:, [0, 9, 10, 11, 12, 13]].T
        shift_x, shift_y = (self.image_size * torch.stack([shift_x, shift_y])).round()
        zero, one = torch.zeros_like(flip), torch.ones_like(flip)
        slope, cos, sin = shear.tan(), degrees.cos(), degrees.sin()
        # output to rotated picture: undo the shift, the scale and the shear
        to_rotated = _matrices(
            [one / scale, slope / scale, -(shift_x + slope * shift_y) / scale],
            [zero, one / scale, -shift_y / scale],
            [zero, zero, one],
        )
        # rotated picture to crop
        to_upright = _matrices([cos, -sin, zero], [sin, cos, zero], [zero, zero, one])
        rotated = self.points @ to_rotated.mT
        upright = rotated @ to_upright.mT
        half = self.image_size / 2
        inside = (rotated[..., :2].abs() < half) & (upright[..., :2].abs() < half)

        extent = sizes.flip(1)[:, None].float()  # (batch, 1, 2): width, height
        unit = upright[..., :2] / self.image_size
        unit = torch.stack([unit[..., 0] * flip[:, None], unit[..., 1]], -1) + 0.5
        # Beyond the centre of an edge pixel that pixel goes on; the canvas's filling never shows.
        places = torch.minimum((unit * extent).clamp(min=0.5), extent - 0.5)
        grid = 2 * places / torch.tensor([canvas[1], canvas[0]], device=places.device) - 1
        side = self.OVERSAMPLING * self.image_size
        covered = inside.all(-1).to(grid.dtype).view(-1, 1, side, side)
        return grid.view(-1, side, side, 2), covered

    def _colors(
        self, mean: torch.Tensor, parameters: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The four colour steps of each sample, in its own order, as matrix and offset.

        Args:
            mean: (batch, 3), the crop's mean colour, which contrast pulls to.

        Returns:
            (batch, 3, 3) and (batch, 3).
        """
        brightness, contrast, saturation, hue = parameters[:, 1:5].T[..., None, None]
        order = parameters[:, 5:9].long()
        eye, ones = torch.eye(3, device=mean.device), torch.ones(3, 3, device=mean.device)
        cross = torch.tensor([[0.0, -1, 1], [1, 0, -1], [-1, 1, 0]], device=mean.device)
        turn = 2 * math.pi * hue
        steps = torch.stack(
            [
                brightness * eye,
                contrast * eye,
                saturation * eye + (1 - saturation) * self.grey.expand(3, 3),
                turn.cos() * eye + (1 - turn.cos()) / 3 * ones + turn.sin() / 3**0.5 * cross,
            ],
            dim=1,
        )
        matrix, offset = eye.expand(len(mean), 3, 3), torch.zeros_like(mean)
        for place in range(4):
            step = order[:, place]
            linear = steps[torch.arange(len(step), device=step.device), step]
            grey = (torch.einsum("bij,bj->bi", matrix, mean) + offset) @ self.grey
            pull = torch.where(step == CONTRAST_STEP, (1 - contrast[:, 0, 0]) * grey, 0)
            matrix = linear @ matrix
            offset = torch.einsum("bij,bj->bi", linear, offset) + pull[:, None]
        return matrix, offset


def _mean_color(posters: torch.Tensor, sizes: torch.Tensor) -> torch.Tensor:
    """(batch, 3), over each poster's own part of the canvas."""
    height, width = sizes.T[..., None]
    rows = (torch.arange(posters.shape[2], device=posters.device) < height).float()
    columns = (torch.arange(posters.shape[3], device=posters.device) < width).float()
    total = torch.einsum("bchw,bh,bw->bc", posters, rows, columns)
    return total / (height * width).clamp(min=1)


def _matrices(*rows: list[torch.Tensor]) -> torch.Tensor:
    """(batch, 3, 3) from entries (batch,)."""
    return torch.stack([torch.stack(row, -1) for row in rows], -2)
