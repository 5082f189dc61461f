"""Poster files of every kind, made by code: what each must come out as, or why it cannot."""

import io
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image


def encoded(picture: Image.Image, kind: str, **options: Any) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def png_of_size(width: int, height: int) -> bytes:
    """A PNG whose header promises a size that its data does not have."""
    data = bytearray(encoded(Image.new("L", (1, 1)), "PNG"))
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    data[29:33] = zlib.crc32(bytes(data[12:29])).to_bytes(4, "big")
    return bytes(data)


def noise(width: int = 90, height: int = 120) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def cut(data: bytes, share: float) -> bytes:
    return data[: int(len(data) * share)]


def palette() -> bytes:
    picture = Image.new("P", (2, 1))
    picture.putpalette([10, 20, 30, 40, 50, 60])
    picture.putdata([0, 1])
    return encoded(picture, "PNG", transparency=0)


def half_transparent() -> bytes:
    return encoded(Image.new("RGBA", (3, 2), (200, 0, 100, 128)), "PNG")


def sixteen_bit() -> bytes:
    return encoded(Image.fromarray(np.array([[257 * 100, 65535]], dtype=np.uint16)), "PNG")


def animated() -> bytes:
    frames = [Image.new("RGB", (8, 9), color) for color in ("red", "lime", "blue")]
    return encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])


def rotated() -> bytes:
    picture = Image.new("RGB", (48, 32), "blue")
    picture.paste("red", (0, 0, 24, 32))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter: left becomes top
    return encoded(picture, "JPEG", exif=exif, quality=100)


# Case: the file, the size in RGB, and the colour of the pixel at the upper left.
ODD: dict[str, tuple[Callable[[], bytes], tuple[int, int], tuple[int, int, int]]] = {
    "CMYK": (
        lambda: encoded(Image.new("CMYK", (16, 24), (0, 255, 255, 0)), "JPEG", quality=100),
        (16, 24),
        (255, 0, 0),
    ),
    "palette with transparency": (palette, (2, 1), (255, 255, 255)),
    # 128 / 255 of the colour and the rest white
    "alpha": (half_transparent, (3, 2), (227, 127, 177)),
    "16-bit": (sixteen_bit, (2, 1), (100, 100, 100)),
    "greyscale": (
        lambda: encoded(Image.new("L", (16, 24), 77), "JPEG", quality=100),
        (16, 24),
        (77, 77, 77),
    ),
    "1-bit": (lambda: encoded(Image.new("1", (9, 5), 1), "PNG"), (9, 5), (255, 255, 255)),
    "animated": (animated, (8, 9), (255, 0, 0)),
    "rotated": (rotated, (32, 48), (255, 0, 0)),
    "1x1": (
        lambda: encoded(Image.new("RGB", (1, 1), (9, 80, 200)), "PNG"),
        (1, 1),
        (9, 80, 200),
    ),
    "20000x10": (
        lambda: encoded(Image.new("RGB", (20_000, 10), (0, 128, 128)), "JPEG", quality=100),
        (20_000, 10),
        (0, 128, 128),
    ),
    "PNG named .jpg": (
        lambda: encoded(Image.new("RGB", (5, 7), (1, 2, 3)), "PNG"),
        (5, 7),
        (1, 2, 3),
    ),
}
TOO_MANY_PIXELS = (
    "Image size (200000000 pixels) exceeds limit of 178956970 pixels, could be decompression bomb "
    "DOS attack."
)
# Case: the file, and the whole reason, # being a number of bytes.
BROKEN: dict[str, tuple[Callable[[], bytes], str]] = {
    "truncated JPEG": (
        lambda: cut(encoded(noise(), "JPEG"), 0.5),
        "image file is truncated (# bytes not processed)",
    ),
    "truncated PNG": (
        lambda: cut(encoded(noise(), "PNG"), 0.5),
        "image file is truncated",
    ),
    "PNG of half a header": (lambda: encoded(noise(), "PNG")[:20], "Truncated File Read"),
    "JPEG of half a header": (lambda: encoded(noise(), "JPEG")[:20], "not a picture"),
    "empty": (lambda: b"", "not a picture"),
    "zeros": (lambda: bytes(5000), "not a picture"),
    "text named .jpg": (lambda: b"<html>404 not found</html>", "not a picture"),
    "200 million pixels": (lambda: png_of_size(20_000, 10_000), TOO_MANY_PIXELS),
    # As many as the largest poster of MM-IMDb has, which must not be refused for that.
    "175 million pixels promised": (
        lambda: png_of_size(17_500, 10_000),
        "image file is truncated (# bytes not processed)",
    ),
}
