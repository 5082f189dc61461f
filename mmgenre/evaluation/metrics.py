"""Multi-label metrics: arrays in, floats out.

Definitions are scikit-learn's with `zero_division=0`. A genre is predicted where its probability is
strictly above its threshold, as in the report. All sums are in float64.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import average_precision_score


def compute_metrics(
    probabilities: ArrayLike,
    labels: ArrayLike,
    genres: Sequence[str],
    thresholds: float | Sequence[float] = 0.5,
) -> dict[str, float]:
    """The metrics of a whole split.

    Args:
        probabilities: (num_movies, num_labels), in [0, 1].
        labels: (num_movies, num_labels), 0 or 1.
        genres: Names of the columns.
        thresholds: One for all genres, or one for each.

    Returns:
        `f1_micro`, `f1_macro`, `f1_weighted`, `f1_samples`; `map_macro`, the mean average precision
        over the genres that have a positive, which is what papers call mAP; and `map_micro`. The
        last two are 0 where no genre has a positive.

    Raises:
        ValueError: A shape, a probability, a label or a threshold is wrong.
    """
    scores, truth, cuts = checked(probabilities, labels, genres, thresholds)
    average_precisions = [
        value for value in _average_precisions(scores, truth) if value is not None
    ]
    return {
        **f1_metrics(scores > cuts, truth),
        "map_macro": float(np.mean(average_precisions)) if average_precisions else 0.0,
        "map_micro": float(average_precision_score(truth.ravel(), scores.ravel()))
        if average_precisions
        else 0.0,
    }


def per_genre_metrics(
    probabilities: ArrayLike,
    labels: ArrayLike,
    genres: Sequence[str],
    thresholds: float | Sequence[float] = 0.5,
) -> list[dict[str, Any]]:
    """The metrics of each genre, in the order of `genres`. Arguments as in `compute_metrics`.

    Returns:
        A row a genre: `genre`, `precision`, `recall`, `f1`, `average_precision` (None where the
        genre has no positive), `support` (its positives) and `threshold`.

    Raises:
        ValueError: A shape, a probability, a label or a threshold is wrong.
    """
    scores, truth, cuts = checked(probabilities, labels, genres, thresholds)
    predicted = scores > cuts
    hits = (predicted & truth).sum(axis=0)
    support = truth.sum(axis=0)
    columns = {
        "genre": list(genres),
        "precision": ratio(hits, predicted.sum(axis=0)).tolist(),
        "recall": ratio(hits, support).tolist(),
        "f1": _f1(predicted, truth, axis=0).tolist(),
        "average_precision": _average_precisions(scores, truth),
        "support": support.tolist(),
        "threshold": cuts.tolist(),
    }
    return [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]


def f1_metrics(predicted: NDArray[np.bool_], truth: NDArray[np.bool_]) -> dict[str, float]:
    """`f1_micro`, `f1_macro`, `f1_weighted` and `f1_samples` of decisions.

    Args:
        predicted: (num_movies, num_labels).
        truth: (num_movies, num_labels).
    """
    sums = movie_counts(predicted, truth).sum(axis=0)
    metrics, _ = f1_from_counts(sums, len(truth))
    return {name: float(value) for name, value in metrics.items()}


def movie_counts(predicted: NDArray[np.bool_], truth: NDArray[np.bool_]) -> NDArray[np.float64]:
    """What each movie adds to the sums that every F1 is a function of.

    Returns:
        (num_movies, 3 * num_labels + 1): hits, predictions plus positives, and positives of each
        genre, and the movie's own F1.
    """
    sizes = predicted.astype(np.float64) + truth
    own = _f1(predicted, truth, axis=1)[:, None]
    return np.hstack([predicted & truth, sizes, truth, own])


def f1_from_counts(
    sums: NDArray[np.float64], num_movies: int
) -> tuple[dict[str, NDArray[np.float64]], NDArray[np.float64]]:
    """The F1s of weighted sums of `movie_counts`, such as those of a resample.

    Args:
        sums: (..., 3 * num_labels + 1).
        num_movies: What the weights add up to.

    Returns:
        Metric to its values (...), and the F1 of each genre (..., num_labels).
    """
    hits, sizes, support = np.split(sums[..., :-1], 3, axis=-1)
    f1 = ratio(2 * hits, sizes)
    metrics = {
        "f1_micro": ratio(2 * hits.sum(-1), sizes.sum(-1)),
        "f1_macro": f1.mean(-1),
        "f1_weighted": ratio((f1 * support).sum(-1), support.sum(-1)),
        "f1_samples": sums[..., -1] / num_movies,
    }
    return metrics, f1


def checked(
    probabilities: ArrayLike,
    labels: ArrayLike,
    genres: Sequence[str],
    thresholds: float | Sequence[float] = 0.5,
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]]:
    """Probabilities and labels, both (num_movies, num_labels), and thresholds, (num_labels,).

    Raises:
        ValueError: A shape, a probability, a label or a threshold is wrong.
    """
    # Rows together in memory, so that sums have one order and the same data the same last bit.
    scores = np.ascontiguousarray(probabilities, dtype=np.float64)
    truth = np.ascontiguousarray(labels)
    if scores.ndim != 2 or len(scores) == 0 or scores.shape[1] != len(genres) or not len(genres):
        raise ValueError(
            f"probabilities have shape {scores.shape}; a row for each of at least one movie and a "
            f"column for each of the {len(genres)} genres is needed"
        )
    if truth.shape != scores.shape:
        raise ValueError(
            f"labels have shape {truth.shape}; that of the probabilities, {scores.shape}, is needed"
        )
    # Written so that NaN fails it too.
    for name, values, wrong, right in (
        ("probabilities", scores, ~((scores >= 0) & (scores <= 1)), "a number from 0 to 1"),
        ("labels", truth, ~((truth == 0) | (truth == 1)), "0 or 1"),
    ):
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            raise ValueError(
                f"{name} hold {values[row, column]} for movie {row}, genre {genres[column]!r}; "
                f"{right} is needed"
            )
    cuts = np.asarray(thresholds, dtype=np.float64)
    if cuts.shape not in ((), (len(genres),)) or np.isnan(cuts).any():
        raise ValueError(
            f"thresholds are {thresholds}; one number, or one for each of the {len(genres)} genres "
            "is needed"
        )
    return scores, truth == 1, np.broadcast_to(cuts, len(genres))


def ratio(numerator: ArrayLike, denominator: ArrayLike) -> NDArray[np.float64]:
    """Element by element; 0 where the denominator is 0."""
    numerator, denominator = np.asarray(numerator, dtype=np.float64), np.asarray(denominator)
    return np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator != 0)


def _f1(
    predicted: NDArray[np.bool_], truth: NDArray[np.bool_], axis: int | None
) -> NDArray[np.float64]:
    """F1 along an axis, or of all together.

    Not `sklearn.metrics.f1_score`, which takes a single column for a binary problem: its micro F1
    is then the accuracy, and it has no F1 by samples.
    """
    hits = (predicted & truth).sum(axis=axis)
    return ratio(2 * hits, predicted.sum(axis=axis) + truth.sum(axis=axis))


def _average_precisions(
    scores: NDArray[np.float64], truth: NDArray[np.bool_]
) -> list[float | None]:
    """One for each genre; None where it has no positive."""
    return [
        float(average_precision_score(truth[:, column], scores[:, column]))
        if truth[:, column].any()
        else None
        for column in range(truth.shape[1])
    ]
