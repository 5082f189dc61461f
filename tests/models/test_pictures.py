"""Decoding posters to RGB; `data/test_bad_movies.py` has the table of odd and broken files."""

import io

import numpy as np
import pytest
from PIL import Image
from posters import encoded

from mmgenre.models.pictures import open_poster


def decoded(data, **options):
    return open_poster(io.BytesIO(data), **options)


def test_a_file_that_is_not_there_is_an_os_error(tmp_path):
    with pytest.raises(OSError, match="nothing.jpg"):
        open_poster(tmp_path / "nothing.jpg")


@pytest.mark.parametrize(("mode", "kind"), [("RGB", "PNG"), ("RGB", "BMP"), ("L", "PNG")])
def test_lossless_pixels_come_out_as_they_are(picture, mode, kind):
    picture = picture.convert(mode)
    result = decoded(encoded(picture, kind))
    assert result.mode == "RGB"
    channels = np.asarray(picture).reshape(120, 90, -1)
    assert np.array_equal(np.asarray(result), np.broadcast_to(channels, (120, 90, 3)))


@pytest.mark.parametrize(
    ("cmyk", "rgb"),
    [((0, 0, 0, 0), (255, 255, 255)), ((0, 255, 255, 0), (255, 0, 0)), ((0, 0, 0, 255), (0, 0, 0))],
)
def test_cmyk_jpegs_become_rgb(cmyk, rgb):
    result = decoded(encoded(Image.new("CMYK", (16, 16), cmyk), "JPEG", quality=100))
    assert result.mode == "RGB"
    assert np.abs(np.asarray(result).astype(int) - rgb).max() <= 3


def test_transparency_is_laid_over_white():
    rgba = Image.new("RGBA", (3, 1))
    rgba.putdata([(200, 0, 0, 255), (200, 0, 0, 0), (200, 0, 100, 128)])
    result = np.asarray(decoded(encoded(rgba, "PNG"))).astype(int)[0]
    assert result[0].tolist() == [200, 0, 0]
    assert result[1].tolist() == [255, 255, 255]
    # 128 / 255 of the colour and the rest white
    assert np.abs(result[2] - [227, 127, 177]).max() <= 1


@pytest.mark.parametrize("values", [[0, 100, 255], [0, 0, 0]])
def test_sixteen_bit_greys_are_scaled_to_eight(values):
    # 255 * 257 = 65535; the last value is far below one eight-bit step
    grey = Image.fromarray(np.array([[*(257 * value for value in values), 200]], dtype=np.uint16))
    result = np.asarray(decoded(encoded(grey, "PNG")))
    assert result.tolist() == [[[value] * 3 for value in [*values, 0]]]


@pytest.mark.parametrize(
    ("size", "min_side", "expected"),
    [
        ((800, 1200), None, (800, 1200)),
        ((800, 1200), 400, (400, 600)),
        ((800, 1200), 401, (800, 1200)),
        ((800, 1200), 100, (100, 150)),
        ((800, 1200), 256, (400, 600)),
        ((1200, 800), 1000, (1200, 800)),
        ((90, 120), 256, (90, 120)),
    ],
)
def test_jpegs_are_decoded_smaller_but_not_below_min_side(size, min_side, expected):
    data = encoded(Image.new("RGB", size, "teal"), "JPEG")
    assert decoded(data, min_side=min_side).size == expected


def test_other_formats_ignore_min_side(picture):
    assert decoded(encoded(picture, "PNG"), min_side=10).size == (90, 120)


def test_large_posters_give_no_warning(picture, recwarn, monkeypatch):
    # Pillow warns above this figure and raises above twice of it
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 6000)
    decoded(encoded(picture, "PNG"))
    assert not recwarn.list
