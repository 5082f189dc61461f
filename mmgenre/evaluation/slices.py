"""Figures of parts of a split: by plot length, year, number of genres and frequency of genre."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmgenre.evaluation.metrics import checked, f1_metrics

# Attribute of a movie to its lower bounds; movies below the first, and without it, are apart.
_BOUNDS = {
    "plot_words": (1, 50, 100, 200),
    "year": (1930, 1950, 1970, 1990, 2000, 2010),
    "num_genres": (1, 2, 3, 4),
}


def movie_attributes(records: Sequence[Any]) -> dict[str, list[int | None]]:
    """What movies are sliced by, beside their labels: `plot_words` and `year`.

    Args:
        records: Movies with `plot` and `year`.
    """
    return {
        "plot_words": [len((record.plot or "").split()) for record in records],
        "year": [record.year for record in records],
    }


def slice_metrics(
    probabilities: ArrayLike,
    labels: ArrayLike,
    genres: Sequence[str],
    thresholds: float | Sequence[float],
    attributes: Mapping[str, Sequence[int | None]],
) -> list[dict[str, Any]]:
    """The F1s of every slice that is not empty.

    Args:
        probabilities: (num_movies, num_labels), in [0, 1].
        labels: (num_movies, num_labels), 0 or 1.
        genres: Names of the columns.
        thresholds: One for all genres, or one for each.
        attributes: From `movie_attributes`.

    Returns:
        A row a slice: `by`, `slice`, `movies`, `genres` (those that have a positive in the slice),
        `positives`, `f1_micro` over all pairs of the slice, and `f1_macro` over these genres.

    Raises:
        ValueError: A shape, a probability, a label or a threshold is wrong.
    """
    scores, truth, cuts = checked(probabilities, labels, genres, thresholds)
    predicted = scores > cuts
    rows = []
    values = {**attributes, "num_genres": truth.sum(axis=1).tolist()}
    for by, bounds in _BOUNDS.items():
        for name, movies in _between(values[by], bounds):
            rows.append({"by": by, "slice": name, **_row(predicted[movies], truth[movies])})
    for name, columns in _thirds(truth.sum(axis=0)):
        row = _row(predicted[:, columns], truth[:, columns])
        rows.append({"by": "genre_frequency", "slice": name, **row})
    return [row for row in rows if row["movies"]]


def _row(predicted: NDArray[np.bool_], truth: NDArray[np.bool_]) -> dict[str, Any]:
    there = truth.any(axis=0)
    f1 = f1_metrics(predicted, truth) if truth.size else {"f1_micro": 0.0}
    return {
        "movies": len(truth),
        "genres": int(there.sum()),
        "positives": int(truth.sum()),
        "f1_micro": f1["f1_micro"],
        "f1_macro": f1_metrics(predicted[:, there], truth[:, there])["f1_macro"]
        if there.any()
        else None,
    }


def _between(
    values: Sequence[int | None], bounds: Sequence[int]
) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    numbers = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
    yield "unknown", np.isnan(numbers)
    yield "0" if bounds[0] == 1 else f"below {bounds[0]}", numbers < bounds[0]
    for low, high in zip(bounds, bounds[1:], strict=False):
        name = f"{low}" if high == low + 1 else f"{low} to {high - 1}"
        yield name, (low <= numbers) & (numbers < high)
    yield f"{bounds[-1]} and above", numbers >= bounds[-1]


def _thirds(support: NDArray[np.int_]) -> Iterator[tuple[str, NDArray[np.intp]]]:
    """The columns of the rare, middle and frequent third of the genres that have a positive."""
    order = np.argsort(support, kind="stable")
    order = order[support[order] > 0]
    for name, columns in zip(("rare", "middle", "frequent"), np.array_split(order, 3), strict=True):
        if len(columns):
            low, high = support[columns[0]], support[columns[-1]]
            yield f"{name} ({low} to {high} movies)", columns
