"""Both forms of the augmentation: torchvision's distributions, and each other's pictures."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats
from torchvision.transforms import v2

from mmgenre.data.transforms import (
    AugmentationParameters,
    CropForDevice,
    DeviceAugmentation,
    HostAugmentation,
    draw_parameters,
    pad_posters,
)

SIZE = 96
NO_GEOMETRY = {"degrees": 0.0, "translate": (0.0, 0.0), "scale": 1.0, "shear_degrees": 0.0}
NO_COLOR = {"brightness": 1.0, "contrast": 1.0, "saturation": 1.0, "hue": 0.0}

CROP = v2.RandomResizedCrop(SIZE, scale=(0.7, 1.0))
FLIP = v2.RandomHorizontalFlip(1.0)
JITTER = v2.ColorJitter(0.3, 0.3, 0.3, 0.15)
ROTATION = v2.RandomRotation(20)
AFFINE = v2.RandomAffine(degrees=0, translate=(0.1, 0.1), scale=(0.9, 1.1), shear=10)


def create_poster(width: int, height: int, seed: int = 0) -> Image.Image:
    """Soft blobs of middling colours: nothing is clipped, and resampling hardly matters."""
    cells = np.random.default_rng(seed).integers(70, 170, (6, 4, 3), dtype=np.uint8)
    return Image.fromarray(cells).resize((width, height), Image.Resampling.BICUBIC)


def on_device(
    posters: list[Image.Image | None],
    parameters: list[AugmentationParameters | None],
    device: str = "cpu",
) -> torch.Tensor:
    """(batch, 3, SIZE, SIZE), in levels of 0 to 255."""
    crop = CropForDevice(SIZE)
    crops = [p and crop.apply(p, q) for p, q in zip(posters, parameters, strict=True)]
    augmentation = DeviceAugmentation(SIZE, [0.0] * 3, [1 / 255] * 3).to(device)
    batch = {key: value.to(device) for key, value in pad_posters(crops).items()}
    return augmentation(batch)["pixel_values"].cpu()


def on_host(poster: Image.Image, parameters: AugmentationParameters) -> torch.Tensor:
    picture = np.array(HostAugmentation(SIZE).apply(poster, parameters))
    return torch.from_numpy(picture).permute(2, 0, 1).float()


# --- the distribution

NUM_DRAWS = 1500


@pytest.mark.parametrize(("width", "height"), [(256, 380), (256, 330), (300, 300), (700, 256)])
def test_crops_are_distributed_as_torchvision_s(width: int, height: int) -> None:
    torch.manual_seed(0)
    poster = Image.new("RGB", (width, height))
    expected = [CROP.make_params([poster]) for _ in range(NUM_DRAWS)]
    drawn = [draw_parameters(seed, width, height).crop for seed in range(NUM_DRAWS)]
    for i, name in enumerate(("left", "top", "width", "height")):
        values = [crop[i] for crop in drawn]
        assert stats.ks_2samp(values, [crop[name] for crop in expected]).pvalue > 0.01, name


@pytest.mark.parametrize(("width", "height"), [(1, 1), (1, 9), (9, 1), (10, 20000), (7, 5)])
def test_extreme_posters_have_a_crop_inside(width: int, height: int) -> None:
    for seed in range(50):
        left, top, w, h = draw_parameters(seed, width, height).crop
        assert 0 <= left < left + w <= width
        assert 0 <= top < top + h <= height


def test_all_else_is_distributed_as_torchvision_s() -> None:
    torch.manual_seed(0)
    canvas = Image.new("RGB", (224, 224))
    drawn = [draw_parameters(seed, 256, 380) for seed in range(NUM_DRAWS)]
    jitter = [JITTER.make_params([canvas]) for _ in range(NUM_DRAWS)]
    rotation = [ROTATION.make_params([canvas]) for _ in range(NUM_DRAWS)]
    affine = [AFFINE.make_params([canvas]) for _ in range(NUM_DRAWS)]
    expected = {
        **{
            name: [p[f"{name}_factor"] for p in jitter]
            for name in ("brightness", "contrast", "saturation", "hue")
        },
        "degrees": [p["angle"] for p in rotation],
        "scale": [p["scale"] for p in affine],
        "shear_degrees": [p["shear"][0] for p in affine],
    }
    pairs = {name: ([getattr(p, name) for p in drawn], expected[name]) for name in expected}
    for i in range(2):
        shifts = [round(p.translate[i] * 224) for p in drawn]
        pairs[f"translate {i}"] = (shifts, [p["translate"][i] for p in affine])
    for name, (values, others) in pairs.items():
        assert stats.ks_2samp(values, others).pvalue > 0.01, name
    assert {(p["angle"], p["shear"][1]) for p in affine} == {(0.0, 0.0)}

    counts = list(Counter(p.color_order for p in drawn).values())
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > 0.01
    assert stats.binomtest(sum(p.flip for p in drawn), NUM_DRAWS).pvalue > 0.01
    # independent of each other
    columns = np.array([[p.flip, p.hue, p.degrees, p.crop[0], *p.translate] for p in drawn])
    correlation = np.corrcoef(columns.T) - np.eye(6)
    assert abs(correlation).max() < 4 / NUM_DRAWS**0.5


# --- the host form


def test_the_host_form_is_torchvision_s_five_steps() -> None:
    poster = create_poster(120, 180)
    for seed in range(6):
        p = draw_parameters(seed, *poster.size)
        left, top, width, height = p.crop
        expected = CROP.transform(
            poster, {"top": top, "left": left, "height": height, "width": width}
        )
        expected = FLIP.transform(expected, {}) if p.flip else expected
        factors = {f"{name}_factor": getattr(p, name) for name in NO_COLOR}
        expected = JITTER.transform(expected, {"fn_idx": torch.tensor(p.color_order), **factors})
        expected = ROTATION.transform(expected, {"angle": p.degrees})
        shift = tuple(round(share * SIZE) for share in p.translate)
        affine = {"translate": shift, "scale": p.scale, "shear": (p.shear_degrees, 0.0)}
        expected = AFFINE.transform(expected, {"angle": 0.0, **affine})
        augmented = HostAugmentation(SIZE)(poster, seed)
        np.testing.assert_array_equal(np.asarray(augmented), np.asarray(expected))


# --- the device form against the host form, in levels of 0 to 255


@pytest.mark.parametrize(("width", "height"), [(140, 200), (200, 140), (600, 1000)])
def test_both_forms_show_the_same_part_of_the_poster(width: int, height: int) -> None:
    poster = create_poster(width, height)
    parameters = [replace(draw_parameters(seed, *poster.size), **NO_COLOR) for seed in range(8)]
    augmented = on_device([poster] * 8, parameters)
    for one, p in zip(augmented, parameters, strict=True):
        expected = on_host(poster, p)
        # Half a pixel of nearest neighbour's shift and, on the border to black, of coverage.
        assert (one - expected).abs().mean() < 2.5
        assert (one - expected).abs().median() < 1
        assert ((one == 0).all(0) == (expected == 0).all(0)).float().mean() > 0.97


def test_both_forms_crop_and_flip_alike() -> None:
    poster = create_poster(140, 200)
    for seed in range(4):
        p = replace(draw_parameters(seed, *poster.size), **NO_COLOR, **NO_GEOMETRY)
        difference = on_device([poster], [p])[0] - on_host(poster, p)
        assert difference.abs().mean() < 0.5  # a shift of half a pixel gives 0.6
        assert difference.abs().max() < 4


@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
@pytest.mark.parametrize("factor", [0.7, 1.3])
def test_a_colour_step_is_pillow_s(name: str, factor: float) -> None:
    poster = create_poster(140, 200)
    p = replace(draw_parameters(0, *poster.size), **NO_GEOMETRY, **NO_COLOR)
    p = replace(p, **{name: factor})
    difference = on_device([poster], [p])[0] - on_host(poster, p)
    assert difference.abs().mean() < 0.8  # Pillow rounds down, after the crop and after the step
    assert difference.abs().max() < 6


def test_colour_steps_are_taken_in_each_sample_s_own_order() -> None:
    poster = create_poster(140, 200)
    p = replace(draw_parameters(0, *poster.size), **NO_GEOMETRY)
    # Without clipping, hue alone does not commute with the others.
    p = replace(p, brightness=1.0, contrast=0.8, saturation=0.2, hue=1 / 3)
    parameters = [replace(p, color_order=order) for order in [(0, 1, 2, 3), (3, 2, 1, 0)]]
    first, last = on_device([poster] * 2, parameters)
    assert (first - last).abs().mean() > 3
    for one, q in zip((first, last), parameters, strict=True):
        assert (one - on_host(poster, q)).abs().mean() < 1.2


@pytest.mark.parametrize("hue", [1 / 3, -1 / 3])
def test_hue_by_a_third_of_a_turn_is_hsv_s(hue: float) -> None:
    poster = create_poster(140, 200)
    p = replace(draw_parameters(0, *poster.size), **NO_GEOMETRY, **{**NO_COLOR, "hue": hue})
    difference = on_device([poster], [p])[0] - on_host(poster, p)
    assert difference.abs().mean() < 0.8  # Pillow's HSV has 8 bits


def test_hue_leaves_greys_alone() -> None:
    poster = create_poster(140, 200).convert("L").convert("RGB")
    p = replace(draw_parameters(0, *poster.size), **NO_GEOMETRY, **{**NO_COLOR, "hue": 0.15})
    assert on_device([poster], [p])[0].std(0).max() < 0.01


def test_both_forms_look_alike() -> None:
    poster = create_poster(140, 200)
    parameters = [draw_parameters(seed, *poster.size) for seed in range(16)]
    augmented = on_device([poster] * 16, parameters)
    expected = torch.stack([on_host(poster, p) for p in parameters])
    assert (augmented - expected).abs().mean() < 4
    # far from what other parameters give
    assert (augmented - expected.roll(1, 0)).abs().mean() > 30


# --- batches on the device

CUDA = pytest.param(
    "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
)


@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_a_batch_is_its_samples(device: str) -> None:
    posters = [create_poster(140, 200), None, create_poster(90, 60, seed=1), create_poster(1, 1)]
    parameters = [p and draw_parameters(i, *p.size) for i, p in enumerate(posters)]
    batch = on_device(posters, parameters, device)
    assert torch.isfinite(batch).all()
    for i, (poster, p) in enumerate(zip(posters, parameters, strict=True)):
        torch.testing.assert_close(
            batch[i], on_device([poster], [p])[0], atol=0.02, rtol=0, msg=f"poster {i}"
        )


def test_what_lies_beside_a_crop_does_not_show() -> None:
    posters = [create_poster(140, 200), create_poster(90, 60, seed=1)]
    crops = [CropForDevice(SIZE)(poster, 0) for poster in posters]
    augmentation = DeviceAugmentation(SIZE, [0.0] * 3, [1.0] * 3)
    results = []
    for filling in (0, 255):
        batch = pad_posters(crops)
        height, width = batch["poster_sizes"][1]
        batch["posters"][1, height:] = filling
        batch["posters"][1, :, width:] = filling
        results.append(augmentation(batch)["pixel_values"])
    assert torch.equal(*results)


def test_a_missing_poster_is_a_zero_tensor() -> None:
    crop = CropForDevice(SIZE)(create_poster(40, 60), 0)
    mean, std = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
    augmentation = DeviceAugmentation(SIZE, mean, std, mark_missing=True)
    labels = torch.ones(2, 3)
    batch = augmentation({**pad_posters([None, crop]), "labels": labels})
    assert batch.keys() == {"pixel_values", "image_present", "labels"}
    assert batch["image_present"].tolist() == [False, True]
    assert (batch["pixel_values"][0] == 0).all()
    assert batch["pixel_values"][1].min() == pytest.approx(-mean[0] / std[0])  # black

    augmentation = DeviceAugmentation(SIZE, mean, std)
    batch = augmentation(pad_posters([None, None]))
    assert torch.equal(batch["pixel_values"], torch.zeros(2, 3, SIZE, SIZE))
    assert "image_present" not in batch


def test_large_posters_are_shrunk_for_the_way() -> None:
    for size in [(600, 1000), (3000, 10), (150, 220)]:
        poster = create_poster(*size)
        crop = CropForDevice(SIZE)(poster, 0)
        _, _, width, height = draw_parameters(0, *size).crop
        assert crop.pixels.shape == (min(height, 2 * SIZE), min(width, 2 * SIZE), 3)
