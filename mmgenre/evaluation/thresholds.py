"""Decision thresholds: 0.5, one for all genres, or one for each, fitted on validation movies only.

A fitted threshold is the exact optimum: of all cuts between two neighbouring probabilities, the one
with the highest F1, and of several the one nearest to 0.5. One global threshold maximises macro F1;
one a genre maximises that genre's F1, and with it macro F1 as well.

An optimum over few positives is mostly noise (Lipton et al. 2014, "Optimal Thresholding of
Classifiers to Maximize F1 Measure", section 5), so a genre's own threshold is shrunk towards the
global one: with n positives it weighs n / (n + 20), the m-estimate of Cestnik 1990 with m = 20. At
20 positives a 95 % interval of a genre's F1 is about 0.4 wide, wider than what a threshold gains. A
genre without a positive keeps the global threshold.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmgenre.evaluation.metrics import checked, f1_metrics, ratio

DEFAULT_THRESHOLD = 0.5
# Positives at which a genre's own threshold and the global one weigh the same.
SHRINKAGE = 20
NUM_FOLDS = 5

Method = Literal["0.5", "global", "per_genre"]
METHODS: tuple[Method, ...] = ("0.5", "global", "per_genre")


def fit_thresholds(
    probabilities: ArrayLike, labels: ArrayLike, genres: Sequence[str], method: Method
) -> list[float] | None:
    """One threshold a genre, from validation movies.

    Args:
        probabilities: (num_movies, num_labels), in [0, 1].
        labels: (num_movies, num_labels), 0 or 1.
        genres: Names of the columns.

    Returns:
        What a model's config holds as `thresholds`: None for the method `0.5`.

    Raises:
        ValueError: A shape, a probability or a label is wrong.
    """
    scores, truth, _ = checked(probabilities, labels, genres)
    return None if method == "0.5" else _fit(scores, truth, method).tolist()


def cross_validate(
    probabilities: ArrayLike, labels: ArrayLike, genres: Sequence[str], seed: int = 0
) -> dict[str, dict[str, float]]:
    """What each method is worth on movies that its thresholds were not fitted on.

    The movies are dealt to `NUM_FOLDS` folds; each is decided with the thresholds of the others.

    Returns:
        Method to `f1_metrics` of all out-of-fold decisions together. Arguments and errors as in
        `fit_thresholds`; too few movies for folds give an empty mapping.
    """
    scores, truth, _ = checked(probabilities, labels, genres)
    if len(scores) < NUM_FOLDS:
        return {}
    folds = deal_folds(len(scores), seed)
    figures: dict[str, dict[str, float]] = {}
    for method in METHODS:
        predicted = np.empty_like(truth)
        for fold in range(NUM_FOLDS):
            held_out = folds == fold
            predicted[held_out] = scores[held_out] > _fit(
                scores[~held_out], truth[~held_out], method
            )
        figures[method] = f1_metrics(predicted, truth)
    return figures


def deal_folds(num_movies: int, seed: int) -> NDArray[np.int_]:
    """(num_movies,), the fold of each movie, at random and of equal sizes up to one movie."""
    return np.random.default_rng(seed).permutation(num_movies) % NUM_FOLDS


def describe_thresholds(thresholds: Sequence[float] | None) -> str:
    """For a report: which of the three kinds they are, and their values."""
    if thresholds is None:
        return f"{DEFAULT_THRESHOLD}"
    low, high = min(thresholds), max(thresholds)
    return f"global, {low:.3f}" if low == high else f"per genre, {low:.3f} to {high:.3f}"


def _fit(
    scores: NDArray[np.float64], truth: NDArray[np.bool_], method: Method
) -> NDArray[np.float64]:
    num_genres = truth.shape[1]
    if method == "0.5":
        return np.full(num_genres, DEFAULT_THRESHOLD)
    overall = _best_cut(scores, truth)
    if method == "global":
        return np.full(num_genres, overall)
    own = np.array(
        [_best_cut(scores[:, [genre]], truth[:, [genre]]) for genre in range(num_genres)]
    )
    support = truth.sum(axis=0)
    return overall + (own - overall) * support / (support + SHRINKAGE)


def _best_cut(scores: NDArray[np.float64], truth: NDArray[np.bool_]) -> float:
    """The cut with the highest mean F1 over the columns; 0.5 where no column has a positive.

    As a cut sinks past a score, only the F1 of that score's genre changes; so all cuts' mean F1s
    are one running sum of these changes, in the order of the scores of all genres.
    """
    if not truth.any():
        return DEFAULT_THRESHOLD
    order = np.argsort(-scores, axis=0)
    hits = np.cumsum(np.take_along_axis(truth, order, axis=0), axis=0)
    predicted = np.arange(1, len(scores) + 1)[:, None]
    f1 = ratio(2 * hits, predicted + truth.sum(axis=0))
    changes = np.diff(f1, axis=0, prepend=0.0)

    values = np.take_along_axis(scores, order, axis=0).ravel()
    merged = np.argsort(-values, kind="stable")
    values, means = values[merged], np.cumsum(changes.ravel()[merged]) / truth.shape[1]
    # A cut lies below a score and above the next smaller one; below the last of equal scores.
    lower = np.append(values[1:], 0.0)
    is_cut = lower < values
    values, lower, means = values[is_cut], lower[is_cut], means[is_cut]
    middle = (lower + values) / 2
    cuts = np.where(middle < values, middle, lower)  # neighbouring floats have no middle
    # Running sums of the same F1s in another order differ in the last bits.
    best = cuts[means >= means.max() - 1e-12] if len(cuts) else np.array([DEFAULT_THRESHOLD])
    return float(best[np.argmin(np.abs(best - DEFAULT_THRESHOLD))])
