"""How far a figure would move with other movies: bootstrap intervals and paired tests.

Movies are resampled. Every F1 is a function of sums over movies (`metrics.movie_counts`), so all
resamples together are one matrix product with the numbers of times that each movie was drawn.
Average precision is not such a sum: it takes a pass over the sorted movies a resample. So only its
standard deviation is taken from (fewer) resamples.

All of it is about movies only: what another seed of the training would give, it cannot say.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mmgenre.evaluation.metrics import checked, f1_from_counts, movie_counts, ratio

NUM_RESAMPLES = 10_000
NUM_MAP_RESAMPLES = 200
LEVEL = 0.95
# Resamples in memory at once; small matrices stay in the processor's cache.
_CHUNK = 128
# Differences of F1s that are equal on paper differ by less.
_ROUNDING = 1e-12
_NORMAL = NormalDist()

Interval = tuple[float, float]


@dataclass(frozen=True)
class Intervals:
    """Bootstrap intervals: of every metric by its name, and of each genre's F1."""

    overall: dict[str, Interval]
    per_genre: list[Interval]


def bootstrap_intervals(
    probabilities: ArrayLike,
    labels: ArrayLike,
    genres: Sequence[str],
    thresholds: float | Sequence[float] = 0.5,
    num_resamples: int = NUM_RESAMPLES,
    num_map_resamples: int = NUM_MAP_RESAMPLES,
    seed: int = 0,
) -> Intervals:
    """95 % intervals of what `compute_metrics` and `per_genre_metrics` give.

    F1s have BCa intervals (Efron 1987), since plain percentiles are too narrow for rare genres.
    Mean average precisions have the normal interval of their resamples' standard deviation.

    Args:
        probabilities: (num_movies, num_labels), in [0, 1].
        labels: (num_movies, num_labels), 0 or 1.
        genres: Names of the columns.
        thresholds: One for all genres, or one for each.

    Raises:
        ValueError: A shape, a probability, a label or a threshold is wrong.
    """
    scores, truth, cuts = checked(probabilities, labels, genres, thresholds)
    overall, per_genre = f1_intervals(movie_counts(scores > cuts, truth), num_resamples, seed)
    for name, ranking in (
        ("map_macro", _Ranking(scores, truth)),
        ("map_micro", _Ranking(scores.reshape(-1, 1), truth.reshape(-1, 1), truth.shape[1])),
    ):
        values = np.concatenate(
            [ranking.mean_ap(w) for w in _resamples(len(scores), num_map_resamples, seed)]
        )
        observed = ranking.mean_ap(np.ones((1, len(scores))))[0]
        margin = -_NORMAL.inv_cdf((1 - LEVEL) / 2) * values.std()
        overall[name] = (float(max(0, observed - margin)), float(min(1, observed + margin)))
    return Intervals(overall, per_genre)


def f1_intervals(
    counts: NDArray[np.float64], num_resamples: int = NUM_RESAMPLES, seed: int = 0
) -> tuple[dict[str, Interval], list[Interval]]:
    """BCa intervals of every F1 and of each genre's, from `movie_counts`."""
    num_movies = len(counts)
    sums = _resampled_sums(counts, num_resamples, seed)
    observed, observed_f1 = f1_from_counts(counts.sum(axis=0), num_movies)
    values, f1 = f1_from_counts(sums, num_movies)
    without, f1_without = f1_from_counts(counts.sum(axis=0) - counts, max(1, num_movies - 1))
    overall = {
        name: _interval(values[name], float(observed[name]), without[name]) for name in observed
    }
    per_genre = [
        _interval(*columns) for columns in zip(f1.T, observed_f1, f1_without.T, strict=True)
    ]
    return overall, per_genre


