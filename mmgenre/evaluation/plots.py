"""A report's figures: PNG files, and SVG for a page whose colours follow the reader's.

Widths are in points, which are pixels of a page that is as wide as a phone: all but the panels of
precision and recall fill it, and two of these do.
"""

import io
import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.metrics import precision_recall_curve

from mmgenre.evaluation.metrics import per_genre_metrics
from mmgenre.evaluation.predictions import Predictions
from mmgenre.evaluation.thresholds import DEFAULT_THRESHOLD

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Names of colours to what they are on white and on near-black paper.
PALETTE = {
    "paper": ("#ffffff", "#15181c"),
    "box": ("#f5f7f9", "#1e2329"),
    "ink": ("#1b1f24", "#e8ebee"),
    "muted": ("#57606a", "#a5b0bb"),
    "line": ("#d3d9df", "#3a424b"),
    "blue": ("#0a62c9", "#6fb3ff"),
    "orange": ("#b34700", "#ffa25c"),
    "green": ("#1a7340", "#63d69b"),
    "purple": ("#8250df", "#c297ff"),
}
_ON_WHITE = {name: light for name, (light, _) in PALETTE.items()}
_INK, _MUTED, _LINE = _ON_WHITE["ink"], _ON_WHITE["muted"], _ON_WHITE["line"]
_BLUE, _ORANGE = _ON_WHITE["blue"], _ON_WHITE["orange"]
_SERIES = [_ON_WHITE[name] for name in ("blue", "orange", "green", "purple")]
_STYLE: Any = {
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titlecolor": _INK,
    "axes.edgecolor": _LINE,
    "axes.labelcolor": _MUTED,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _LINE,
    "grid.linewidth": 0.6,
    "text.color": _INK,
    "xtick.color": _LINE,
    "ytick.color": _LINE,
    "xtick.labelcolor": _MUTED,
    "ytick.labelcolor": _MUTED,
    "legend.frameon": False,
    "lines.linewidth": 1.6,
    "lines.markersize": 3.5,
    # A genre's name is a name, also with dollars in it.
    "text.parse_math": False,
    "figure.constrained_layout.h_pad": 6 / 72,
    "svg.fonttype": "none",
    "svg.hashsalt": "mmgenre",  # the same report, the same bytes
}
PLOTS = ("learning_curves", "per_genre", "calibration", "precision_recall")
_WIDTH = 342
_PANEL = (160, 154)
_PANELS_A_ROW = 5
_GENRES_SHOWN = 60
_NAME_CHARACTERS = 16
_CURVE_POINTS = 150
_PNG_DPI = 144
_SVG = "http://www.w3.org/2000/svg"
_LINK = "{http://www.w3.org/1999/xlink}href"


@dataclass(frozen=True)
class TrainingCurves:
    """How a run went, from its `history.jsonl`.

    Attributes:
        epochs: Its lines.
        metric: Key in them of what chose the best epoch.
        stopped_early: Whether early stopping ended it.
    """

    epochs: Sequence[Mapping[str, Any]]
    metric: str
    stopped_early: bool

    @property
    def best(self) -> Mapping[str, Any]:
        """The first of the epochs with the highest value; there has to be one."""
        return max(self.epochs, key=lambda entry: entry[self.metric])


@dataclass(frozen=True)
class Plot:
    """A figure.

    Attributes:
        png: A file's bytes.
        svgs: Elements for a page; more than one where it is to be laid out by the page.
    """

    png: bytes
    svgs: list[str]


def draw_plots(
    predictions: Predictions, figures: Mapping[str, Any], curves: TrainingCurves | None
) -> dict[str, Plot]:
    """The figures of a report, by their names in `PLOTS`.

    Args:
        figures: From `analyse`.
        curves: Left out of the figures where the run has no finished epoch.

    Raises:
        ImportError: matplotlib is not installed.
    """
    from matplotlib import rc_context

    with rc_context(_STYLE):
        plots = {}
        if curves is not None and curves.epochs:
            plots["learning_curves"] = _single(430, _draw_training, curves, alt=_told(curves))
        rows = sorted(figures["per_genre"], key=lambda row: (-row["support"], row["genre"]))
        rows = rows[:_GENRES_SHOWN]
        plots["per_genre"] = _single(
            62 + 15 * len(rows),
            _draw_genres,
            rows,
            alt=f"F1 of {len(rows)} genres with 95 % intervals, the genre with most movies first, "
            "and how many movies each has; the table below has the numbers.",
        )
        plots["calibration"] = _single(
            380,
            _draw_calibration,
            figures["calibration"]["reliability"],
            alt="Reliability diagram: share of positives against mean probability in each bin, "
            f"expected calibration error {figures['calibration']['ece']:.3f}, and the number of "
            "forecasts in each bin; the table below has the numbers.",
        )
        plots["precision_recall"] = _precision_recall(predictions, rows)
    return plots


