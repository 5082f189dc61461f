"""All figures of a report, from predictions alone."""

from typing import Any

from mmgenre.evaluation.calibration import calibration, expected_calibration_error
from mmgenre.evaluation.confusions import confusions
from mmgenre.evaluation.metrics import compute_metrics, per_genre_metrics
from mmgenre.evaluation.predictions import Predictions
from mmgenre.evaluation.significance import bootstrap_intervals
from mmgenre.evaluation.slices import slice_metrics
from mmgenre.evaluation.thresholds import DEFAULT_THRESHOLD, cross_validate


def analyse(predictions: Predictions) -> dict[str, Any]:
    """What `metrics.json` holds of a split.

    Returns:
        - `overall`: `compute_metrics` at the model's thresholds; `overall_at_0.5` at 0.5.
        - `intervals`: metric to its 95 % interval, at the model's thresholds.
        - `per_genre`: `per_genre_metrics` at the model's thresholds, and `f1_low` and `f1_high`
          (the 95 % interval), `f1_at_0.5` and `ece` of each genre.
        - `calibration`, `slices`, `confusions`: from the files of these names.
        - `cross_validated_thresholds`: for validation movies only, `thresholds.cross_validate`.
    """
    data = (predictions.probabilities, predictions.labels, predictions.genres)
    cuts = predictions.cuts
    is_validation = predictions.split == "validation"
    intervals = bootstrap_intervals(*data, cuts)
    rows = per_genre_metrics(*data, cuts)
    at_half = per_genre_metrics(*data, DEFAULT_THRESHOLD)
    for column, (low, high) in enumerate(intervals.per_genre):
        rows[column] |= {
            "f1_low": low,
            "f1_high": high,
            "f1_at_0.5": at_half[column]["f1"],
            "ece": expected_calibration_error(data[0][:, column], data[1][:, column]),
        }
    figures = {
        "overall": compute_metrics(*data, cuts),
        "overall_at_0.5": compute_metrics(*data, DEFAULT_THRESHOLD),
        "intervals": intervals.overall,
        "per_genre": rows,
        "calibration": calibration(*data, fit=is_validation),
        "slices": slice_metrics(*data, cuts, predictions.attributes),
        "confusions": confusions(*data, cuts),
    }
    if is_validation:
        figures["cross_validated_thresholds"] = cross_validate(*data)
    return figures
