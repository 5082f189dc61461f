"""What an evaluation leaves on disk.

<folder>/
  metrics.json          context, overall and per genre, at full precision
  predictions.parquet   id, probability/<genre> and label/<genre>, a row a movie
  report.md             the same numbers as metrics.json, for reading
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import ArrayLike

from mmgenre.constants import METRICS_FILE, PREDICTIONS_FILE, REPORT_FILE
from mmgenre.utils.errors import UserError

PER_GENRE_COLUMNS = (
    "genre",
    "precision",
    "recall",
    "f1",
    "average_precision",
    "support",
    "threshold",
)


def write_report(
    folder: Path,
    *,
    metrics: Mapping[str, float],
    per_genre: Sequence[Mapping[str, Any]],
    ids: Sequence[str],
    probabilities: ArrayLike,
    labels: ArrayLike,
    genres: Sequence[str],
    context: Mapping[str, str | int | float],
) -> None:
    """Write the three files, each whole or not at all. For the main process only.

    Args:
        folder: Made where it does not exist.
        metrics: From `compute_metrics`.
        per_genre: From `per_genre_metrics`.
        ids: Of the movies, in row order.
        probabilities: (num_movies, num_labels); kept in its own float type.
        labels: (num_movies, num_labels), 0 or 1.
        genres: Names of the columns.
        context: What was evaluated: data set, split, checkpoint and the like.

    Raises:
        UserError: A file cannot be written.
    """
    contents = {
        METRICS_FILE: _metrics_json(metrics, per_genre, context),
        PREDICTIONS_FILE: _predictions_parquet(ids, probabilities, labels, genres),
        REPORT_FILE: _report_markdown(metrics, per_genre, context),
    }
    for name, content in contents.items():
        path = folder / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _replace_file(path, content)
        except OSError as error:
            raise UserError(
                f"{path} cannot be written ({error.strerror or error}); a report needs a folder "
                "that can be written to, with space left"
            ) from error


def format_table(rows: Sequence[Sequence[Any]], columns: Sequence[str]) -> str:
    """A Markdown table; floats with four decimals, None as a dash, numbers to the right."""
    numeric = [
        all(row[index] is None or isinstance(row[index], (int, float)) for row in rows)
        for index in range(len(columns))
    ]
    lines = [columns, ["---:" if right else "---" for right in numeric], *rows]
    return "".join(f"| {' | '.join(_format_cell(cell) for cell in line)} |\n" for line in lines)


def _format_cell(cell: Any) -> str:
    if cell is None:
        return "-"
    if isinstance(cell, float):
        return f"{cell:.4f}"
    return " ".join(str(cell).split()).replace("|", "\\|")


def _metrics_json(
    metrics: Mapping[str, float],
    per_genre: Sequence[Mapping[str, Any]],
    context: Mapping[str, str | int | float],
) -> bytes:
    content = {"context": context, "overall": metrics, "per_genre": per_genre}
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return f"{text}\n".encode()


def _predictions_parquet(
    ids: Sequence[str], probabilities: ArrayLike, labels: ArrayLike, genres: Sequence[str]
) -> pa.Buffer:
    scores, truth = np.asarray(probabilities), np.asarray(labels, dtype=np.int8)
    columns = {"id": pa.array(ids, type=pa.string())}
    for prefix, values in (("probability", scores), ("label", truth)):
        for genre, column in zip(genres, values.T, strict=True):
            columns[f"{prefix}/{genre}"] = pa.array(column)
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


def _report_markdown(
    metrics: Mapping[str, float],
    per_genre: Sequence[Mapping[str, Any]],
    context: Mapping[str, str | int | float],
) -> bytes:
    by_support = sorted(per_genre, key=lambda row: (-row["support"], row["genre"]))
    rows = [[row[column] for column in PER_GENRE_COLUMNS] for row in by_support]
    # Text, so that a learning rate in the context keeps its digits.
    context_rows = [(key, str(value)) for key, value in context.items()]
    parts = [
        "# Evaluation\n",
        format_table(context_rows, ("context", "value")),
        "## Overall\n",
        format_table(list(metrics.items()), ("metric", "value")),
        "## Per genre\n",
        format_table(rows, PER_GENRE_COLUMNS),
    ]
    return "\n".join(parts).encode()


def _replace_file(path: Path, content: bytes | pa.Buffer) -> None:
    """Readers see the old file or the new one, never a half."""
    # Not `tempfile`, whose files only their owner can read.
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
