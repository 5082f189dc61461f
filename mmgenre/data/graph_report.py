"""The numbers of `graph_stats.compute_graph_stats`: tables on the terminal, and files.

<output>/
  graph_stats.json   every number
  graph_stats.png    degrees, people shared, homophily
"""

import itertools
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from mmgenre.constants import GRAPH_FIGURE_FILE, GRAPH_STATS_FILE
from mmgenre.data.stats_report import Stats, write_numbers


def print_graph_stats(stats: Stats) -> None:
    """Two tables: the graph, and the people with the most movies."""
    nodes, degree, homophily = stats["nodes"], stats["degree"], stats["homophily"]
    table = Table("movie graph", box=box.SIMPLE_HEAD)
    table.add_column(justify="right")
    table.add_row("roles", ", ".join(stats["roles"]))
    table.add_row("movies", f"{nodes:,}")
    table.add_row("edges", f"{stats['edges']:,}")
    table.add_row("movies without an edge", _share(stats["isolated"], nodes))
    table.add_row("components", f"{stats['components']:,}")
    table.add_row("movies in the largest", _share(stats["largest_component"], nodes))
    for name, value in degree.items():
        table.add_row(f"neighbours, {name}", f"{value:,.1f}")
    for split, share in stats["with_training_neighbor"].items():
        table.add_row(f"{split} movies with a neighbour in train", f"{share:.1%}")
    table.add_row("Jaccard index of genres, neighbours", _number(homophily["edges"]))
    table.add_row("Jaccard index of genres, random pairs", _number(homophily["random_pairs"]))
    if stats["left_out"]:
        table.add_row(
            f"people left out, above {stats['max_movies']} movies", f"{len(stats['left_out']):,}"
        )
    hubs = Table("people with the most movies", box=box.SIMPLE_HEAD)
    hubs.add_column("movies", justify="right")
    for name, count in stats["hubs"]:
        hubs.add_row(name, f"{count:,}")
    console = Console()
    console.print(table)
    console.print(hubs, markup=False)


def write_graph_stats(stats: Stats, folder: Path) -> None:
    """Write both files, as `write_numbers`."""
    write_numbers(stats, folder / GRAPH_STATS_FILE, folder / GRAPH_FIGURE_FILE, _draw)


def _draw(stats: Stats, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure((15, 4.5), dpi=100, layout="constrained")
    degrees, shared, homophily = figure.subplots(1, 3)

    borders, counts = (np.array(stats["degree_histogram"][key]) for key in ("edges", "counts"))
    degrees.bar(range(len(counts)), counts)
    names = [str(a) if b - a <= 1 else f"{a}-{b - 1}" for a, b in itertools.pairwise(borders)]
    degrees.set_xticks(range(len(counts)), names, rotation=45, ha="right")
    degrees.set(title="Neighbours of a movie", xlabel="neighbours", ylabel="movies")

    weights = stats["shared_people"]
    shared.bar(list(weights), list(weights.values()))
    shared.set(title="People that an edge stands for", xlabel="shared people", ylabel="edges")
    if weights:
        shared.set_yscale("log")

    values = {
        "neighbours": stats["homophily"]["edges"] or 0.0,
        "random pairs": stats["homophily"]["random_pairs"] or 0.0,
    }
    homophily.bar(list(values), list(values.values()))
    homophily.set(title="Genres in common", ylabel="mean Jaccard index")
    figure.savefig(path)


def _share(count: int, total: int) -> str:
    return f"{count:,} ({count / total:.1%})"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
