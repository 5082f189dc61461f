"""The numbers of `stats.compute_stats`: tables on the terminal, and files.

<output>/
  stats.json   every number
  stats.png    genres, co-occurrence, plot lengths and poster sizes
"""

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from mmgenre.constants import STATS_FIGURE_FILE, STATS_FILE
from mmgenre.data.stats import MEGAPIXEL_LIMITS
from mmgenre.utils.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

logger = logging.getLogger(__name__)

FIGURE_PIXELS = (1600, 1300)
_DPI = 100
_UNREADABLE_SHOWN = 5

Stats = Mapping[str, Any]


def make_folder(output: str) -> Path:
    """The folder to write to, so that one that cannot be made stops before the work.

    Raises:
        UserError: It cannot be made.
    """
    try:
        Path(output).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"output {output!r} cannot be made: {error.strerror}") from error
    return Path(output)


def print_stats(stats: Stats) -> None:
    """Two tables, and the first posters that cannot be read.

    Args:
        stats: From `compute_stats`, with `length_unit`: `tokens` or `words`.
    """
    console = Console()
    splits = stats["splits"]
    console.print(_overview(stats))
    console.print(_genres(stats))
    for name, split in splits.items():
        unreadable = split["posters"]["unreadable"]
        for item in unreadable[:_UNREADABLE_SHOWN]:
            console.print(
                f"{name}: the poster {item['poster']} of movie {item['id']!r} cannot be read "
                f"({item['reason']})",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
        if len(unreadable) > _UNREADABLE_SHOWN:
            console.print(f"{name}: and {len(unreadable) - _UNREADABLE_SHOWN} more posters")


def write_stats(stats: Stats, folder: Path) -> None:
    """Write both files, as `write_numbers`."""
    write_numbers(stats, folder / STATS_FILE, folder / STATS_FIGURE_FILE, _draw)


def write_numbers(
    stats: Stats, file: Path, figure: Path, draw: Callable[[Stats, Path], None]
) -> None:
    """Write numbers and their figure; without matplotlib the numbers alone, and a warning.

    Raises:
        UserError: One of them cannot be written.
    """
    try:
        text = json.dumps(stats, indent=2, ensure_ascii=False, allow_nan=False)
        file.write_text(f"{text}\n", encoding="utf-8")
        draw(stats, figure)
    except ImportError:
        logger.warning(
            "%s is left out, because matplotlib is not installed; pip install 'mmgenre[plots]'",
            figure,
        )
    except OSError as error:
        raise UserError(f"{str(file.parent)!r} cannot be written to: {error.strerror}") from error
    logger.info("written to %s", file.parent)


def _draw(stats: Stats, path: Path) -> None:
    from matplotlib.figure import Figure

    # Not by way of pyplot, which looks for a display and keeps every figure.
    width, height = FIGURE_PIXELS
    figure = Figure((width / _DPI, height / _DPI), dpi=_DPI, layout="constrained")
    axes = figure.subplots(2, 2, height_ratios=[5, 3])
    _draw_genres(axes[0, 0], stats)
    _draw_cooccurrence(axes[0, 1], stats)
    _draw_plot_lengths(axes[1, 0], stats)
    _draw_posters(axes[1, 1], stats)
    figure.savefig(path)


def _overview(stats: Stats) -> Table:
    splits = stats["splits"].values()
    unit = stats["length_unit"]
    table = _table(stats, "")
    table.add_row("movies", *(f"{split['movies']:,}" for split in splits))
    table.add_row("genres a movie, mean", *(f"{_mean_genres(split):.2f}" for split in splits))
    for what in ("plot", "poster", "both"):
        missing = (_count(split["missing"][what], split["movies"]) for split in splits)
        table.add_row(f"without {what}", *missing)
    for what in ("median", "p95", "max"):
        values = (_number(split["plot_lengths"][what]) for split in splits)
        table.add_row(f"{unit} a plot, {what}", *values)
    table.add_row(
        f"plots above {stats['max_length']} {unit}",
        *(_percent(split["plot_lengths"]["truncated"]) for split in splits),
    )
    posters = [split["posters"] for split in splits]
    for what in ("width", "height"):
        values = (_number(poster[what]["median"]) for poster in posters)
        table.add_row(f"poster {what}, median", *values)
    for limit in MEGAPIXEL_LIMITS:
        shares = (_percent(poster["above_megapixels"][str(limit)]) for poster in posters)
        table.add_row(f"posters above {limit} megapixels", *shares)
    table.add_row("posters unreadable", *(f"{len(poster['unreadable']):,}" for poster in posters))
    for role in dict.fromkeys(role for split in splits for role in split["credits"]):
        named = (_count(split["credits"].get(role, 0), split["movies"]) for split in splits)
        table.add_row(f"with {role}", *named)
    return table


def _genres(stats: Stats) -> Table:
    first = next(iter(stats["splits"]))
    table = _table(stats, "genre")
    table.add_column(f"most often with ({first})")
    together = _shares_together(stats["splits"][first])
    for index, genre in enumerate(stats["genres"]):
        counts = (
            _count(split["genre_counts"][genre], split["movies"])
            for split in stats["splits"].values()
        )
        others = np.delete(together[index], index)
        partner = "-"
        if others.any():
            names = [name for name in stats["genres"] if name != genre]
            partner = f"{names[others.argmax()]} ({others.max():.0%})"
        table.add_row(genre, *counts, partner)
    return table


def _table(stats: Stats, corner: str) -> Table:
    table = Table(corner, box=box.SIMPLE_HEAD)
    for name in stats["splits"]:
        table.add_column(name, justify="right")
    return table


def _draw_genres(axes: "Axes", stats: Stats) -> None:
    genres, splits = stats["genres"], stats["splits"]
    places, height = np.arange(len(genres)), 0.8 / len(splits)
    for index, (name, split) in enumerate(splits.items()):
        counts = [split["genre_counts"][genre] for genre in genres]
        axes.barh(places - 0.4 + (index + 0.5) * height, counts, height, label=name)
    axes.set(title="Movies of each genre", xscale="log", xlabel="movies", xlim=(0.5, None))
    axes.set_yticks(places, genres)
    axes.set_ylim(len(genres) - 0.5, -0.5)
    axes.grid(axis="x", alpha=0.3)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=len(splits), frameon=False)


