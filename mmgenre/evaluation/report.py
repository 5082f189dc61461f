"""What an evaluation leaves on disk.

<folder>/
  metrics.json          context and all figures, at full precision
  predictions.parquet   what the figures are computed from (predictions.py)
  report.md             the same figures, for reading
  report.html           the same with plots and the most confident errors, in one file (page.py)
  *.png                 the plots (plots.py)
  .lock                 held while somebody writes
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmgenre.constants import (
    LOCK_FILE,
    METRICS_FILE,
    PREDICTIONS_FILE,
    REPORT_FILE,
    REPORT_PAGE_FILE,
)
from mmgenre.evaluation.mistakes import Mistake
from mmgenre.evaluation.page import render_page
from mmgenre.evaluation.plots import PLOTS, Plot, TrainingCurves, draw_plots
from mmgenre.evaluation.predictions import Predictions
from mmgenre.evaluation.sections import Section, Table, create_sections, format_cell
from mmgenre.utils.errors import UserError
from mmgenre.utils.io import locked, replace_file

_NO_MATPLOTLIB = (
    "Plots are left out, because matplotlib is not installed; pip install 'mmgenre[plots]' "
    "brings it."
)
_NO_RUN = "The model was evaluated without its run, so that there are no learning curves."
_NO_EPOCH = "The run has not finished an epoch, so that there are no learning curves."


def write_report(
    folder: Path,
    predictions: Predictions,
    figures: Mapping[str, Any],
    context: Mapping[str, str | int | float],
    mistakes: Mapping[str, Sequence[Mistake]] | None = None,
    curves: TrainingCurves | None = None,
) -> None:
    """Write the files, each whole or not at all. For the main process only.

    Two evaluations that write to one folder wait for each other, so that all files are of one.

    Args:
        folder: Made where it does not exist.
        figures: From `analyse`; a loss in `overall` and a list `ablations` may have joined them.
        context: What was evaluated: data set, split, checkpoint and the like.
        mistakes: From `find_mistakes`; None where the movies are not at hand.
        curves: None where the model has no run.

    Raises:
        UserError: A file cannot be written.
    """
    sections = list(create_sections(figures))
    notes: dict[str, str] = {}
    if curves is None or not curves.epochs:
        notes["learning_curves"] = _NO_RUN if curves is None else _NO_EPOCH
    plots: dict[str, Plot] = {}
    try:
        plots = draw_plots(predictions, figures, curves)
    except ImportError:
        notes = dict.fromkeys(PLOTS, _NO_MATPLOTLIB)
    page = render_page(figures, context, sections, plots, mistakes, curves, notes)
    about = f"With plots and the most confident errors: {REPORT_PAGE_FILE}."
    markdown = _markdown(about if plots else _NO_MATPLOTLIB, context, sections)
    contents = {
        METRICS_FILE: _metrics_json({"context": context, **figures}),
        PREDICTIONS_FILE: predictions.to_parquet(),
        REPORT_FILE: "\n".join(markdown).encode(),
        REPORT_PAGE_FILE: page.encode(),
        **{f"{name}.png": plot.png for name, plot in plots.items()},
    }
    path = folder
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / LOCK_FILE):
            for name, content in contents.items():
                path = folder / name
                replace_file(path, content)
            for name in PLOTS:
                if name not in plots:  # an earlier report's
                    (folder / f"{name}.png").unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror or error}); a report needs a folder "
            "that can be written to, with space left"
        ) from error


def format_table(rows: Sequence[Sequence[Any]], columns: Sequence[str]) -> str:
    """A Markdown table of `format_cell`s, numbers to the right."""
    sides = ["---:" if right else "---" for right in Table(columns, rows).is_numeric]
    return "".join(f"| {' | '.join(map(_escape, line))} |\n" for line in [columns, sides, *rows])


def _escape(cell: Any) -> str:
    return format_cell(cell).replace("|", "\\|")


def _metrics_json(content: Mapping[str, Any]) -> bytes:
    text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    return f"{text}\n".encode()


def _markdown(
    about: str, context: Mapping[str, str | int | float], sections: Sequence[Section]
) -> Iterator[str]:
    yield "# Evaluation\n"
    yield f"{about}\n"
    # Text, so that a learning rate in the context keeps its digits.
    yield format_table([(key, str(value)) for key, value in context.items()], ("context", "value"))
    for section in sections:
        yield f"## {section.title}\n"
        if section.text:
            yield f"{section.text}\n"
        for table in section.tables:
            yield format_table(table.rows, table.columns)
