"""Intervals and tests on data whose truth is known, and against plain loops."""

from statistics import NormalDist

import numpy as np
import pytest
from sklearn.metrics import f1_score

from mmgenre.evaluation import significance
from mmgenre.evaluation.metrics import compute_metrics, movie_counts, per_genre_metrics
from mmgenre.evaluation.significance import (
    bootstrap_intervals,
    difference_interval,
    f1_intervals,
    holm,
    permutation_test,
)

# Genres from frequent to rare: share of movies, recall, and false positives' share of the rest.
SHARE = np.array([0.5, 0.3, 0.2, 0.1, 0.05])
RECALL = np.array([0.8, 0.7, 0.6, 0.5, 0.6])
FALSE_ALARM = np.array([0.2, 0.1, 0.08, 0.05, 0.02])


def draw(num_movies: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    labels = rng.random((num_movies, len(SHARE))) < SHARE
    return rng.random(labels.shape) < np.where(labels, RECALL, FALSE_ALARM), labels


def true_f1s() -> tuple[dict[str, float], np.ndarray]:
    """F1 of infinitely many movies: hits, predictions and positives are their expectations."""
    hits, predicted = SHARE * RECALL, SHARE * RECALL + (1 - SHARE) * FALSE_ALARM
    f1 = 2 * hits / (predicted + SHARE)
    own = movie_counts(*draw(2_000_000, np.random.default_rng(9)))[:, -1].mean()
    return {
        "f1_micro": 2 * hits.sum() / (predicted + SHARE).sum(),
        "f1_macro": f1.mean(),
        "f1_weighted": (f1 * SHARE).sum() / SHARE.sum(),
        "f1_samples": own,
    }, f1


@pytest.mark.parametrize(
    "num_sets", [600, pytest.param(6000, marks=pytest.mark.slow)], ids=["quick", "full"]
)
def test_95_percent_intervals_cover_the_truth_in_95_percent(num_sets: int) -> None:
    overall, per_genre = true_f1s()
    rng = np.random.default_rng(0)
    covered = dict.fromkeys(overall, 0)
    covered_genres = np.zeros(len(SHARE))
    for seed in range(num_sets):
        counts = movie_counts(*draw(400, rng))
        intervals, genres = f1_intervals(counts, num_resamples=600, seed=seed)
        for name, (low, high) in intervals.items():
            covered[name] += low <= overall[name] <= high
        covered_genres += [
            low <= f1 <= high for (low, high), f1 in zip(genres, per_genre, strict=True)
        ]
    rates = {name: count / num_sets for name, count in covered.items()}
    rates |= {f"genre {i}": rate for i, rate in enumerate(covered_genres / num_sets)}
    assert all(0.93 <= rate <= 0.97 for rate in rates.values()), rates


@pytest.mark.slow
def test_map_intervals_cover_the_truth() -> None:
    """Looser: they are normal intervals, from a standard deviation that resampling ties widens."""

    def draw_scores(num_movies: int) -> tuple[np.ndarray, np.ndarray]:
        labels = rng.random((num_movies, 4)) < [0.5, 0.2, 0.1, 0.05]
        return 1 / (1 + np.exp(1 - 1.5 * labels - rng.normal(size=labels.shape))), labels

    rng = np.random.default_rng(1)
    truth = compute_metrics(*draw_scores(1_000_000), "abcd")
    covered = {"map_macro": 0, "map_micro": 0}
    for seed in range(500):
        intervals = bootstrap_intervals(*draw_scores(500), "abcd", num_resamples=10, seed=seed)
        for name in covered:
            low, high = intervals.overall[name]
            covered[name] += low <= truth[name] <= high
    assert all(0.92 <= count / 500 <= 0.98 for count in covered.values()), covered


@pytest.fixture
def small_case() -> tuple[np.ndarray, np.ndarray]:
    """Forty movies with tied probabilities; the last genre has no positive."""
    rng = np.random.default_rng(0)
    labels = rng.random((40, 3)) < [0.5, 0.2, 0.0]
    return np.clip(0.3 * labels + 0.7 * rng.random((40, 3)), 0, 1).round(1), labels.astype(int)


def drawn_movies(num_movies: int, num_resamples: int, seed: int) -> list[np.ndarray]:
    """The resamples as lists of movies."""
    chunks = significance._resamples(num_movies, num_resamples, seed)
    return [np.repeat(np.arange(num_movies), row.astype(int)) for chunk in chunks for row in chunk]


def test_intervals_are_those_of_a_plain_loop(small_case) -> None:
    scores, labels = small_case
    cuts = [0.4, 0.3, 0.5]
    intervals = bootstrap_intervals(scores, labels, "abc", cuts, 300, 50, seed=3)
    draws = drawn_movies(40, 300, seed=3)
    assert {len(movies) for movies in draws} == {40}

    def statistics(movies: np.ndarray) -> np.ndarray:
        overall = compute_metrics(scores[movies], labels[movies], "abc", cuts)
        rows = per_genre_metrics(scores[movies], labels[movies], "abc", cuts)
        return np.array([overall[name] for name in names] + [row["f1"] for row in rows])

    names = ["f1_micro", "f1_macro", "f1_weighted", "f1_samples"]
    values = np.array([statistics(movies) for movies in draws])
    observed = statistics(np.arange(40))
    without = np.array([statistics(np.delete(np.arange(40), i)) for i in range(40)])
    found = [intervals.overall[name] for name in names] + intervals.per_genre
    normal = NormalDist()
    for i, (low, high) in enumerate(found):
        # BCa as Efron and Tibshirani 1993, equations 14.9 to 14.15, ties counted half
        below = np.mean(values[:, i] < observed[i] - 1e-9)
        ties = np.mean(np.abs(values[:, i] - observed[i]) < 1e-9)
        z0 = normal.inv_cdf(min(max(below + ties / 2, 0.5 / 300), 1 - 0.5 / 300))
        spread = without[:, i].mean() - without[:, i]
        a = 0 if np.allclose(spread, 0) else (spread**3).sum() / (6 * (spread**2).sum() ** 1.5)
        expected = [
            np.quantile(values[:, i], normal.cdf(z0 + (z0 + z) / (1 - a * (z0 + z))))
            for z in (normal.inv_cdf(0.025), normal.inv_cdf(0.975))
        ]
        assert [low, high] == pytest.approx(expected, abs=1e-9)
    assert intervals.per_genre[2] == (0, 0)

    for name in ("map_macro", "map_micro"):
        first, *rest = (
            compute_metrics(scores[movies], labels[movies], "abc")[name]
            for movies in [np.arange(40), *draws[:50]]
        )
        margin = normal.inv_cdf(0.975) * np.std(rest)
        expected = [max(0, first - margin), min(1, first + margin)]
        assert intervals.overall[name] == pytest.approx(expected, abs=1e-9)


def test_a_genre_that_a_resample_lacks_is_left_out_of_its_map() -> None:
    scores, labels = np.array([[0.9, 0.8], [0.1, 0.3]]), np.array([[True, True], [True, False]])
    ranking = significance._Ranking(scores, labels)
    assert ranking.mean_ap(np.array([[0.0, 2.0], [1.0, 1.0]])).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("num_movies", [1, 2])
@pytest.mark.parametrize("value", [0, 1])
def test_degenerate_data_has_degenerate_intervals(num_movies: int, value: int) -> None:
    labels = np.full((num_movies, 2), value)
    intervals = bootstrap_intervals(labels, labels, "ab", num_resamples=20, num_map_resamples=5)
    expected = (float(value), float(value))
    assert set(intervals.overall.values()) == {expected}
    assert set(intervals.per_genre) == {expected}


def test_the_same_seed_gives_the_same_intervals(small_case) -> None:
    first, again, other = (
        bootstrap_intervals(*small_case, "abc", num_resamples=100, seed=seed) for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_a_difference_has_the_interval_of_the_same_resamples(small_case) -> None:
    scores, labels = small_case
    one, other = (movie_counts(scores > cut, labels == 1) for cut in (0.3, 0.6))
    draws = drawn_movies(40, 200, seed=4)

    def difference(movies: np.ndarray) -> float:
        a, b = (
            f1_score(labels[movies], scores[movies] > c, average="macro", zero_division=0)
            for c in (0.3, 0.6)
        )
        return a - b

    expected = significance._interval(
        np.array([difference(movies) for movies in draws]),
        difference(np.arange(40)),
        np.array([difference(np.delete(np.arange(40), i)) for i in range(40)]),
    )
    found = difference_interval(one, other, "f1_macro", 200, seed=4)
    assert found == pytest.approx(expected, abs=1e-9)
    assert difference_interval(one, one, "f1_macro", 50) == (0, 0)


def test_the_permutation_test_is_exact_where_all_swaps_can_be_listed() -> None:
    rng = np.random.default_rng(5)
    labels = rng.random((8, 2)) < 0.5
    one, other = (rng.random((8, 2)) < 0.3 + 0.5 * labels for _ in range(2))
    observed = abs(_macro(one, labels) - _macro(other, labels))
    as_large = 0
    for number in range(2**8):
        swap = np.array([number >> i & 1 for i in range(8)], dtype=bool)[:, None]
        a, b = np.where(swap, other, one), np.where(swap, one, other)
        as_large += abs(_macro(a, labels) - _macro(b, labels)) >= observed - 1e-12
    exact = as_large / 2**8
    assert 0.05 < exact < 0.95
    counts = [movie_counts(predicted, labels) for predicted in (one, other)]
    found = permutation_test(*counts, "f1_macro", num_permutations=40_000)
    assert found == pytest.approx(exact, abs=0.01)  # four standard errors


def _macro(predicted: np.ndarray, labels: np.ndarray) -> float:
    return f1_score(labels, predicted, average="macro", zero_division=0)


@pytest.mark.parametrize("metric", ["f1_micro", "f1_macro"])
def test_p_values_are_uniform_under_the_null(metric: str) -> None:
    """Two systems with the same errors, which agree on most movies, as two seeds of one do."""
    rng = np.random.default_rng(2)
    p_values = []
    for seed in range(400):
        one, labels = draw(200, rng)
        again = rng.random(labels.shape) < np.where(labels, RECALL, FALSE_ALARM)
        other = np.where(rng.random((200, 1)) < 0.7, one, again)
        counts = [movie_counts(predicted, labels) for predicted in (one, other)]
        p_values.append(permutation_test(*counts, metric, num_permutations=200, seed=seed))
    # Kolmogorov-Smirnov at 1 % with 400 values
    steps = np.arange(1, 401) / 400
    assert np.abs(np.sort(p_values) - steps).max() < 1.63 / 20
    assert 0.025 <= np.mean(np.array(p_values) <= 0.05) <= 0.08


def test_a_real_difference_is_found() -> None:
    one, labels = draw(1000, np.random.default_rng(0))
    worse = one & (np.random.default_rng(1).random(one.shape) < 0.7)
    counts = [movie_counts(predicted, labels) for predicted in (one, worse)]
    assert permutation_test(*counts, "f1_macro", 999) == 1 / 1000
    low, high = difference_interval(*counts, "f1_macro", 999)
    assert 0 < low < _macro(one, labels) - _macro(worse, labels) < high
    assert permutation_test(counts[0], counts[0], "f1_macro", 99) == 1


@pytest.mark.parametrize(
    ("p_values", "corrected"),
    [
        # by hand: 0.005 * 4; 0.01 * 3; max(0.03, 0.03 * 2); max(0.06, 0.04)
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.4, 0.6], [0.8, 0.8]),
        ([0.9, 0.8], [1.0, 1.0]),
        ([0.02], [0.02]),
        ([], []),
    ],
)
def test_holm_by_hand(p_values, corrected) -> None:
    assert holm(p_values) == pytest.approx(corrected)
