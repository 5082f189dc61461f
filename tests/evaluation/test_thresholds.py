"""Fitted thresholds against a search of all cuts, and the honesty of their gain."""

import numpy as np
import pytest
from sklearn.metrics import f1_score
from sklearn.model_selection import PredefinedSplit

from mmgenre.evaluation.thresholds import (
    NUM_FOLDS,
    SHRINKAGE,
    cross_validate,
    deal_folds,
    describe_thresholds,
    fit_thresholds,
)

GENRES = ("drama", "comedy", "western")


def simulate(num_movies: int, seed: int, decimals: int = 6):
    """Probabilities that are too low, more so for rare genres, so that 0.5 is a bad threshold."""
    rng = np.random.default_rng(seed)
    labels = rng.random((num_movies, 3)) < [0.5, 0.2, 0.05]
    logits = rng.normal(size=labels.shape) + 2 * labels - [1.0, 2.0, 3.0]
    return (1 / (1 + np.exp(-logits))).round(decimals), labels.astype(int)


def best_f1(scores: np.ndarray, labels: np.ndarray) -> float:
    """The best macro F1 of one cut for all columns, by trying a value between all scores."""
    values = np.unique(scores)
    cuts = np.concatenate([[values[0] / 2], (values[1:] + values[:-1]) / 2])
    return max(f1_score(labels, scores > c, average="macro", zero_division=0) for c in cuts)


# with one decimal most scores are tied, within and between the genres
@pytest.mark.parametrize("decimals", [1, 6])
@pytest.mark.parametrize("seed", range(4))
def test_fitted_thresholds_are_the_best_of_all_cuts(seed: int, decimals: int) -> None:
    scores, labels = simulate(60, seed, decimals)
    overall = fit_thresholds(scores, labels, GENRES, "global")
    assert overall is not None
    assert len(set(overall)) == 1
    found = f1_score(labels, scores > overall, average="macro", zero_division=0)
    assert found == pytest.approx(best_f1(scores, labels), abs=1e-12)
    for column in range(3):
        one, truth = scores[:, [column]], labels[:, [column]]
        (cut,) = fit_thresholds(one, truth, ["it"], "global") or []
        found = f1_score(truth[:, 0], one[:, 0] > cut, zero_division=0)
        expected = max(
            f1_score(truth[:, 0], one[:, 0] >= score, zero_division=0) for score in one[:, 0]
        )
        assert found == pytest.approx(expected, abs=1e-12)


def test_rare_genres_are_drawn_to_the_global_threshold() -> None:
    scores, labels = simulate(400, 0)
    labels[:, 2] = 0
    labels[:5, 2] = 1
    overall, *_ = fit_thresholds(scores, labels, GENRES, "global") or []
    own = [
        (fit_thresholds(scores[:, [i]], labels[:, [i]], ["it"], "global") or [])[0]
        for i in range(3)
    ]
    support = labels.sum(axis=0)
    expected = [
        (n * mine + SHRINKAGE * overall) / (n + SHRINKAGE)
        for n, mine in zip(support, own, strict=True)
    ]
    fitted = fit_thresholds(scores, labels, GENRES, "per_genre")
    assert fitted == pytest.approx(expected, abs=1e-12)
    assert fitted is not None
    assert abs(fitted[2] - overall) < abs(own[2] - overall) / 4


def test_a_genre_without_a_positive_keeps_the_global_threshold() -> None:
    scores, labels = simulate(200, 1)
    labels[:, 1] = 0
    overall, *_ = fit_thresholds(scores, labels, GENRES, "global") or []
    fitted = fit_thresholds(scores, labels, GENRES, "per_genre")
    assert fitted is not None
    assert fitted[1] == overall
    assert fitted[0] != overall


def test_without_any_positive_the_threshold_is_half() -> None:
    scores, labels = simulate(20, 0)
    assert fit_thresholds(scores, 0 * labels, GENRES, "per_genre") == [0.5] * 3
    assert fit_thresholds(scores, labels, GENRES, "0.5") is None


def test_of_equal_cuts_the_one_nearest_to_half() -> None:
    # perfect anywhere from 0.2 to 0.9: the middle of the gap; none or all would be worse
    assert fit_thresholds([[0.1], [0.2], [0.9]], [[0], [0], [1]], ["it"], "global") == [0.55]
    # F1 is 2/3 above 0.6 and above 0.1
    scores, labels = [[0.8], [0.4], [0.2], [0.0]], [[1], [0], [0], [1]]
    assert fit_thresholds(scores, labels, ["it"], "global") == [pytest.approx(0.6)]


def test_neighbouring_floats_can_be_told_apart() -> None:
    low = 0.7
    high = np.nextafter(low, 1)
    scores = np.array([[high], [low], [0.1]])
    (cut,) = fit_thresholds(scores, [[1], [0], [0]], ["it"], "global") or []
    assert (scores[:, 0] > cut).tolist() == [True, False, False]


def test_cross_validation_is_that_of_a_plain_loop() -> None:
    scores, labels = simulate(83, 3)
    figures = cross_validate(scores, labels, GENRES, seed=5)
    folds = deal_folds(len(scores), seed=5)
    assert sorted(np.bincount(folds)) == [16, 16, 17, 17, 17]
    for method in ("0.5", "global", "per_genre"):
        predicted = np.zeros_like(labels)
        for train, held_out in PredefinedSplit(folds).split():
            fitted = fit_thresholds(scores[train], labels[train], GENRES, method)
            predicted[held_out] = scores[held_out] > (0.5 if fitted is None else fitted)
        for average in ("micro", "macro", "weighted", "samples"):
            expected = f1_score(labels, predicted, average=average, zero_division=0)
            assert figures[method][f"f1_{average}"] == pytest.approx(expected, abs=1e-12)


def test_the_reported_gain_is_honest() -> None:
    """Over many validation sets the out-of-fold F1 is that on new movies; the fitted one is not."""
    fresh, fresh_labels = simulate(40_000, 999)
    in_sample, out_of_fold, on_new = [], [], []
    for seed in range(40):
        scores, labels = simulate(150, seed)
        fitted = fit_thresholds(scores, labels, GENRES, "per_genre")
        in_sample.append(f1_score(labels, scores > fitted, average="macro"))
        out_of_fold.append(cross_validate(scores, labels, GENRES)["per_genre"]["f1_macro"])
        on_new.append(f1_score(fresh_labels, fresh > fitted, average="macro"))
    optimism = np.mean(in_sample) - np.mean(on_new)
    assert optimism > 0.02
    assert abs(np.mean(out_of_fold) - np.mean(on_new)) < optimism / 2
    assert np.mean(on_new) > f1_score(fresh_labels, fresh > 0.5, average="macro") + 0.05


def test_too_few_movies_for_folds() -> None:
    scores, labels = simulate(NUM_FOLDS - 1, 0)
    assert cross_validate(scores, labels, GENRES) == {}


@pytest.mark.parametrize(
    ("thresholds", "text"),
    [(None, "0.5"), ([0.25] * 3, "global, 0.250"), ([0.1, 0.3, 0.2], "per genre, 0.100 to 0.300")],
)
def test_a_report_names_the_kind(thresholds, text) -> None:
    assert describe_thresholds(thresholds) == text


def test_probabilities_that_are_not_finite_are_named() -> None:
    with pytest.raises(ValueError, match="probabilities hold nan for movie 0, genre 'comedy'"):
        fit_thresholds([[0.5, np.nan, 0.1]], [[1, 0, 0]], GENRES, "global")
