"""Decoding posters of any kind to RGB. Beside the models because a saved processor needs it too."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError


def open_poster(source: str | Path | IO[bytes], min_side: int | None = None) -> Image.Image:
    """Decode a poster's first frame to 8-bit RGB, upright.

    Transparency is laid over white, 16-bit greys are scaled to 8 bits, EXIF rotation is applied.

    Args:
        source: Path or binary file.
        min_side: A JPEG may be decoded at a half, quarter or eighth of its size (several times
            faster) as long as its sides stay at least so many pixels. None decodes at full size.

    Raises:
        OSError: It is no picture, is truncated, or has more pixels than Pillow opens
            (twice `Image.MAX_IMAGE_PIXELS`, 179 million; posters of MM-IMDb reach 175).
    """
    with _opened(source) as picture:
        if min_side is not None:
            picture.draft("RGB", (min_side, min_side))
        picture.load()
        return to_rgb(picture)


def poster_size(source: str | Path | IO[bytes]) -> tuple[int, int]:
    """Width and height in pixels as the file's header has them; nothing is decoded.

    Raises:
        OSError: As `open_poster`, but what follows the header is not looked at.
    """
    with _opened(source) as picture:
        return picture.size


@contextmanager
def _opened(source: str | Path | IO[bytes]) -> Iterator[Image.Image]:
    """The picture with its header read; whatever Pillow raises meanwhile becomes an `OSError`."""
    try:
        with warnings.catch_warnings():
            # Large posters are expected here; above the limit Pillow raises.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(source) as picture:
                yield picture
    except UnidentifiedImageError as error:
        raise OSError("not a picture") from error
    # Pillow's decoders raise kinds of their own for broken headers
    except (OSError, SyntaxError, ValueError, TypeError, Image.DecompressionBombError) as error:
        raise OSError(" ".join(str(error).split()) or type(error).__name__) from error


def to_rgb(picture: Image.Image) -> Image.Image:
    """An opened picture as `open_poster` gives it."""
    if picture.getexif().get(ExifTags.Base.Orientation, 1) != 1:  # Pillow would copy it in any case
        picture = ImageOps.exif_transpose(picture)
    if picture.mode in ("I", "F") or picture.mode.startswith("I;16"):
        values = np.asarray(picture, dtype=np.float64)
        is_eight_bit = picture.mode in ("I", "F") and values.max(initial=0) <= 255
        scale = 1 if is_eight_bit else 65535 / 255
        return Image.fromarray((values / scale).clip(0, 255).astype(np.uint8)).convert("RGB")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        white = Image.new("RGBA", picture.size, "white")
        return Image.alpha_composite(white, picture).convert("RGB")
    return picture if picture.mode == "RGB" else picture.convert("RGB")
