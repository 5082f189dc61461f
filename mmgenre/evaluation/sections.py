"""A report's tables in their order, for whoever renders them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

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


@dataclass(frozen=True)
class Table:
    """Rows of text, numbers or None, in the order of the columns."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]

    @property
    def is_numeric(self) -> list[bool]:
        """Which columns hold nothing but numbers and None."""
        return [
            all(row[index] is None or isinstance(row[index], (int, float)) for row in self.rows)
            for index in range(len(self.columns))
        ]


@dataclass(frozen=True)
class Section:
    """Tables under a title, after a sentence or two."""

    title: str
    text: str
    tables: Sequence[Table]


def format_cell(cell: Any) -> str:
    """Floats with four decimals, None as a dash, text in one line."""
    if cell is None:
        return "-"
    return f"{cell:.4f}" if isinstance(cell, float) else " ".join(str(cell).split())


def create_sections(figures: Mapping[str, Any]) -> Iterator[Section]:
    """The tables of what `analyse` returned; a part that is not there has no section.

    Args:
        figures: A loss in `overall` and a list `ablations` may have joined them.
    """
    yield Section(
        "Overall",
        "With 95 % intervals over movies; beside them the figures at threshold 0.5.",
        [
            Table(
                ("metric", "value", "low", "high", "at 0.5"),
                [
                    (name, value, *figures["intervals"].get(name, (None, None)), at_half)
                    for name, value in figures["overall"].items()
                    for at_half in [figures["overall_at_0.5"].get(name)]
                ],
            )
        ],
    )
    if "cross_validated_thresholds" in figures:
        rows = [{"thresholds": k, **v} for k, v in figures["cross_validated_thresholds"].items()]
        yield Section(
            "Thresholds",
            "What fitted thresholds give on movies that they were not fitted on (5 folds of this "
            "split). The figures above are of all movies, so that thresholds fitted on them "
            "flatter them.",
            [_table(rows)],
        )
    by_support = sorted(figures["per_genre"], key=lambda row: (-row["support"], row["genre"]))
    yield Section("Per genre", "", [_table(by_support, PER_GENRE_COLUMNS)])
    numbers = {k: v for k, v in figures["calibration"].items() if k != "reliability"}
    yield Section(
        "Calibration",
        "",
        [
            Table(("figure", "value"), list(numbers.items())),
            _table(figures["calibration"]["reliability"]),
        ],
    )
    for title, key in (("Slices", "slices"), ("Ablations", "ablations")):
        if figures.get(key):
            yield Section(title, "", [_table(figures[key])])
    yield Section(
        "Confusions",
        "Movies for which one genre was missed and another wrongly predicted.",
        [
            _table(
                figures["confusions"][:_CONFUSIONS_IN_REPORT],
                ("missed", "predicted", "movies", "share_of_missed"),
            )
        ],
    )


def _table(rows: Sequence[Mapping[str, Any]], columns: Sequence[str] | None = None) -> Table:
    names = columns or (list(rows[0]) if rows else [])
    return Table(names, [[row[name] for name in names] for row in rows])
