"""What building the movie graph costs at MM-IMDb's size, as one table.

`python benchmarks/graph.py`
"""

import multiprocessing
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

NUM_MOVIES = 26_000
NUM_COMPARED = 1_000
NUM_SAME = 500
# Of each role of the medium set: names a movie on average, people in all for 26,000 movies, and the
# offset of their power law, which sets how many movies the busiest have: about 50 of a director,
# 100 of a producer, 250 of an art director, as in studio times.
CREDITS = {
    "director": (1.1, 12_000, 60),
    "producer": (3.0, 30_000, 60),
    "writer": (2.5, 35_000, 60),
    "cinematographer": (1.1, 7_000, 40),
    "art director": (1.2, 6_000, 10),
}
EXPONENT = 0.8


def make_movies(num_movies: int, seed: int = 0) -> list[Any]:
    """Movies with nothing but credits, whose people follow a power law."""
    import numpy as np

    from mmgenre.data.records import MovieRecord

    generator = np.random.default_rng(seed)
    scale = num_movies / NUM_MOVIES
    credits: list[dict[str, tuple[str, ...]]] = [{} for _ in range(num_movies)]
    for role, (mean, people, offset) in CREDITS.items():
        weights = (np.arange(1, int(people * scale) + 1) + offset * scale) ** -EXPONENT
        counts = 1 + generator.poisson(mean - 1, num_movies)
        names = generator.choice(len(weights), counts.sum(), p=weights / weights.sum())
        for movie, part in zip(credits, np.split(names, np.cumsum(counts)[:-1]), strict=True):
            movie[role] = tuple(f"{role} {name}" for name in part)
    return [
        MovieRecord(id=f"m{i}", plot=None, genres=(), poster=None, credits=movie)
        for i, movie in enumerate(credits)
    ]


def pairwise_edges(records: Sequence[Any], roles: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Edges as the published code finds them: each movie against each other, in both directions."""
    names = [[n for role in roles for n in r.credits.get(role, ())] for r in records]
    for i, own in enumerate(names):
        people = set(own)
        for j, others in enumerate(names):
            if i != j and people.intersection(set(others)):
                yield i, j


def measure_graph() -> dict[str, Any]:
    import numpy as np

    from mmgenre.data.graph import build_graph

    records = make_movies(NUM_MOVIES)
    before = peak_gib()
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        graph = build_graph(records, ["medium"])
        seconds.append(time.perf_counter() - started)
    few = records[:NUM_COMPARED]
    started = time.perf_counter()
    loop = sum(1 for _ in pairwise_edges(few, graph.roles))
    loop_seconds = time.perf_counter() - started
    assert loop == build_graph(few, ["medium"]).adjacency.nnz
    same = records[:NUM_SAME]
    ours = build_graph(same, ["medium"]).adjacency.tocoo()
    theirs = list(pairwise_edges(same, graph.roles))
    return {
        "seconds": min(seconds),
        "gib": peak_gib() - before,
        "edges": graph.adjacency.nnz // 2,
        "loop_seconds": loop_seconds * (NUM_MOVIES / NUM_COMPARED) ** 2,
        "same": sorted(zip(ours.row.tolist(), ours.col.tolist(), strict=True)) == theirs,
        "mean_degree": float(np.diff(graph.adjacency.indptr).mean()),
    }


def peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def apart(measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Run in a process of its own, so that its peak memory is its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure).result()


def main() -> None:
    graph = apart(measure_graph)
    ratio = graph["loop_seconds"] / graph["seconds"]
    rows = [
        ("movies / edges / mean neighbours",
         f"{NUM_MOVIES:,} / {graph['edges']:,} / {graph['mean_degree']:.0f}", ""),
        ("building the graph", f"{graph['seconds']:.2f} s", "< 10 s"),
        ("memory above the movies' own", f"{graph['gib']:.2f} GiB", "< 2 GiB"),
        (f"pairwise loop, from {NUM_COMPARED:,} movies by the square of their number",
         f"{graph['loop_seconds']:,.0f} s", ""),
        ("the loop against ours", f"{ratio:,.0f} x", ">= 500 x"),
        (f"same edges as the loop on {NUM_SAME} movies", "yes" if graph["same"] else "NO", "yes"),
    ]  # fmt: skip
    print("| movie graph | measured | limit |\n|---|---:|---:|")
    for row in rows:
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    main()
