"""Which genre is predicted in place of which."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from mmgenre.evaluation.metrics import checked


def confusions(
    probabilities: ArrayLike,
    labels: ArrayLike,
    genres: Sequence[str],
    thresholds: float | Sequence[float] = 0.5,
) -> list[dict[str, Any]]:
    """How often a missed genre and a wrongly predicted one are of the same movie.

    Args:
        probabilities: (num_movies, num_labels), in [0, 1].
        labels: (num_movies, num_labels), 0 or 1.
        genres: Names of the columns.
        thresholds: One for all genres, or one for each.

    Returns:
        A row a pair that occurs, most frequent first: `missed`, `predicted`, `movies`, and
        `share_of_missed`, the share of the movies for which `missed` was missed.

    Raises:
        ValueError: A shape, a probability, a label or a threshold is wrong.
    """
    scores, truth, cuts = checked(probabilities, labels, genres, thresholds)
    predicted = scores > cuts
    missed, wrong = truth & ~predicted, predicted & ~truth
    together = missed.T.astype(np.int64) @ wrong
    rows = [
        {
            "missed": genres[i],
            "predicted": genres[j],
            "movies": int(together[i, j]),
            "share_of_missed": float(together[i, j] / missed[:, i].sum()),
        }
        for i, j in np.argwhere(together)
    ]
    return sorted(rows, key=lambda row: -row["movies"])
