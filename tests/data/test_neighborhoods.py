"""What a batch sees of the movie graph."""

import numpy as np
import pytest
import torch
from scipy import sparse

from mmgenre.data.graph import MovieGraph
from mmgenre.data.labels import GenreVocabulary
from mmgenre.data.neighborhoods import (
    Neighborhoods,
    NeighborMeans,
    NodeCollator,
    NodeDataset,
    edges,
    sample_neighbors,
)
from mmgenre.data.records import MovieRecord

NUM_NODES = 40


@pytest.fixture(scope="module")
def graph() -> MovieGraph:
    upper = np.triu(np.random.default_rng(0).random((NUM_NODES, NUM_NODES)) < 0.2, 1)
    upper[:, -1] = False  # the last node has no neighbour
    adjacency = sparse.csr_array((upper | upper.T).astype(np.int32))
    return MovieGraph(tuple(f"m{i}" for i in range(NUM_NODES)), adjacency, ("director",))


FEATURES = np.arange(NUM_NODES, dtype=np.float32)[:, None]


def real_edges(nodes: np.ndarray, edge_index: np.ndarray) -> list[tuple[int, int]]:
    return [(int(nodes[i]), int(nodes[j])) for i, j in edge_index.T]


def test_a_sample_is_made_of_edges_of_the_graph_each_once(graph) -> None:
    targets = np.array([3, 7, 39])
    nodes, edge_index = sample_neighbors(graph.adjacency, targets, (3, 2), np.random.default_rng(0))
    assert nodes[:3].tolist() == [3, 7, 39]
    assert len(set(nodes.tolist())) == len(nodes)
    found = real_edges(nodes, edge_index)
    assert len(set(found)) == len(found)
    assert all(graph.adjacency[i, j] for i, j in found)
    neighbors = {j: [i for i, other in found if other == j] for _, j in found}
    first = [neighbors[node] for node in (3, 7)]
    assert [len(drawn) for drawn in first] == [3, 3]
    assert 39 not in neighbors
    second = {node for drawn in first for node in drawn} - {3, 7}
    assert neighbors.keys() == second | {3, 7}
    degrees = np.diff(graph.adjacency.indptr)
    assert all(len(neighbors[node]) == min(2, degrees[node]) for node in second)


def test_enough_draws_are_the_whole_neighbourhood(graph) -> None:
    nodes, edge_index = sample_neighbors(
        graph.adjacency, np.arange(NUM_NODES), (NUM_NODES,), np.random.default_rng(0)
    )
    expected = {(int(i), int(j)) for i, j in edges(graph.adjacency).T}
    assert set(real_edges(nodes, edge_index)) == expected


def test_every_neighbour_has_the_same_chance(graph) -> None:
    node = int(np.diff(graph.adjacency.indptr).argmax())
    neighbors = graph.adjacency.indices[graph.adjacency.indptr[node] :][
        : np.diff(graph.adjacency.indptr)[node]
    ]
    counts = np.zeros(NUM_NODES)
    generator = np.random.default_rng(0)
    for _ in range(4000):
        nodes, _ = sample_neighbors(graph.adjacency, np.array([node]), (4,), generator)
        counts[nodes[1:]] += 1
    expected = 4000 * 4 / len(neighbors)
    assert counts[neighbors] == pytest.approx(np.full(len(neighbors), expected), rel=0.12)


def test_means_are_of_neighbours_by_shared_people_and_one_s_own_without_any(graph) -> None:
    rng = np.random.default_rng(0)
    features = rng.random((NUM_NODES, 3), dtype=np.float32)
    weighted = graph.adjacency.copy()
    shared = rng.integers(1, 4, (NUM_NODES, NUM_NODES))
    weighted.data = (shared + shared.T)[weighted.nonzero()]
    other = MovieGraph(graph.ids, weighted, graph.roles)
    present = np.arange(NUM_NODES) % 2 == 0
    means = NeighborMeans([graph, other], graph.ids, features, present)
    targets = np.array([7, NUM_NODES - 1, 7])
    inputs = means(targets, seed=0)
    assert inputs["text_present"].tolist() == [False, False, False]
    for row, node in zip(inputs["node_vectors"].numpy(), targets, strict=True):
        np.testing.assert_array_equal(row[0], features[node])
        for got, joined in zip(row[1:], (graph, other), strict=True):
            weights = joined.adjacency.toarray()[node]
            own = not weights.any()
            expected = features[node] if own else np.average(features, axis=0, weights=weights)
            np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.parametrize("num_neighbors", [(), (3, 2)])
def test_targets_are_found_again_repeats_too(graph, num_neighbors) -> None:
    present = np.arange(NUM_NODES) % 2 == 0
    neighborhoods = Neighborhoods(graph, FEATURES, present, num_neighbors)
    inputs = neighborhoods(np.array([7, 3, 7]), seed=1)
    rows = inputs["node_features"][inputs["target_nodes"]]
    assert rows.flatten().tolist() == [7, 3, 7]
    assert inputs["image_present"][inputs["target_nodes"]].tolist() == [False, False, False]
    assert len(inputs["node_features"]) == (
        NUM_NODES if not num_neighbors else inputs["image_present"].shape[0]
    )


def test_a_draw_depends_on_seed_epoch_and_movies_alone(graph) -> None:
    records = [MovieRecord(f"m{i}", None, ("Drama",), None) for i in range(20)]

    def draw(seed: int = 0, epoch: int = 0, first: int = 0) -> torch.Tensor:
        neighborhoods = Neighborhoods(graph, FEATURES, num_neighbors=(2, 2))
        dataset = NodeDataset(records, GenreVocabulary(("Drama",)), neighborhoods, seed)
        dataset.epoch = epoch
        batch = NodeCollator(dataset)([dataset[first], dataset[5]])
        assert batch["index"].tolist() == [first, 5]
        assert batch["labels"].tolist() == [[1.0], [1.0]]
        return batch["node_features"]

    assert torch.equal(draw(), draw())
    for changes in ({"seed": 1}, {"epoch": 1}, {"first": 1}):
        assert not torch.equal(draw(), draw(**changes))
