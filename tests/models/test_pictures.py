"""Decoding posters: every kind of file comes out as upright 8-bit RGB, or as an OSError."""

import io
import zlib

import numpy as np
import pytest
from PIL import Image

from mmgenre.models.pictures import open_poster


def encoded(picture, kind, **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def decoded(data, **options):
    return open_poster(io.BytesIO(data), **options)


BROKEN = {
    "empty": lambda jpeg: b"",
    "text": lambda jpeg: b"<html>404 not found</html>",
    "zeros": lambda jpeg: bytes(5000),
    "truncated": lambda jpeg: jpeg[: len(jpeg) // 2],
    "header_only": lambda jpeg: jpeg[:20],
}


@pytest.mark.parametrize("kind", BROKEN)
def test_what_is_no_whole_picture_is_an_os_error_of_one_line(picture, tmp_path, kind):
    path = tmp_path / "poster.jpg"
    path.write_bytes(BROKEN[kind](encoded(picture, "JPEG")))
    with pytest.raises(OSError, match=r"\A.+\Z"):
        open_poster(path)


@pytest.mark.parametrize("cut", [0.2, 0.5, 0.9])
def test_a_truncated_png_is_an_os_error(picture, cut):
    data = encoded(picture, "PNG")
    with pytest.raises(OSError, match=r"\A.+\Z"):
        decoded(data[: int(len(data) * cut)])


def test_a_file_that_is_not_there_is_an_os_error(tmp_path):
    with pytest.raises(OSError, match="nothing.jpg"):
        open_poster(tmp_path / "nothing.jpg")


def png_of_size(width, height):
    """A PNG whose header promises a size that its data does not have."""
    data = bytearray(encoded(Image.new("L", (1, 1)), "PNG"))
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    checksum = zlib.crc32(bytes(data[12:29]))
    data[29:33] = checksum.to_bytes(4, "big")
    return bytes(data)


def test_a_decompression_bomb_is_an_os_error():
    with pytest.raises(OSError, match="decompression bomb"):
        decoded(png_of_size(20_000, 20_000))


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


def test_a_palette_s_transparent_colour_is_white():
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putdata([0, 1])
    result = decoded(encoded(palette, "PNG", transparency=0))
    assert np.asarray(result).tolist() == [[[255, 255, 255], [40, 50, 60]]]


@pytest.mark.parametrize("values", [[0, 100, 255], [0, 0, 0]])
def test_sixteen_bit_greys_are_scaled_to_eight(values):
    # 255 * 257 = 65535; the last value is far below one eight-bit step
    grey = Image.fromarray(np.array([[*(257 * value for value in values), 200]], dtype=np.uint16))
    result = np.asarray(decoded(encoded(grey, "PNG")))
    assert result.tolist() == [[[value] * 3 for value in [*values, 0]]]


def test_exif_rotation_is_applied():
    picture = Image.new("RGB", (48, 32), "blue")
    picture.paste("red", (0, 0, 24, 32))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter: left becomes top
    result = decoded(encoded(picture, "JPEG", exif=exif, quality=100))
    assert result.size == (32, 48)
    top, bottom = np.asarray(result)[[8, 40], 16].astype(int)
    assert top[0] > 200 > 50 > top[2]
    assert bottom[2] > 200 > 50 > bottom[0]


def test_of_an_animation_the_first_frame_is_taken():
    frames = [Image.new("RGB", (8, 8), color) for color in ("red", "lime", "blue")]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert np.asarray(decoded(data)).reshape(-1, 3).tolist() == [[255, 0, 0]] * 64


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
