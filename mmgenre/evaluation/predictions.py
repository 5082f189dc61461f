"""`predictions.parquet`: everything that a report's figures are computed from, a row a movie.

Columns `id`, `probability/<genre>`, `label/<genre>` and `movie/<attribute>`; the file's own
metadata holds the split and the decision thresholds.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mmgenre.evaluation.metrics import checked
from mmgenre.evaluation.thresholds import DEFAULT_THRESHOLD
from mmgenre.utils.errors import UserError

_METADATA_KEY = b"mmgenre"
_PROBABILITY, _LABEL, _ATTRIBUTE = "probability/", "label/", "movie/"


@dataclass(frozen=True)
class Predictions:
    """A model's probabilities for the movies of a split.

    Attributes:
        ids: Of the movies, in row order.
        genres: Names of the columns.
        probabilities: (num_movies, num_labels).
        labels: (num_movies, num_labels), 0 or 1.
        split: `train`, `validation` or `test`.
        thresholds: The model's own, one a genre; None is 0.5.
        attributes: From `slices.movie_attributes`.
    """

    ids: list[str]
    genres: list[str]
    probabilities: NDArray[np.float64]
    labels: NDArray[np.int8]
    split: str
    thresholds: list[float] | None
    attributes: Mapping[str, Sequence[int | None]]

    @property
    def cuts(self) -> list[float]:
        """The thresholds that decide."""
        return self.thresholds or [DEFAULT_THRESHOLD] * len(self.genres)

    def select(self, genres: Sequence[str]) -> "Predictions":
        """Some of the genres, in the order given."""
        columns = [self.genres.index(genre) for genre in genres]
        return Predictions(
            ids=self.ids,
            genres=list(genres),
            probabilities=self.probabilities[:, columns],
            labels=self.labels[:, columns],
            split=self.split,
            thresholds=self.thresholds and [self.thresholds[column] for column in columns],
            attributes=self.attributes,
        )

    def to_parquet(self) -> pa.Buffer:
        """The file's bytes; probabilities keep their float type."""
        columns = {"id": pa.array(self.ids, type=pa.string())}
        for prefix, values in ((_PROBABILITY, self.probabilities), (_LABEL, self.labels)):
            for genre, column in zip(self.genres, values.T, strict=True):
                columns[f"{prefix}{genre}"] = pa.array(column)
        for name, attribute in self.attributes.items():
            columns[f"{_ATTRIBUTE}{name}"] = pa.array(attribute, type=pa.int64())
        metadata = {"split": self.split, "thresholds": self.thresholds}
        table = pa.table(columns).replace_schema_metadata({_METADATA_KEY: json.dumps(metadata)})
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink)
        return sink.getvalue()


def read_predictions(path: Path) -> Predictions:
    """Read what `Predictions.to_parquet` made.

    Raises:
        UserError: The file cannot be read, is something else, or holds a value that is none.
    """
    try:
        table = pq.read_table(path)
        metadata = json.loads((table.schema.metadata or {})[_METADATA_KEY])
        genres = _names(table, _PROBABILITY)
        probabilities, labels = (
            np.column_stack([table[f"{prefix}{genre}"].to_numpy() for genre in genres])
            for prefix in (_PROBABILITY, _LABEL)
        )
        predictions = Predictions(
            ids=table["id"].to_pylist(),
            genres=genres,
            probabilities=probabilities,
            labels=labels,
            split=metadata["split"],
            thresholds=metadata["thresholds"],
            attributes={
                name: table[f"{_ATTRIBUTE}{name}"].to_pylist() for name in _names(table, _ATTRIBUTE)
            },
        )
        checked(probabilities, labels, genres, predictions.cuts)
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} cannot be read as predictions ({reason})") from error
    return predictions


def _names(table: pa.Table, prefix: str) -> list[str]:
    return [n.removeprefix(prefix) for n in table.column_names if n.startswith(prefix)]
