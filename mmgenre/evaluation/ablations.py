"""Movies whose posters or plots are taken away or mixed up, to see what a model makes of each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from mmgenre.evaluation.metrics import compute_metrics
from mmgenre.evaluation.predictions import Predictions

# The missing-modality curve; its first point, 0, is the evaluation itself.
MISSING_SHARES = (0.25, 0.5, 0.75, 1.0)
_FIELDS = {"image": "poster", "text": "plot"}


@dataclass(frozen=True)
class Ablation:
    """A changed split.

    Attributes:
        field: `poster` or `plot`.
        change: `missing` or `shuffled`.
        share: Share of the movies that are changed.
        records: All movies of the split, in the same order.
    """

    field: str
    change: str
    share: float
    records: list[Any]

    def row(self, predictions: Predictions) -> dict[str, Any]:
        """The change, and what `compute_metrics` gives under it."""
        p = predictions
        metrics = compute_metrics(p.probabilities, p.labels, p.genres, p.cuts)
        return {"field": self.field, "change": self.change, "share": self.share, **metrics}


def ablate(records: Sequence[Any], modalities: Sequence[str], seed: int) -> Iterator[Ablation]:
    """Each of the model's modalities missing from growing shares of the movies, and shuffled.

    A movie without a poster at one share is without it at every larger one, so that a curve's
    points differ by the share alone. Shuffled means that every movie has the poster of another.

    Args:
        records: Dataclasses with `poster` and `plot`.
        modalities: `image` and `text` count, and have the same random order; ready-made features
            stay as they are.
    """
    order = np.random.default_rng(seed).permutation(len(records))
    for field in (_FIELDS[modality] for modality in modalities if modality in _FIELDS):
        for share in MISSING_SHARES:
            changed = list(records)
            for index in order[: round(share * len(records))]:
                changed[index] = replace(records[index], **{field: None})
            yield Ablation(field, "missing", share, changed)
        changed = list(records)
        # One cycle through all movies, so that none keeps its own.
        for index, other in zip(order, np.roll(order, 1), strict=True):
            changed[index] = replace(records[index], **{field: getattr(records[other], field)})
        yield Ablation(field, "shuffled", 1.0, changed)
