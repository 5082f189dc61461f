"""Calibration against plain loops and against models whose miscalibration is known."""

import numpy as np
import pytest
from sklearn.metrics import log_loss

from mmgenre.evaluation.calibration import (
    NUM_BINS,
    apply_temperature,
    calibration,
    expected_calibration_error,
    fit_temperature,
    reliability,
)


def forecasts(temperature: float, num_movies: int = 4000, seed: int = 0):
    """Labels drawn with their true probabilities, and the probabilities of logits that are
    `temperature` times too large."""
    logits = np.random.default_rng(seed).normal(size=(num_movies, 3)) * 1.5 - 1
    labels = np.random.default_rng(seed + 1).random(logits.shape) < 1 / (1 + np.exp(-logits))
    return 1 / (1 + np.exp(-logits * temperature)), labels.astype(int)


def test_bins_and_error_are_those_of_a_plain_loop() -> None:
    scores, labels = forecasts(2, num_movies=50)
    # bounds of bins: 0 and 1/3 belong to the bin below
    scores[:4] = [[0, 1, 1 / 3], [1 / 3, 0.5, 0], [1, 1, 0], [0.2, 0.4, 0.6]]
    bins: dict[int, list[tuple[float, int]]] = {}
    for score, label in zip(scores.ravel(), labels.ravel(), strict=True):
        index = next(i for i in range(NUM_BINS) if score <= (i + 1) / NUM_BINS)
        bins.setdefault(index, []).append((score, label))
    expected_error = 0.0
    rows = reliability(scores, labels)
    for row, (index, members) in zip(rows, sorted(bins.items()), strict=True):
        probability, positives = np.mean(members, axis=0)
        assert row == {
            "low": index / NUM_BINS,
            "high": (index + 1) / NUM_BINS,
            "count": len(members),
            "probability": pytest.approx(probability, abs=1e-12),
            "positives": pytest.approx(positives, abs=1e-12),
        }
        expected_error += len(members) / scores.size * abs(probability - positives)
    error = expected_calibration_error(scores, labels)
    assert error == pytest.approx(expected_error, abs=1e-12)
    assert calibration(scores, labels, "abc", fit=False) == {
        "ece": error,
        "reliability": rows,
    }


def test_the_error_of_known_miscalibration() -> None:
    # all say 0.8; half are positive
    assert expected_calibration_error(np.full(1000, 0.8), [0, 1] * 500) == pytest.approx(0.3)
    assert expected_calibration_error([0.0, 1.0], [0, 1]) == 0
    assert expected_calibration_error(*forecasts(1.0, 100_000)) < 0.005


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_the_temperature_that_was_put_in_is_found(temperature: float) -> None:
    scores, labels = forecasts(temperature, 20_000)
    fitted = fit_temperature(scores, labels)
    assert fitted == pytest.approx(temperature, rel=0.05)
    best = log_loss(labels.ravel(), apply_temperature(scores, fitted).ravel())
    for other in (0.99, 1.01):
        loss = log_loss(labels.ravel(), apply_temperature(scores, fitted * other).ravel())
        assert loss > best


def test_temperature_on_validation_is_scored_on_other_folds() -> None:
    scores, labels = forecasts(3.0)
    figures = calibration(scores, labels, "abc", fit=True)
    assert figures["temperature"] == fit_temperature(scores, labels)
    assert figures["ece"] > 0.1
    assert figures["ece_with_temperature"] < 0.02


def test_scores_that_have_no_best_temperature_stay_finite() -> None:
    labels = np.array([[0], [1]] * 5)
    assert fit_temperature(0.5 + 0.2 * (labels - 0.5), labels) == pytest.approx(0.01)
    assert fit_temperature(0.5 - 0.2 * (labels - 0.5), labels) == pytest.approx(100)
    figures = calibration(labels.astype(float), labels, ["it"], fit=True)
    assert figures["ece_with_temperature"] == 0
