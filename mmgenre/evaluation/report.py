"""What an evaluation leaves on disk.

<folder>/
  metrics.json          context and all figures, at full precision
  predictions.parquet   what the figures are computed from (predictions.py)
  report.md             the same figures, for reading
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmgenre.constants import METRICS_FILE, PREDICTIONS_FILE, REPORT_FILE
from mmgenre.evaluation.predictions import Predictions
from mmgenre.utils.errors import UserError
from mmgenre.utils.io import replace_file

PER_GENRE_COLUMNS = (
    "genre",
    "precision",
    "recall",
    "f1",
    "f1_low",
    "f1_high",
    "f1_at_0.5",
    "average_precision",
    "ece",
    "support",
    "threshold",
)
_CONFUSIONS_IN_REPORT = 20


def write_report(
    folder: Path,
    predictions: Predictions,
    figures: Mapping[str, Any],
    context: Mapping[str, str | int | float],
) -> None:
    """Write the three files, each whole or not at all. For the main process only.

    Args:
        folder: Made where it does not exist.
        figures: From `analyse`; a loss in `overall` and a list `ablations` may have joined them.
        context: What was evaluated: data set, split, checkpoint and the like.

    Raises:
        UserError: A file cannot be written.
    """
    contents = {
        METRICS_FILE: _metrics_json({"context": context, **figures}),
        PREDICTIONS_FILE: predictions.to_parquet(),
        REPORT_FILE: "\n".join(_report_markdown(figures, context)).encode(),
    }
    for name, content in contents.items():
        path = folder / name
        try:
            folder.mkdir(parents=True, exist_ok=True)
            replace_file(path, content)
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


def _metrics_json(content: Mapping[str, Any]) -> bytes:
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return f"{text}\n".encode()


def _report_markdown(
    figures: Mapping[str, Any], context: Mapping[str, str | int | float]
) -> Iterator[str]:
    yield "# Evaluation\n"
    # Text, so that a learning rate in the context keeps its digits.
    yield format_table([(key, str(value)) for key, value in context.items()], ("context", "value"))
    yield "## Overall\n"
    yield "With 95 % intervals over movies; beside them the figures at threshold 0.5.\n"
    yield format_table(
        [
            (name, value, *figures["intervals"].get(name, (None, None)), at_half)
            for name, value in figures["overall"].items()
            for at_half in [figures["overall_at_0.5"].get(name)]
        ],
        ("metric", "value", "low", "high", "at 0.5"),
    )
    if "cross_validated_thresholds" in figures:
        yield "## Thresholds\n"
        yield (
            "What fitted thresholds give on movies that they were not fitted on (5 folds of this "
            "split). The figures above are of all movies, so that thresholds fitted on them "
            "flatter them.\n"
        )
        yield _table_of_rows(
            [{"thresholds": k, **v} for k, v in figures["cross_validated_thresholds"].items()]
        )
    yield "## Per genre\n"
    by_support = sorted(figures["per_genre"], key=lambda row: (-row["support"], row["genre"]))
    yield _table_of_rows(by_support, PER_GENRE_COLUMNS)
    yield "## Calibration\n"
    numbers = {k: v for k, v in figures["calibration"].items() if k != "reliability"}
    yield format_table(list(numbers.items()), ("figure", "value"))
    yield _table_of_rows(figures["calibration"]["reliability"])
    for title, key in (("Slices", "slices"), ("Ablations", "ablations")):
        if figures.get(key):
            yield f"## {title}\n"
            yield _table_of_rows(figures[key])
    yield "## Confusions\n"
    yield "Movies for which one genre was missed and another wrongly predicted.\n"
    yield _table_of_rows(
        figures["confusions"][:_CONFUSIONS_IN_REPORT],
        ("missed", "predicted", "movies", "share_of_missed"),
    )


def _table_of_rows(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> str:
    names = columns or (list(rows[0]) if rows else [])
    return format_table([[row[name] for name in names] for row in rows], names)
