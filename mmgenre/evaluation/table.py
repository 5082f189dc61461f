"""Runs side by side: what was measured here, beside what the literature reports.

A row is a system (runs that differ in nothing but seed and names) at one kind of threshold: 0.5, or
the model's own where it was fitted. Measured figures are means over seeds. The test against a
baseline is about movies: it takes the mean over a system's seeds of each movie's counts, and asks
whether another choice of movies could have turned the difference round. Systems are compared at the
same kind of threshold only.
"""

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mmgenre.evaluation.literature import LITERATURE, Reported
from mmgenre.evaluation.report import format_table
from mmgenre.evaluation.runs import HALF, System
from mmgenre.evaluation.significance import difference_interval, holm, permutation_test
from mmgenre.utils.errors import UserError

METRICS = ("f1_micro", "f1_macro", "f1_weighted", "f1_samples", "map_macro")
REPORTED_METRICS = ("f1_micro", "f1_macro", "f1_weighted")

# Columns of a row in their order. Those that begin with `reported` are never measured here, and
# those that begin with `measured` never reported.
_EMPTY: dict[str, Any] = dict.fromkeys(
    [
        "system",
        *(f"reported_{name}" for name in (*REPORTED_METRICS, "source", "split", "threshold")),
        "runs",
        *(f"measured_{name}{part}" for name in METRICS for part in ("", "_sd")),
        "measured_split",
        "measured_movies",
        "measured_selection",
        "measured_threshold",
        "difference",
        "difference_low",
        "difference_high",
        "p",
        "p_holm",
    ]
)


def compare(
    systems: Sequence[System],
    baseline: str | None = None,
    metric: str = "f1_macro",
    literature: bool = True,
) -> list[dict[str, Any]]:
    """The rows of the table, raw.

    Args:
        baseline: Folder of one of the runs, whose system the others are tested against; None is no
            test.
        metric: F1 that is tested.
        literature: Whether to give the reported figures: of a recipe of the literature's table in
            the row of its runs, of the other systems in rows of their own.

    Raises:
        UserError: The baseline is none of the runs.
    """
    against = None
    if baseline is not None:
        against = next((s for s in systems if s.includes(Path(baseline))), None)
        if against is None:
            folders = ", ".join(run.folder for system in systems for run in system.runs)
            raise UserError(f"baseline {baseline!r} is none of the runs {folders}")
    rows, tested = [], []
    for system in systems:
        for threshold in system.thresholds:
            row = {**_EMPTY, **_measured(system, threshold)}
            if threshold == HALF and literature:
                row |= _reported(LITERATURE.get(system.recipe))
            if against is not None and system is not against and threshold in against.thresholds:
                row |= _tested(system, against, threshold, metric)
                tested.append(row)
            rows.append(row)
    for row, p in zip(tested, holm([row["p"] for row in tested]), strict=True):
        row["p_holm"] = p
    if literature:
        here = {system.recipe for system in systems}
        rows += [
            {**_EMPTY, "system": reported.system, **_reported(reported)}
            for recipe, reported in LITERATURE.items()
            if recipe not in here
        ]
    return rows


def to_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """A Markdown table."""
    columns, cells = _for_reading(rows)
    return format_table(cells, columns)


def to_latex(rows: Sequence[Mapping[str, Any]]) -> str:
    """A `tabular` of the booktabs package."""
    columns, cells = _for_reading(rows)
    lines = [[_latex(cell) for cell in line] for line in [columns, *cells]]
    body = [" & ".join(line) + r" \\" for line in lines]
    return "\n".join(
        [
            rf"\begin{{tabular}}{{{'l' * len(columns)}}}",
            r"\toprule",
            body[0],
            r"\midrule",
            *body[1:],
            r"\bottomrule",
            r"\end{tabular}",
            "",
        ]
    )


def to_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Every number in a column of its own, at full precision."""
    sink = io.StringIO()
    writer = csv.DictWriter(sink, list(_EMPTY), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return sink.getvalue()


def to_json(rows: Sequence[Mapping[str, Any]]) -> str:
    """As `to_csv`, a list of objects."""
    return json.dumps(rows, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


FORMATS: dict[str, Callable[[Sequence[Mapping[str, Any]]], str]] = {
    "markdown": to_markdown,
    "latex": to_latex,
    "csv": to_csv,
    "json": to_json,
}


def _measured(system: System, threshold: str) -> dict[str, Any]:
    row: dict[str, Any] = {"system": system.name, "runs": len(system.runs)}
    for name in METRICS:
        row[f"measured_{name}"] = system.mean(name, threshold)
        if len(system.runs) > 1:  # of one run nobody can tell
            values = [run.metrics[threshold][name] for run in system.runs]
            row[f"measured_{name}_sd"] = float(np.std(values, ddof=1))
    first = system.runs[0].predictions
    row["measured_split"], row["measured_movies"] = first.split, len(first.ids)
    row["measured_selection"] = "; ".join(sorted({run.selection for run in system.runs}))
    row["measured_threshold"] = threshold
    return row


def _reported(row: Reported | None) -> dict[str, Any]:
    fields = {} if row is None else row._asdict()
    return {f"reported_{name}": value for name, value in fields.items() if name != "system"}


def _tested(system: System, against: System, threshold: str, metric: str) -> dict[str, Any]:
    ours, theirs = system.counts(threshold), against.counts(threshold)
    low, high = difference_interval(ours, theirs, metric)
    return {
        "difference": system.mean(metric, threshold) - against.mean(metric, threshold),
        "difference_low": low,
        "difference_high": high,
        "p": permutation_test(ours, theirs, metric),
    }


def _for_reading(rows: Sequence[Mapping[str, Any]]) -> tuple[list[str], list[list[Any]]]:
    """The columns that are not empty, with means, deviations and intervals in one cell."""
    cells = [_cells(row) for row in rows]
    columns = [name for name in cells[0] if any(line[name] is not None for line in cells)]
    return columns, [[line[name] for name in columns] for line in cells]


def _cells(row: Mapping[str, Any]) -> dict[str, Any]:
    cells = {"system": row["system"]}
    for name in (*REPORTED_METRICS, "source", "split", "threshold"):
        cells[f"as reported: {name}"] = row[f"reported_{name}"]
    cells["runs"] = row["runs"]
    for name in METRICS:
        mean, deviation = row[f"measured_{name}"], row[f"measured_{name}_sd"]
        cells[f"measured here: {name}"] = (
            mean if deviation is None else f"{mean:.4f} ± {deviation:.4f}"
        )
    for name in ("split", "movies", "selection", "threshold"):
        cells[f"measured here: {name}"] = row[f"measured_{name}"]
    low, high = row["difference_low"], row["difference_high"]
    cells["difference"] = (
        None if low is None else (f"{row['difference']:+.4f} [{low:+.4f}, {high:+.4f}]")
    )
    return cells | {"p": row["p"], "p (Holm)": row["p_holm"]}


def _latex(cell: Any) -> str:
    if cell is None:
        return "--"
    text = f"{cell:.4f}" if isinstance(cell, float) else str(cell)
    for character in "&%$#_{}":
        text = text.replace(character, f"\\{character}")
    return text.replace("±", r"$\pm$")
