"""What an evaluation costs beside the forward pass: one table of seconds, on one core.

    python benchmarks/evaluation.py

Simulated predictions of MM-IMDb's test split in the report's label set: 7,800 movies, 26 genres.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from mmgenre.evaluation.analysis import analyse
from mmgenre.evaluation.metrics import compute_metrics, movie_counts
from mmgenre.evaluation.predictions import Predictions
from mmgenre.evaluation.significance import (
    bootstrap_intervals,
    difference_interval,
    f1_intervals,
    permutation_test,
)
from mmgenre.evaluation.thresholds import cross_validate, fit_thresholds

MOVIES, GENRES = 7_800, [f"genre {index}" for index in range(26)]


def simulate() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.random((MOVIES, len(GENRES))) < np.geomspace(0.5, 0.002, len(GENRES))
    logits = rng.normal(size=labels.shape) + 2.5 * labels - 1.5
    return 1 / (1 + np.exp(-logits)), labels.astype(np.int8)


def seconds(function: Callable[[], Any]) -> float:
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def main() -> None:
    scores, labels = simulate()
    counts, others = (movie_counts(scores > cut, labels == 1) for cut in (0.5, 0.6))
    predictions = Predictions(
        ids=[str(index) for index in range(MOVIES)],
        genres=GENRES,
        probabilities=scores,
        labels=labels,
        split="validation",
        thresholds=None,
        attributes={"plot_words": [100] * MOVIES, "year": [1990] * MOVIES},
    )
    compute_metrics(scores, labels, GENRES)  # imports
    rows: list[tuple[str, str, Callable[[], Any]]] = [
        ("all metrics", "-", lambda: compute_metrics(scores, labels, GENRES)),
        ("10,000 resamples, every F1", "20", lambda: f1_intervals(counts)),
        (
            "10,000 resamples, every F1, and 200 for mAP",
            "20",
            lambda: bootstrap_intervals(scores, labels, GENRES),
        ),
        (
            "10,000 resamples, difference of two systems",
            "20",
            lambda: difference_interval(counts, others, "f1_macro"),
        ),
        (
            "10,000 permutations of two systems",
            "20",
            lambda: permutation_test(counts, others, "f1_macro"),
        ),
        (
            "thresholds, one a genre",
            "-",
            lambda: fit_thresholds(scores, labels, GENRES, "per_genre"),
        ),
        ("thresholds, cross-validated", "-", lambda: cross_validate(scores, labels, GENRES)),
        ("all figures of a validation report", "20", lambda: analyse(predictions)),
    ]
    print(f"| of {MOVIES:,} movies x {len(GENRES)} genres | s | limit, s |")
    print("|---|---:|---:|")
    for name, limit, function in rows:
        print(f"| {name} | {seconds(function):.2f} | {limit} |", flush=True)


if __name__ == "__main__":
    main()
