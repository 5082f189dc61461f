"""The movie graph at MM-IMDb's size: building it, and an epoch of GAT. Prints one table.

`python benchmarks/graph.py`; `--no_gat` leaves the epoch out, which needs torch-geometric.
"""

import argparse
import multiprocessing
import os
import resource
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any

NUM_MOVIES = 26_000
NUM_COMPARED = 1_000
NUM_SAME = 500
NUM_NEIGHBORS = (10,)
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


def measure_epoch() -> dict[str, Any]:
    """One step on all nodes is an epoch, with 10 neighbours drawn of each."""
    import numpy as np
    import torch

    from mmgenre.data.graph import build_graph
    from mmgenre.data.neighborhoods import Neighborhoods
    from mmgenre.models.gat import NODE_FEATURE_DIM
    from mmgenre.models.registry import SYSTEMS, create_config, load_class

    torch.set_num_threads(2)
    graph = build_graph(make_movies(NUM_MOVIES), ["medium"])
    features = np.random.default_rng(0).standard_normal(
        (NUM_MOVIES, NODE_FEATURE_DIM), dtype=np.float32
    )
    neighborhoods = Neighborhoods(graph, features, num_neighbors=NUM_NEIGHBORS)
    config = create_config("gat", [f"genre {i}" for i in range(23)], {})
    model = load_class(SYSTEMS["gat"].model)(config).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    labels = torch.randint(2, (NUM_MOVIES, 23))
    seconds, phases = [], {}
    for epoch in range(3):
        started = time.perf_counter()
        inputs = neighborhoods(np.arange(NUM_MOVIES), seed=epoch)
        sampled = time.perf_counter()
        model(**inputs, labels=labels).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        seconds.append(time.perf_counter() - started)
        phases = {"draw": sampled - started, "edges": inputs["edge_index"].shape[1]}
    return {"seconds": min(seconds[1:]), **phases, "gib": peak_gib()}


def measure_steps() -> dict[str, Any]:
    """MMBT and MM-GATBT in turns: 8 movies of 128 tokens, a BERT of 4 layers of 256, ResNet-18."""
    import torch

    from mmgenre.models.registry import SYSTEMS, create_config, load_class

    torch.set_num_threads(2)
    torch.manual_seed(0)
    text = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4}
    text |= {"intermediate_size": 1024}
    batch = {"input_ids": torch.randint(1000, 2000, (8, 128))}
    batch |= {"attention_mask": torch.ones(8, 128, dtype=torch.long)}
    own = {"mmbt": {"pixel_values": torch.randn(8, 3, 224, 224)}}
    own |= {"mm_gatbt": {"node_embedding": torch.rand(8, 256)}}
    architectures = {"mmbt": "resnet18", "mm_gatbt": "efficientnet_b0"}
    models, optimizers, seconds = {}, {}, {}
    for name, architecture in architectures.items():
        values = {"text_config": text, "image_architecture": architecture}
        config = create_config(name, [f"genre {i}" for i in range(23)], values)
        models[name] = load_class(SYSTEMS[name].model)(config).train()
        trained = [p for p in models[name].parameters() if p.requires_grad]
        optimizers[name] = torch.optim.AdamW(trained, fused=True)
        seconds[name] = []
    for _ in range(8):
        for name, model in models.items():
            started = time.perf_counter()
            model(**batch, **own[name], labels=torch.ones(8, 23)).loss.backward()
            optimizers[name].step()
            optimizers[name].zero_grad()
            seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(times[2:]) for name, times in seconds.items()}


def peak_gib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def apart(measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Run in a process of its own, so that its peak memory is its own."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(measure).result()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--no_gat", action="store_true", help="leave the epoch out")
    args = parser.parse_args()
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
    if not args.no_gat:
        epoch = apart(measure_epoch)
        drawn = ", ".join(map(str, NUM_NEIGHBORS))
        rows += [
            (f"GAT epoch, full size, one step, {drawn} neighbours each ({epoch['edges']:,} edges)",
             f"{epoch['seconds']:.1f} s", "< 5 s"),
            ("of which drawing neighbours", f"{epoch['draw']:.1f} s", ""),
            ("memory of the process", f"{epoch['gib']:.1f} GiB", ""),
        ]  # fmt: skip
        steps = apart(measure_steps)
        rows.append(
            ("step of MM-GATBT against MMBT's (8 movies, 128 tokens, small encoders)",
             f"{steps['mm_gatbt'] / steps['mmbt']:.2f} x", "<= 1.1 x"),
        )  # fmt: skip
    print("| movie graph | measured | limit |\n|---|---:|---:|")
    for row in rows:
        print(f"| {' | '.join(row)} |")


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "2")
    # glibc otherwise gives memory of this size back after every operation and asks for it anew.
    os.environ.setdefault("MALLOC_MMAP_MAX_", "0")
    os.environ.setdefault("MALLOC_TRIM_THRESHOLD_", str(2**40))
    os.environ.setdefault("MALLOC_TOP_PAD_", str(2**30))
    main()