def difference_interval(
    counts: NDArray[np.float64],
    others: NDArray[np.float64],
    metric: str,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> Interval:
    """95 % interval of a metric's difference between two systems on the same movies.

    The bootstrap is paired: both systems are measured on the same resamples.

    Args:
        counts: `movie_counts` of the one system, movies in the same order as `others`.
        metric: Key of `f1_metrics`.
    """
    width = counts.shape[1]
    both = np.hstack([counts, others])

    def difference(sums: NDArray[np.float64], num_movies: int) -> NDArray[np.float64]:
        one, _ = f1_from_counts(sums[..., :width], num_movies)
        other, _ = f1_from_counts(sums[..., width:], num_movies)
        return one[metric] - other[metric]

    total = both.sum(axis=0)
    return _interval(
        difference(_resampled_sums(both, num_resamples, seed), len(both)),
        float(difference(total, len(both))),
        difference(total - both, max(1, len(both) - 1)),
    )


def permutation_test(
    counts: NDArray[np.float64],
    others: NDArray[np.float64],
    metric: str,
    num_permutations: int = NUM_RESAMPLES,
    seed: int = 0,
) -> float:
    """Two-sided p-value of a metric's difference between two systems on the same movies.

    Under the null hypothesis the systems are exchangeable movie by movie (approximate
    randomisation; Yeh 2000, "More accurate tests for the statistical significance of result
    differences"), so each permutation swaps them for a random half of the movies. The p-value
    counts the observed order among the permutations, so that it is never 0.

    Args:
        counts: `movie_counts` of the one system, movies in the same order as `others`.
        metric: Key of `f1_metrics`.
    """
    rng = np.random.default_rng(seed)
    num_movies, total = len(counts), (counts + others).sum(axis=0)

    def difference(sums: NDArray[np.float64]) -> NDArray[np.float64]:
        one, _ = f1_from_counts(sums, num_movies)
        other, _ = f1_from_counts(total - sums, num_movies)
        return one[metric] - other[metric]

    observed = abs(difference(counts.sum(axis=0)))
    as_large = 0
    for start in range(0, num_permutations, _CHUNK):
        size = min(_CHUNK, num_permutations - start)
        swapped = rng.integers(2, size=(size, num_movies), dtype=np.int8).astype(np.float64)
        differences = difference(counts.sum(axis=0) + swapped @ (others - counts))
        as_large += int((np.abs(differences) >= observed - _ROUNDING).sum())
    return (1 + as_large) / (1 + num_permutations)


def holm(p_values: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm 1979), in the order given."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p)
    steps = p[order] * np.arange(len(p), 0, -1)
    corrected = np.empty_like(p)
    corrected[order] = np.minimum(1, np.maximum.accumulate(steps))
    return corrected.tolist()


def _resamples(num_movies: int, num_resamples: int, seed: int) -> Iterator[NDArray[np.float64]]:
    """Chunks (resamples, num_movies) of how often each movie was drawn."""
    rng = np.random.default_rng(seed)
    for start in range(0, num_resamples, _CHUNK):
        size = min(_CHUNK, num_resamples - start)
        drawn = rng.integers(num_movies, size=(size, num_movies))
        drawn += np.arange(size)[:, None] * num_movies
        weights = np.bincount(drawn.ravel(), minlength=size * num_movies)
        yield weights.reshape(size, num_movies).astype(np.float64)


def _resampled_sums(
    counts: NDArray[np.float64], num_resamples: int, seed: int
) -> NDArray[np.float64]:
    return np.vstack([w @ counts for w in _resamples(len(counts), num_resamples, seed)])


def _interval(
    values: NDArray[np.float64], observed: float, without: NDArray[np.float64]
) -> Interval:
    """The BCa interval (Efron 1987) of a statistic.

    Args:
        values: The statistic on each resample.
        observed: On the movies themselves.
        without: Without each of the movies in turn.
    """
    below = np.mean(values < observed - _ROUNDING) + np.mean(values <= observed + _ROUNDING)
    bias = _NORMAL.inv_cdf(float(np.clip(below / 2, 0.5 / len(values), 1 - 0.5 / len(values))))
    deviations = without.mean() - without
    acceleration = float(ratio((deviations**3).sum(), 6 * (deviations**2).sum() ** 1.5))
    z = bias + np.array([1, -1]) * _NORMAL.inv_cdf((1 - LEVEL) / 2)
    low, high = np.quantile(
        values, [_NORMAL.cdf(bias + each / (1 - acceleration * each)) for each in z]
    )
    return float(low), float(high)


class _Ranking:
    """Average precision of weighted movies, for columns that are sorted once.

    Args:
        scores: (num_rows, num_columns).
        truth: The same shape.
        rows_per_movie: Successive rows that belong to one movie.
    """

    def __init__(
        self, scores: NDArray[np.float64], truth: NDArray[np.bool_], rows_per_movie: int = 1
    ) -> None:
        self.columns = []
        for column in np.flatnonzero(truth.any(axis=0)):
            order = np.argsort(-scores[:, column], kind="stable")
            ranked = scores[order, column]
            positives = np.flatnonzero(truth[order, column])
            # scikit-learn's definition counts equal scores as one step: precision at its end
            ends = np.searchsorted(-ranked, -ranked[positives], side="right") - 1
            hit_ends = np.searchsorted(positives, ends, side="right") - 1
            self.columns.append((order // rows_per_movie, positives, ends, hit_ends))

    def mean_ap(self, weights: NDArray[np.float64]) -> NDArray[np.float64]:
        """(resamples,), the mean over the columns that have a positive in the resample.

        Args:
            weights: (resamples, num_movies).
        """
        total, there = np.zeros(len(weights)), np.zeros(len(weights))
        for movies, positives, ends, hit_ends in self.columns:
            predicted = np.cumsum(weights.take(movies, axis=1), axis=1).take(ends, axis=1)
            own = weights.take(movies[positives], axis=1)
            hits = np.cumsum(own, axis=1)
            precision = ratio(hits.take(hit_ends, axis=1), predicted)
            total += ratio((own * precision).sum(axis=1), hits[:, -1])
            there += hits[:, -1] > 0
        return ratio(total, there)