def _told(curves: TrainingCurves) -> str:
    best = curves.best
    return (
        f"Learning curves over {len(curves.epochs)} epochs: losses, validation metrics and "
        f"learning rate. The best epoch is {best['epoch']} with {_short(curves.metric)} "
        f"{best[curves.metric]:.3f}{'; training stopped early' if curves.stopped_early else ''}."
    )


def _single(height: float, draw: Callable[["Figure", Any], None], data: Any, alt: str) -> Plot:
    figure = _figure(_WIDTH, height, layout="constrained")
    draw(figure, data)
    return Plot(_png(figure), [_svg(figure, alt)])


def _figure(width: float, height: float, layout: Any = None) -> "Figure":
    from matplotlib.figure import Figure

    # Not by way of pyplot, which looks for a display and keeps every figure.
    return Figure((width / 72, height / 72), layout=layout)


def _draw_training(figure: "Figure", curves: TrainingCurves) -> None:
    from matplotlib.ticker import MaxNLocator

    epochs = [entry["epoch"] for entry in curves.epochs]
    groups = [key for key in curves.epochs[0] if key.startswith("learning_rate/")]
    panels: dict[str, dict[str, str]] = {
        "Loss": {"train/loss": "training", "validation/loss": "validation"},
        "On validation": {
            f"validation/{key}": _short(key) for key in ("f1_macro", "f1_micro", "map_macro")
        },
        "Learning rate": {key: _name(key.removeprefix("learning_rate/")) for key in groups},
    }
    all_axes = figure.subplots(len(panels), 1, sharex=True, height_ratios=[4, 4, 3])
    for axes, (title, series) in zip(all_axes, panels.items(), strict=True):
        for index, (key, label) in enumerate(series.items()):
            axes.plot(
                epochs,
                [entry.get(key, np.nan) for entry in curves.epochs],
                color=_SERIES[index % len(_SERIES)],
                # Thinner than the one before, which equal values would hide.
                linewidth=1 + 2.4 / (index + 1) if series is panels["Learning rate"] else None,
                marker="o",
                label=label,
            )
        axes.axvline(curves.best["epoch"], color=_MUTED, linestyle="--", linewidth=1, zorder=0)
        if curves.stopped_early:
            end = epochs[-1] + 0.25
            axes.axvline(end, color=_INK, linestyle=":", linewidth=1.4, zorder=0)
        _legend_under_title(axes, title)
    rates = all_axes[-1]
    if all(entry.get(key, 1) > 0 for entry in curves.epochs for key in groups):
        rates.set_yscale("log")
        rates.yaxis.set_major_formatter("{x:.0e}")
        rates.minorticks_off()
    rates.set_xlabel("epoch")
    rates.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=8))
    rates.set_xlim(min(epochs) - 0.5, max(epochs) + 0.5)


def _legend_under_title(axes: "Axes", title: str) -> None:
    columns = 3
    lines = -(-len(axes.get_legend_handles_labels()[0]) // columns)
    axes.set_title(title, pad=5 + 14 * lines)
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=columns,
        fontsize=9,
        borderpad=0,
        borderaxespad=0.4,
        handlelength=1.6,
        handletextpad=0.5,
        columnspacing=1.4,
    )


