"""Whether a probability is a frequency: reliability bins, expected calibration error, temperature.

Every (movie, genre) pair is one binary forecast: its probability against whether the movie has the
genre. The expected calibration error is the mean over all forecasts of |mean probability - share of
positives| of the forecast's bin (Naeini et al. 2015; Guo et al. 2017, "On Calibration of Modern
Neural Networks"), with 15 bins of equal width as in Guo et al.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmgenre.evaluation.metrics import checked
from mmgenre.evaluation.thresholds import NUM_FOLDS, deal_folds

NUM_BINS = 15
# Temperatures that are looked at; a model that orders all pairs rightly has no best one.
_LIMITS = (0.01, 100.0)
# Logits of probabilities that are 0 or 1 in float64 are not finite.
_MARGIN = 1e-12


def reliability(probabilities: ArrayLike, labels: ArrayLike) -> list[dict[str, Any]]:
    """The bins of a reliability diagram, pooled over whatever shape is given.

    Returns:
        A row a bin that is not empty: `low` and `high` (`low` < probability <= `high`, except for
        the first, which has 0 as well), `count`, `probability` (mean) and `positives` (share).
    """
    scores, truth = np.ravel(np.asarray(probabilities)), np.ravel(np.asarray(labels))
    bins = _bins(scores)
    count, score_sum, positives = (
        np.bincount(bins, weights=values, minlength=NUM_BINS)
        for values in (np.ones_like(scores), scores, truth)
    )
    return [
        {
            "low": index / NUM_BINS,
            "high": (index + 1) / NUM_BINS,
            "count": int(count[index]),
            "probability": float(score_sum[index] / count[index]),
            "positives": float(positives[index] / count[index]),
        }
        for index in np.flatnonzero(count)
    ]


def expected_calibration_error(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Pooled over whatever shape is given; one column of it is a genre's own."""
    scores, truth = np.ravel(np.asarray(probabilities)), np.ravel(np.asarray(labels))
    gaps = np.bincount(_bins(scores), weights=scores - truth, minlength=NUM_BINS)
    return float(np.abs(gaps).sum() / len(scores))


def fit_temperature(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """The number that logits are divided by for the least cross-entropy, from validation movies.

    One for all genres (Guo et al. 2017). The cross-entropy is convex in 1 / temperature, so that
    bisection finds where its slope is 0, between 0.01 and 100.
    """
    logits, truth = _logits(probabilities), np.asarray(labels, dtype=np.float64)
    low, high = (float(np.log(1 / limit)) for limit in reversed(_LIMITS))
    for _ in range(60):
        middle = (low + high) / 2
        slope = (logits * (_sigmoid(logits * np.exp(middle)) - truth)).sum()
        low, high = (middle, high) if slope < 0 else (low, middle)
    return float(np.exp(-low))


def apply_temperature(probabilities: ArrayLike, temperature: float) -> NDArray[np.float64]:
    """The probabilities of logits that were divided by `temperature`."""
    return _sigmoid(_logits(probabilities) / temperature)


def calibration(
    probabilities: ArrayLike,
    labels: ArrayLike,
    genres: Sequence[str],
    fit: bool,
    seed: int = 0,
) -> dict[str, Any]:
    """What a report says of a split.

    Args:
        probabilities: (num_movies, num_labels), in [0, 1].
        labels: (num_movies, num_labels), 0 or 1.
        genres: Names of the columns.
        fit: Whether these are validation movies, which alone may give a temperature.

    Returns:
        `ece` (pooled over all genres) and `reliability`; with `fit` also `temperature`, and
        `ece_with_temperature`, where each fold of movies has the temperature of the others.

    Raises:
        ValueError: A shape, a probability or a label is wrong.
    """
    scores, truth, _ = checked(probabilities, labels, genres)
    figures: dict[str, Any] = {
        "ece": expected_calibration_error(scores, truth),
        "reliability": reliability(scores, truth),
    }
    if fit and len(scores) >= NUM_FOLDS:
        folds = deal_folds(len(scores), seed)
        out_of_fold = np.empty_like(scores)
        for fold in range(NUM_FOLDS):
            held_out = folds == fold
            temperature = fit_temperature(scores[~held_out], truth[~held_out])
            out_of_fold[held_out] = apply_temperature(scores[held_out], temperature)
        figures["temperature"] = fit_temperature(scores, truth)
        figures["ece_with_temperature"] = expected_calibration_error(out_of_fold, truth)
    return figures


def _bins(scores: NDArray[np.float64]) -> NDArray[np.intp]:
    return np.clip(np.ceil(scores * NUM_BINS).astype(np.intp) - 1, 0, NUM_BINS - 1)


def _logits(probabilities: ArrayLike) -> NDArray[np.float64]:
    scores = np.clip(np.asarray(probabilities, dtype=np.float64), _MARGIN, 1 - _MARGIN)
    return np.log(scores) - np.log1p(-scores)


def _sigmoid(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.exp(-np.logaddexp(0, -logits))
