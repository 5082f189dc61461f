"""What a tracker shows of an evaluation beside its metrics."""

import base64
import html
import io

import numpy as np

from mmgenre.data.records import MovieRecord
from mmgenre.evaluation.evaluator import Evaluation, Evaluator
from mmgenre.evaluation.metrics import per_genre_metrics
from mmgenre.models.pictures import open_poster

POSTER_SIDE = 128  # pixels
PLOT_LENGTH = 500  # characters
_COLUMNS = ("id", "poster", "plot", "true", "predicted")


def genre_scores(evaluator: Evaluator, evaluation: Evaluation) -> dict[str, float]:
    """F1 of each genre, as `validation/f1/drama`."""
    rows = per_genre_metrics(
        evaluation.probabilities,
        evaluation.labels,
        evaluator.metrics.genres,
        evaluator.thresholds,
    )
    return {f"validation/f1/{row['genre']}": row["f1"] for row in rows}


def example_table(evaluator: Evaluator, evaluation: Evaluation, count: int) -> str:
    """An HTML table of movies evenly spaced over the split, the same ones each time.

    Posters are in it, small, and plots are cut, so that a movie is some kB.
    """
    genres = np.array(evaluator.metrics.genres)
    records = evaluator.dataset.records
    is_predicted = evaluation.probabilities > np.array(evaluator.thresholds)
    rows = ["".join(f"<th>{name}" for name in _COLUMNS)]
    for i in np.unique(np.linspace(0, len(records) - 1, count, dtype=int)):
        scores, record = evaluation.probabilities[i], records[i]
        predicted = [g for g in np.argsort(-scores) if is_predicted[i, g]]
        cells = (
            html.escape(record.id),
            _picture(record),
            html.escape((record.plot or "")[:PLOT_LENGTH]),
            html.escape(", ".join(genres[evaluation.labels[i] == 1])),
            html.escape(", ".join(f"{genres[g]} {scores[g]:.2f}" for g in predicted)),
        )
        rows.append("".join(f"<td>{cell}" for cell in cells))
    return f'<meta charset="utf-8"><table><tr>{"<tr>".join(rows)}</table>'


def _picture(record: MovieRecord) -> str:
    if record.poster is None:
        return ""
    try:
        poster = open_poster(io.BytesIO(record.poster.read()), POSTER_SIDE)
    except OSError:
        return ""
    poster.thumbnail((POSTER_SIDE, POSTER_SIDE))
    poster.save(buffer := io.BytesIO(), "JPEG")
    content = base64.b64encode(buffer.getvalue()).decode()
    return f'<img src="data:image/jpeg;base64,{content}">'
