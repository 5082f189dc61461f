"""What an evaluation costs beside the forward pass: one table of processor seconds.

    python benchmarks/evaluation.py

Simulated predictions of MM-IMDb's test split in the report's label set: 7,800 movies, 26 genres;
and of 8,000 movies for the whole report, with every file, which has posters of 700 x 1000 pixels.
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # before numpy

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mmgenre.data.records import FilePoster, MovieRecord
from mmgenre.evaluation.analysis import analyse
from mmgenre.evaluation.metrics import compute_metrics, movie_counts
from mmgenre.evaluation.mistakes import find_mistakes
from mmgenre.evaluation.plots import TrainingCurves
from mmgenre.evaluation.predictions import Predictions
from mmgenre.evaluation.report import write_report
from mmgenre.evaluation.significance import (
    bootstrap_intervals,
    difference_interval,
    f1_intervals,
    permutation_test,
)
from mmgenre.evaluation.thresholds import cross_validate, fit_thresholds
from mmgenre.models.pictures import open_poster

MOVIES, MOVIES_IN_REPORT, GENRES = 7_800, 8_000, [f"genre {index}" for index in range(26)]


def simulate(num_movies: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    labels = rng.random((num_movies, len(GENRES))) < np.geomspace(0.5, 0.002, len(GENRES))
    logits = rng.normal(size=labels.shape) + 2.5 * labels - 1.5
    return 1 / (1 + np.exp(-logits)), labels.astype(np.int8)


def seconds(function: Callable[[], Any]) -> float:
    started = time.process_time()
    function()
    return time.process_time() - started


def predict(num_movies: int) -> Predictions:
    scores, labels = simulate(num_movies)
    return Predictions(
        ids=[str(index) for index in range(num_movies)],
        genres=GENRES,
        probabilities=scores,
        labels=labels,
        split="validation",
        thresholds=None,
        attributes={"plot_words": [100] * num_movies, "year": [1990] * num_movies},
    )


def whole_report(folder: Path) -> Callable[[], Any]:
    """What evaluate.py does once it has the predictions."""
    predictions = predict(MOVIES_IN_REPORT)
    noise = np.random.default_rng(0).integers(0, 256, (1000, 700, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "poster.jpg")
    poster = FilePoster(folder / "poster.jpg")
    records = [MovieRecord(id, "A plot. " * 100, (), poster, "Title") for id in predictions.ids]
    line = dict.fromkeys(
        ("train/loss", "learning_rate/all", "validation/loss", "validation/f1_macro"), 0.5
    ) | dict.fromkeys(("validation/f1_micro", "validation/map_macro"), 0.6)
    curves = TrainingCurves(
        [{"epoch": epoch, **line} for epoch in range(1, 21)], "validation/f1_macro", False
    )

    def write() -> None:
        figures = analyse(predictions)
        mistakes = find_mistakes(predictions, records, open_poster)
        write_report(folder / "report", predictions, figures, {}, mistakes, curves)

    return write


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder))


def measure(folder: Path) -> None:
    predictions = predict(MOVIES)
    scores, labels = predictions.probabilities, predictions.labels
    counts, others = (movie_counts(scores > cut, labels == 1) for cut in (0.5, 0.6))
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
        (
            f"whole report of {MOVIES_IN_REPORT:,} movies: figures, plots, HTML, PNG",
            "20",
            whole_report(folder),
        ),
    ]
    print(f"| of {MOVIES:,} movies x {len(GENRES)} genres | processor s | limit, s |")
    print("|---|---:|---:|")
    for name, limit, function in rows:
        print(f"| {name} | {seconds(function):.2f} | {limit} |", flush=True)


if __name__ == "__main__":
    main()