def _draw_cooccurrence(axes: "Axes", stats: Stats) -> None:
    genres = stats["genres"]
    name, split = next(iter(stats["splits"].items()))
    together = _shares_together(split)
    np.fill_diagonal(together, np.nan)
    largest = np.nanmax(together, initial=0.01)
    image = axes.imshow(together, cmap="viridis", vmin=0, vmax=largest, aspect="auto")
    places = range(len(genres))
    axes.set_xticks(places, genres, rotation=90)
    axes.set_yticks(places, genres)
    axes.set(
        title=f"Share of the row's movies that have the column's genre too ({name})",
        facecolor="lightgrey",
    )
    axes.figure.colorbar(image, ax=axes, format="{x:.0%}")


def _draw_plot_lengths(axes: "Axes", stats: Stats) -> None:
    unit, max_length = stats["length_unit"], stats["max_length"]
    labels = {
        name: f"{name}, {_percent(split['plot_lengths']['truncated'])} above"
        for name, split in stats["splits"].items()
    }
    _draw_histograms(axes, stats, "plot_lengths", labels)
    axes.axvline(max_length, color="black", linestyle="--", label=f"max_length {max_length}")
    axes.set(title="Plot lengths", xlabel=f"{unit} (longer plots in the last bin)")
    axes.legend()


def _draw_posters(axes: "Axes", stats: Stats) -> None:
    posters = {name: split["posters"] for name, split in stats["splits"].items()}
    labels = {
        name: f"{name}, {_percent(poster['above_megapixels'][str(MEGAPIXEL_LIMITS[0])])} above "
        f"{MEGAPIXEL_LIMITS[0]}, {len(poster['unreadable'])} unreadable"
        for name, poster in posters.items()
    }
    _draw_histograms(axes, stats, "posters", labels)
    for limit, style in zip(MEGAPIXEL_LIMITS, ("--", ":"), strict=True):
        axes.axvline(limit, color="black", linestyle=style, label=f"{limit} megapixels")
    axes.set(title="Poster sizes", xlabel="megapixels", xscale="log")
    axes.legend(framealpha=1)


def _draw_histograms(axes: "Axes", stats: Stats, key: str, labels: Mapping[str, str]) -> None:
    """A line a split, as shares, so that splits of different sizes can be compared."""
    from matplotlib.ticker import PercentFormatter

    for index, (name, split) in enumerate(stats["splits"].items()):
        counts = np.array(split[key]["histogram"]["counts"])
        edges = split[key]["histogram"]["edges"]
        shares = counts / max(1, counts.sum())
        # Thinner than the one before, which equal shares would hide.
        axes.stairs(shares, edges, label=labels[name], linewidth=4 / (index + 1))
    axes.set_ylabel("share of the split")
    axes.yaxis.set_major_formatter(PercentFormatter(1))
    axes.grid(alpha=0.3)


def _shares_together(split: Stats) -> np.ndarray:
    """(genre, genre): of the movies with the row's genre, the share with the column's."""
    together = np.array(split["cooccurrence"], dtype=float)
    return together / together.diagonal().clip(1)[:, None]


def _mean_genres(split: Stats) -> float:
    counts = split["genres_per_movie"]
    return sum(genres * movies for genres, movies in enumerate(counts)) / sum(counts)


def _count(count: int, total: int) -> str:
    return f"{count:,} ({count / total:.1%})"


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:,.0f}"