def _draw_genres(figure: "Figure", rows: Sequence[Mapping[str, Any]]) -> None:
    scores, supports = figure.subplots(1, 2, sharey=True, width_ratios=[5, 2])
    places = np.arange(len(rows))
    f1, low, high, at_half = (
        np.array([row[key] for row in rows]) for key in ("f1", "f1_low", "f1_high", "f1_at_0.5")
    )
    scores.hlines(places, low, high, color=_BLUE, linewidth=1.6)
    scores.plot(f1, places, "o", color=_BLUE, markersize=4.5, clip_on=False)
    if (f1 != at_half).any():
        scores.plot(
            at_half, places, "o", color=_ORANGE, fillstyle="none", markersize=4.5, clip_on=False
        )
        scores.set_title("F1, and at 0.5 (open)")
    else:
        scores.set_title("F1")
    scores.set(xlim=(0, 1), xticks=[0, 0.5, 1], xlabel="with 95 % interval")
    scores.set_yticks(places, [_name(row["genre"]) for row in rows], color=_INK)
    scores.set_ylim(len(rows) - 0.4, -0.6)
    scores.tick_params(length=0, pad=6)

    support = np.array([row["support"] for row in rows])
    # From a half, so that one movie is a bar as well.
    supports.barh(places, support.clip(0.5) - 0.5, left=0.5, height=0.6, color=_LINE)
    supports.set(xscale="log", xlim=(0.5, max(2, support.max()) * 12), xlabel="log scale")
    for place, number in zip(places, support, strict=True):
        supports.text(max(number, 0.5) * 1.25, place, f"{number:,}", va="center", fontsize=9)
    supports.set_title("Movies")
    supports.set_xticks([])
    supports.minorticks_off()
    supports.tick_params(length=0)
    supports.grid(visible=False)
    supports.spines[:].set_visible(False)


def _draw_calibration(figure: "Figure", bins: Sequence[Mapping[str, Any]]) -> None:
    shares, counts = figure.subplots(2, 1, sharex=True, height_ratios=[5, 2])
    shares.plot([0, 1], [0, 1], color=_MUTED, linestyle="--", linewidth=1, label="calibrated")
    probability = [row["probability"] for row in bins]
    positives = [row["positives"] for row in bins]
    shares.plot(probability, positives, "o-", color=_BLUE, label="this model", clip_on=False)
    shares.set(xlim=(0, 1), ylim=(0, 1))
    _legend_under_title(shares, "Share of positives")
    counts.bar(
        [row["low"] for row in bins],
        [row["count"] for row in bins],
        [row["high"] - row["low"] for row in bins],
        align="edge",
        color=_BLUE,
        edgecolor=_ON_WHITE["paper"],
    )
    counts.set(yscale="log", ylim=(0.5, None), title="Forecasts in the bin")
    counts.yaxis.set_major_formatter("{x:,.0f}")
    counts.minorticks_off()
    counts.set_xlabel("probability of a genre")


