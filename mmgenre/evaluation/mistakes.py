"""The most confident errors, with what a person needs to judge them: poster, plot, genres."""

import io
from base64 import b64encode
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmgenre.evaluation.predictions import Predictions

NUM_MISTAKES = 6  # of each kind
_PLOT_CHARACTERS = 280
_THUMBNAIL = (192, 288)  # pixels; shown at half of it


@dataclass(frozen=True)
class Mistake:
    """A movie and the genre that was wrongly predicted for it, or missed.

    Attributes:
        true: The movie's genres.
        predicted: Those that were predicted.
        plot: Cut; None where the movie has none.
        poster: A small JPEG as a `data:` address; None where there is no poster that decodes.
    """

    genre: str
    probability: float
    threshold: float
    id: str
    title: str
    year: int | None
    true: list[str]
    predicted: list[str]
    plot: str | None
    poster: str | None


def find_mistakes(
    predictions: Predictions, records: Sequence[Any], decode: Callable[..., Any]
) -> dict[str, list[Mistake]]:
    """The wrong decisions whose probability is farthest from the truth, one a movie.

    Args:
        records: Movies with `title`, `year`, `plot` and `poster`, in the order of the predictions.
        decode: Makes an RGB picture of a file of poster bytes and a least side in pixels, or
            raises OSError.

    Returns:
        `predicted` and `missed`, the worst first.
    """
    truth, names = predictions.labels == 1, np.array(predictions.genres)
    decided = predictions.probabilities > np.array(predictions.cuts)

    def describe(movie: int, genre: int) -> Mistake:
        record = records[movie]
        return Mistake(
            genre=predictions.genres[genre],
            probability=float(predictions.probabilities[movie, genre]),
            threshold=predictions.cuts[genre],
            id=predictions.ids[movie],
            title=record.title or predictions.ids[movie],
            year=record.year,
            true=names[truth[movie]].tolist(),
            predicted=names[decided[movie]].tolist(),
            plot=_cut(record.plot),
            poster=_thumbnail(record.poster, decode),
        )

    distance = np.abs(predictions.probabilities - truth)
    return {
        kind: [describe(*place) for place in _farthest(distance, wrong)]
        for kind, wrong in (("predicted", decided & ~truth), ("missed", truth & ~decided))
    }


def _farthest(distance: NDArray[np.float64], wrong: NDArray[np.bool_]) -> Iterator[tuple[int, int]]:
    """(movie, genre) of the largest distance of each movie, the largest first."""
    worst = np.where(wrong, distance, -1.0)
    genre = worst.argmax(axis=1)
    largest = worst.max(axis=1)
    for movie in np.argsort(-largest, kind="stable")[:NUM_MISTAKES]:
        if largest[movie] >= 0:
            yield int(movie), int(genre[movie])


def _cut(plot: str | None) -> str | None:
    text = " ".join((plot or "").split())
    if len(text) > _PLOT_CHARACTERS:
        text = text[: _PLOT_CHARACTERS - 1].rstrip() + "…"
    return text or None


def _thumbnail(poster: Any, decode: Callable[..., Any]) -> str | None:
    if poster is None:
        return None
    try:
        picture = decode(io.BytesIO(poster.read()), max(_THUMBNAIL))
    except OSError:  # counted and named before
        return None
    picture.thumbnail(_THUMBNAIL)
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{b64encode(file.getvalue()).decode()}"
