"""What a tracker shows of an evaluation beside its metrics."""

import io
from typing import Any

import numpy as np
from PIL import Image

from mmgenre.data.records import MovieRecord
from mmgenre.evaluation.evaluator import Evaluation, Evaluator
from mmgenre.evaluation.metrics import per_genre_metrics
from mmgenre.models.pictures import open_poster

EXAMPLE_COLUMNS = ("id", "poster", "plot", "true", "predicted")
POSTER_SIDE = 128  # pixels
PLOT_LENGTH = 500  # characters


def genre_scores(evaluator: Evaluator, evaluation: Evaluation) -> dict[str, float]:
    """F1 of each genre, as `validation/f1/drama`."""
    rows = per_genre_metrics(
        evaluation.probabilities,
        evaluation.labels,
        evaluator.metrics.genres,
        evaluator.thresholds,
    )
    return {f"validation/f1/{row['genre']}": row["f1"] for row in rows}


def create_examples(
    evaluator: Evaluator, evaluation: Evaluation, count: int
) -> list[dict[str, Any]]:
    """Movies evenly spaced over the split, the same ones each time, by `EXAMPLE_COLUMNS`.

    Poster and plot are cut down, so that the whole is some kB a movie; None where there is none.
    """
    genres = np.array(evaluator.metrics.genres)
    records = evaluator.dataset.records
    is_predicted = evaluation.probabilities > np.array(evaluator.thresholds)
    rows = []
    for i in np.unique(np.linspace(0, len(records) - 1, count, dtype=int)):
        scores, record = evaluation.probabilities[i], records[i]
        found = [f"{genres[g]} {scores[g]:.2f}" for g in np.argsort(-scores) if is_predicted[i, g]]
        values = (
            record.id,
            _thumbnail(record),
            record.plot and record.plot[:PLOT_LENGTH],
            ", ".join(genres[evaluation.labels[i] == 1]),
            ", ".join(found),
        )
        rows.append(dict(zip(EXAMPLE_COLUMNS, values, strict=True)))
    return rows


def _thumbnail(record: MovieRecord) -> Image.Image | None:
    if record.poster is None:
        return None
    try:
        poster = open_poster(io.BytesIO(record.poster.read()), POSTER_SIDE)
    except OSError:
        return None
    poster.thumbnail((POSTER_SIDE, POSTER_SIDE))
    return poster