def _precision_recall(predictions: Predictions, rows: Sequence[Mapping[str, Any]]) -> Plot:
    """A panel a genre: one by one for a page, and all in one PNG."""
    genres = list(predictions.genres)
    at_half = per_genre_metrics(
        predictions.probabilities, predictions.labels, genres, DEFAULT_THRESHOLD
    )
    panels = []
    for row in rows:
        column = genres.index(row["genre"])
        panels.append((row, at_half[column], _curve(predictions, column)))
    svgs = []
    for panel in panels:
        figure = _figure(*_PANEL)
        _draw_panel(figure, (0, 0, *_PANEL), *panel)
        svgs.append(_svg(figure, _told_panel(panel[0])))
    width, height = _PANEL
    num_rows = -(-len(panels) // _PANELS_A_ROW)
    figure = _figure(width * _PANELS_A_ROW, height * num_rows)
    for index, panel in enumerate(panels):
        place = divmod(index, _PANELS_A_ROW)
        corner = (place[1] * width, (num_rows - 1 - place[0]) * height)
        _draw_panel(figure, (*corner, width, height), *panel)
    return Plot(_png(figure), svgs)


def _told_panel(row: Mapping[str, Any]) -> str:
    if not row["support"]:
        return f"{row['genre']}: no movie has it."
    return (
        f"Precision against recall of {row['genre']}, average precision "
        f"{row['average_precision']:.3f}; at the threshold {row['threshold']:.3f} precision "
        f"{row['precision']:.3f} and recall {row['recall']:.3f}."
    )


def _curve(predictions: Predictions, column: int) -> np.ndarray | None:
    """(points, 2) recall and precision, thinned; None where no movie has the genre."""
    truth = predictions.labels[:, column]
    if not truth.any():
        return None
    precision, recall, _ = precision_recall_curve(truth, predictions.probabilities[:, column])
    precision, recall = precision[-2::-1], recall[-2::-1]  # recall rises; not the point made up
    steps = np.linspace(0, 1, _CURVE_POINTS)
    kept = np.unique(np.searchsorted(recall, steps).clip(0, len(recall) - 1))
    return np.column_stack([recall[kept], precision[kept]])


def _draw_panel(
    figure: "Figure",
    box: tuple[float, float, float, float],
    row: Mapping[str, Any],
    at_half: Mapping[str, Any],
    curve: np.ndarray | None,
) -> None:
    """A genre's panel in a box (left, bottom, width, height) of points."""
    left, bottom, width, height = box
    whole_width, whole_height = figure.get_size_inches() * 72
    axes = figure.add_axes(
        (
            (left + 36) / whole_width,
            (bottom + 34) / whole_height,
            (width - 48) / whole_width,
            (height - 68) / whole_height,
        )
    )
    axes.set(xlim=(0, 1), ylim=(0, 1), xticks=[0, 0.5, 1], yticks=[0, 0.5, 1])
    axes.set_xticklabels(["0", "0.5", "1"])
    axes.set_yticklabels(["0", "0.5", "1"])
    axes.tick_params(labelsize=9, length=0)
    axes.set_xlabel("recall", fontsize=9, labelpad=2)
    axes.set_ylabel("precision", fontsize=9, labelpad=2)
    axes.text(0, 1.24, _name(row["genre"]), weight="bold", transform=axes.transAxes)
    if curve is None:
        axes.text(0.5, 0.5, "no movie has it", ha="center", va="center", color=_MUTED, fontsize=9)
        return
    told = f"AP {row['average_precision']:.2f} · {row['support']:,} movies"
    axes.text(0, 1.08, told, color=_MUTED, fontsize=9, transform=axes.transAxes)
    axes.plot(*curve.T, color=_BLUE, linewidth=1.4, clip_on=False)
    if row["threshold"] != DEFAULT_THRESHOLD:
        axes.plot(
            at_half["recall"],
            at_half["precision"],
            "o",
            color=_ORANGE,
            fillstyle="none",
            markersize=5,
            clip_on=False,
        )
    axes.plot(row["recall"], row["precision"], "o", color=_ORANGE, markersize=5, clip_on=False)


def _short(key: str) -> str:
    """A metric as people call it."""
    name = key.removeprefix("validation/")
    kind, _, rest = name.partition("_")
    known = {"f1": f"{rest} F1", "map": "mAP" if rest == "macro" else f"{rest} mAP"}
    return known.get(kind, name)


def _name(genre: str) -> str:
    """Short enough for a label, without characters that cannot be drawn."""
    text = "".join(c if c.isprintable() else "\ufffd" for c in genre)
    return text if len(text) <= _NAME_CHARACTERS else f"{text[: _NAME_CHARACTERS - 1]}…"


def _png(figure: "Figure") -> bytes:
    return _saved(figure, format="png", dpi=_PNG_DPI, facecolor=_ON_WHITE["paper"])


def _svg(figure: "Figure", alt: str) -> str:
    """An element for a page, whose colours are the page's variables."""
    metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    root = ET.fromstring(_saved(figure, format="svg", transparent=True, metadata=metadata))
    links = {f"#{element.get('id')}": element for element in root.iter() if element.get("id")}
    used = set()
    for element in root.iter():
        element.tag = element.tag.removeprefix(f"{{{_SVG}}}")
        if _LINK in element.attrib:
            element.set("href", element.attrib.pop(_LINK))
            used.add(element.get("href"))
        used |= {f"#{name}" for name in re.findall(r"url\(#(.+?)\)", element.get("clip-path", ""))}
        style = element.get("style", "")
        for name, color in _ON_WHITE.items():
            style = style.replace(color, f"var(--{name})")
        if style:
            element.set("style", style)
    for name in links.keys() - used:
        del links[name].attrib["id"]
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in ("metadata", "style"):
                parent.remove(child)
    width = float(root.attrib["viewBox"].split()[2])
    root.attrib = {
        "viewBox": root.attrib["viewBox"],
        "style": f"--width: {width:g}px",
        "role": "img",
        "aria-label": "".join(c if c.isprintable() else "\ufffd" for c in alt),
    }
    return ET.tostring(root, encoding="unicode")


def _saved(figure: "Figure", **options: Any) -> bytes:
    file = io.BytesIO()
    with warnings.catch_warnings():
        # Names in scripts that the PNG's font lacks; the page has the reader's fonts.
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(file, **options)
    return file.getvalue()
