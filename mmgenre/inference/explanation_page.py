"""What an explanation leaves on disk: a page, a picture and the numbers.

<folder>/
  explanation.html    one file, without a script or another file
  explanation.png
  explanation.json
"""

import io
import json
from base64 import b64encode
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from PIL import Image

from mmgenre.constants import (
    EXPLANATION_DATA_FILE,
    EXPLANATION_FIGURE_FILE,
    EXPLANATION_FILE,
)
from mmgenre.evaluation.plots import PALETTE
from mmgenre.inference.explain import Explanation, GenreExplanation, Word
from mmgenre.utils.errors import UserError
from mmgenre.utils.io import replace_file

# For a genre and against it; told apart by the colour-blind as well.
_FOR, _AGAINST = (tuple(bytes.fromhex(PALETTE[name][0][1:])) for name in ("blue", "orange"))
_STRONGEST = 0.6  # opacity
_WORDS_IN_FIGURE = 12
_PICTURE_SIDE = 320


def write_explanation(explanation: Explanation, folder: Path) -> None:
    """Write the three files.

    Raises:
        UserError: matplotlib is missing, or a file cannot be written.
    """
    contents = {
        EXPLANATION_FILE: render_page(explanation).encode(),
        EXPLANATION_FIGURE_FILE: draw_figure(explanation),
        EXPLANATION_DATA_FILE: json.dumps(to_json(explanation), indent=2).encode(),
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in contents.items():
            replace_file(folder / name, content)
    except OSError as error:
        raise UserError(f"output {str(folder)!r} cannot be written ({error.strerror})") from error


def render_page(explanation: Explanation) -> str:
    """The page; plots and genres are other people's text, and escaped."""
    environment = Environment(
        loader=PackageLoader("mmgenre.inference", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("explanation.html.jinja").render(
        palette=PALETTE,
        explanation=explanation,
        genres=[
            {
                "explained": explained,
                "overlay": _overlay_address(explanation, explained),
                "pieces": list(_pieces(explanation.plot, explained.words)),
            }
            for explained in explanation.genres
        ],
    )


def to_json(explanation: Explanation) -> dict[str, Any]:
    """The numbers, as JSON can hold them."""
    return {
        "plot": explanation.plot,
        "fusion": explanation.fusion,
        "genres": [
            {
                **vars(explained),
                "words": [vars(word) for word in explained.words],
                "regions": None if explained.regions is None else explained.regions.tolist(),
            }
            for explained in explanation.genres
        ],
    }


def overlay(picture: Image.Image, regions: np.ndarray) -> Image.Image:
    """A poster with its regions in blue as far as they speak for a genre, orange against."""
    size = (_PICTURE_SIDE, _PICTURE_SIDE)
    strength = _opacity(regions, np.abs(regions).max())
    colors = np.where(regions[..., None] > 0, _FOR, _AGAINST)
    heat = np.concatenate([colors, np.abs(strength)[..., None] * 255], axis=-1).astype(np.uint8)
    layer = Image.fromarray(heat, "RGBA").resize(size, Image.Resampling.NEAREST)
    grey = picture.convert("L").resize(size, Image.Resampling.BILINEAR).convert("RGBA")
    return Image.alpha_composite(grey, layer).convert("RGB")


def _opacity(scores: Any, strongest: float) -> Any:
    """In [-_STRONGEST, _STRONGEST]; the sign is the scores'."""
    return _STRONGEST * scores / (strongest or 1.0)


def _overlay_address(explanation: Explanation, explained: GenreExplanation) -> str | None:
    if explanation.picture is None or explained.regions is None:
        return None
    file = io.BytesIO()
    overlay(explanation.picture, explained.regions).save(file, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{b64encode(file.getvalue()).decode()}"


def _pieces(plot: str | None, words: Sequence[Word]) -> Iterator[tuple[str, str | None]]:
    """The plot in pieces with a CSS colour each; None between words and where it was cut off."""
    strongest = max((abs(word.score) for word in words), default=0.0)
    at = 0
    for word in words:
        assert plot is not None
        yield plot[at : word.start], None
        red, green, blue = _FOR if word.score > 0 else _AGAINST
        opacity = abs(_opacity(word.score, strongest))
        yield plot[word.start : word.end], f"rgb({red} {green} {blue} / {opacity:.2f})"
        at = word.end
    yield (plot or "")[at:], None


def draw_figure(explanation: Explanation) -> bytes:
    """A PNG with a row a genre: poster, strongest words, and what poster and plot add.

    Raises:
        UserError: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError("explaining needs matplotlib; pip install 'mmgenre[explain]'") from error
    rows = len(explanation.genres)
    figure = Figure(figsize=(11, 3.4 * rows), dpi=110, layout="constrained")
    axes = figure.subplots(rows, 3, squeeze=False, width_ratios=(1, 1.3, 1.3))
    for (left, middle, right), explained in zip(axes, explanation.genres, strict=True):
        left.set_title(_plain(f"{explained.genre}: {explained.probability:.2f}"), loc="left")
        left.set_axis_off()
        if explanation.picture is not None and explained.regions is not None:
            left.imshow(np.asarray(overlay(explanation.picture, explained.regions)))
        words = sorted(explained.words, key=lambda word: -abs(word.score))[:_WORDS_IN_FIGURE]
        texts = [_plain((explanation.plot or "")[w.start : w.end][:24]) for w in words]
        _draw_bars(middle, texts, [word.score for word in words], "strongest words, logit")
        names = ["neither", *explained.contributions]
        values = [explained.prior, *explained.contributions.values()]
        _draw_bars(right, names, values, "what makes the probability")
    file = io.BytesIO()
    figure.savefig(file, format="png", metadata={"Software": None})
    return file.getvalue()


def _draw_bars(axes: Any, names: Sequence[str], values: Sequence[float], title: str) -> None:
    colors = [np.array(_FOR if value > 0 else _AGAINST) / 255 for value in values]
    places = range(len(values))
    axes.barh(places, values, color=colors)
    axes.set_yticks(places, names)
    axes.invert_yaxis()
    axes.axvline(0, color=PALETTE["muted"][0], linewidth=0.8)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.set_title(title, loc="left", fontsize=10)


def _plain(text: str) -> str:
    """As matplotlib shows it literally: it reads formulas between dollar signs."""
    return text.replace("$", r"\$")
