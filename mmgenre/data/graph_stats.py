"""What a movie graph holds: counts, degrees, components, and how alike neighbours are."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import sparse
from scipy.sparse.csgraph import connected_components

from mmgenre.data.credits import normalize_name
from mmgenre.data.graph import MovieGraph
from mmgenre.data.records import MovieRecord

NUM_HUBS = 10
# Pairs beyond this are sampled; the mean of so many is exact to three digits.
MAX_PAIRS = 1_000_000
_DEGREE_QUANTILES = {"median": 0.5, "p95": 0.95, "max": 1.0}


def compute_graph_stats(
    graph: MovieGraph, records: Sequence[MovieRecord], seed: int = 0
) -> dict[str, Any]:
    """Numbers of a graph, ready for JSON.

    Homophily is the mean Jaccard index of the genres of two movies, over edges and over pairs of
    movies at random; of movies without any genre there is none.

    Args:
        records: The graph's movies, in node order.
        seed: Of the random pairs.
    """
    degrees = np.diff(graph.adjacency.indptr)
    num_components, component = connected_components(graph.adjacency, directed=False)
    sizes = np.bincount(component)
    bins = degree_bins(degrees)
    upper = sparse.coo_array(sparse.triu(graph.adjacency))
    weights = np.bincount(upper.data) if upper.nnz else np.zeros(1, dtype=int)
    return {
        "roles": list(graph.roles),
        "max_movies": graph.max_movies,
        "nodes": len(graph),
        "edges": int(upper.nnz),
        "isolated": int((degrees == 0).sum()),
        "components": int(num_components),
        "largest_component": int(sizes.max()),
        "degree": {
            "mean": float(degrees.mean()),
            **{name: float(np.quantile(degrees, q)) for name, q in _DEGREE_QUANTILES.items()},
        },
        "degree_histogram": {
            "edges": bins.tolist(),
            "counts": np.histogram(degrees, bins)[0].tolist(),
        },
        "shared_people": {str(n): int(count) for n, count in enumerate(weights) if count},
        "hubs": _hubs(graph, records),
        "left_out": [list(person) for person in graph.left_out],
        "with_training_neighbor": _with_training_neighbor(graph, records),
        "homophily": _homophily(upper, records, seed),
    }


def degree_bins(degrees: np.ndarray) -> np.ndarray:
    """Borders of a histogram: 0 by itself, then powers of two."""
    powers = int(degrees.max(initial=1)).bit_length()
    return np.array([0, *(2**i for i in range(powers + 1))])


def _hubs(graph: MovieGraph, records: Sequence[MovieRecord]) -> list[list[Any]]:
    """The people with the most movies: name, as it is spelled first, and number."""
    left_out = {name for name, _ in graph.left_out}
    movies: Counter[str] = Counter()
    spelled: dict[str, str] = {}
    for record in records:
        names = {normalize_name(n): n for role in graph.roles for n in record.credits.get(role, ())}
        for name, spelling in names.items():
            spelled.setdefault(name, spelling)
        movies.update(set(names) - left_out - {""})
    return [[spelled[name], count] for name, count in movies.most_common(NUM_HUBS)]


def _with_training_neighbor(graph: MovieGraph, records: Sequence[MovieRecord]) -> dict[str, float]:
    """Of the movies of each split that the data set names, the share with a training neighbour."""
    splits = np.array([record.split or "" for record in records])
    counts = graph.adjacency @ (splits == "train").astype(np.int64)
    names = [name for name in dict.fromkeys(splits.tolist()) if name]
    return {name: float((counts[splits == name] > 0).mean()) for name in names}


def _homophily(
    edges: sparse.coo_array, records: Sequence[MovieRecord], seed: int
) -> dict[str, float | None]:
    genres = {name: i for i, name in enumerate(sorted({g for r in records for g in r.genres}))}
    labels = np.zeros((len(records), len(genres)), dtype=bool)
    for row, record in enumerate(records):
        labels[row, [genres[genre] for genre in record.genres]] = True
    generator = np.random.default_rng(seed)
    pairs = np.stack([edges.row, edges.col])
    if pairs.shape[1] > MAX_PAIRS:
        pairs = pairs[:, generator.choice(pairs.shape[1], MAX_PAIRS, replace=False)]
    first = generator.integers(len(records), size=MAX_PAIRS)
    # Another movie than the first, each with equal chance.
    second = first + generator.integers(1, max(2, len(records)), size=MAX_PAIRS)
    second %= len(records)
    return {
        "edges": _mean_jaccard(labels[pairs[0]], labels[pairs[1]]),
        "random_pairs": _mean_jaccard(labels[first], labels[second]),
    }


def _mean_jaccard(one: np.ndarray, other: np.ndarray) -> float | None:
    union = (one | other).sum(axis=1)
    shared = (one & other).sum(axis=1)[union > 0]
    return float((shared / union[union > 0]).mean()) if len(shared) else None
