"""Batches of a movie graph: the batch's movies and those that they attend to."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy import sparse

from mmgenre.data.dataset import MovieDataset, sample_seed
from mmgenre.data.graph import MovieGraph
from mmgenre.data.labels import GenreVocabulary
from mmgenre.data.records import MovieRecord, RejectedPoster
from mmgenre.utils.errors import UserError


class Neighborhoods:
    """Model inputs of nodes: everything, or a sample of neighbours hop by hop.

    A sample keeps memory bounded by the batch, whatever the size of the graph (Hamilton et al.
    2017, arXiv 1706.02216). torch-geometric's own sampler needs an extension in C++; this one
    needs numpy.

    Args:
        features: (nodes, feature_dim); can be memory-mapped.
        present: (nodes,) booleans, which nodes have a poster; None leaves it out of the inputs.
        num_neighbors: Neighbours drawn of each node, for each hop; none is the whole graph.
    """

    def __init__(
        self,
        graph: MovieGraph,
        features: np.ndarray,
        present: np.ndarray | None = None,
        num_neighbors: Sequence[int] = (),
    ) -> None:
        self.adjacency = graph.adjacency
        self.node = {movie_id: i for i, movie_id in enumerate(graph.ids)}
        self.features = features
        self.present = present
        self.num_neighbors = tuple(num_neighbors)
        if not self.num_neighbors:
            # A tensor that all batches share.
            self.everything = self._inputs(slice(None), edges(graph.adjacency))

    def __call__(self, targets: np.ndarray, seed: int) -> dict[str, torch.Tensor]:
        """`node_features`, `edge_index`, `target_nodes` and, if given, `image_present`.

        Args:
            targets: (batch,) nodes that are asked for.
            seed: Of the sample.
        """
        if not self.num_neighbors:
            return {**self.everything, "target_nodes": torch.from_numpy(targets)}
        generator = np.random.default_rng(seed)
        nodes, edge_index = sample_neighbors(
            self.adjacency, np.unique(targets), self.num_neighbors, generator
        )
        places = np.searchsorted(np.unique(targets), targets)
        return {**self._inputs(nodes, edge_index), "target_nodes": torch.from_numpy(places)}

    def _inputs(self, nodes: Any, edge_index: np.ndarray) -> dict[str, torch.Tensor]:
        inputs = {
            "node_features": torch.tensor(self.features[nodes]),
            "edge_index": torch.from_numpy(edge_index),
        }
        if self.present is not None:
            inputs["image_present"] = torch.tensor(self.present[nodes])
        return inputs


class NeighborMeans:
    """Model inputs of nodes that see nothing of their neighbours but the mean.

    Args:
        graphs: One a relation, of the same movies in the same order.
        ids: Of the nodes.
        features: (nodes, feature_dim); can be memory-mapped.
        present: (nodes,) booleans, which nodes have a plot; None leaves it out of the inputs.
    """

    def __init__(
        self,
        graphs: Sequence[MovieGraph],
        ids: Sequence[str],
        features: np.ndarray,
        present: np.ndarray | None = None,
    ) -> None:
        self.node = {movie_id: i for i, movie_id in enumerate(ids)}
        own = np.asarray(features)
        parts = [own, *(_mean_of_neighbors(graph.adjacency, own) for graph in graphs)]
        self.everything = {"node_vectors": torch.from_numpy(np.stack(parts, axis=1))}
        if present is not None:
            self.everything["text_present"] = torch.from_numpy(present)

    def __call__(self, targets: np.ndarray, seed: int) -> dict[str, torch.Tensor]:
        """`node_vectors` (batch, 1 + relations, feature_dim) and, if given, `text_present`.

        Args:
            targets: (batch,) nodes that are asked for.
            seed: Plays no part.
        """
        return {name: values[torch.from_numpy(targets)] for name, values in self.everything.items()}


def _mean_of_neighbors(adjacency: sparse.csr_array, features: np.ndarray) -> np.ndarray:
    """(nodes, feature_dim), weighted by shared people; a node without neighbours has its own."""
    weights = adjacency.sum(axis=1)[:, None]
    mean = adjacency @ features / np.maximum(weights, 1)
    return np.where(weights > 0, mean, features).astype(features.dtype)


class NodeDataset(MovieDataset):
    """Movies of which nothing but the node is needed; `labels` and `index` as in `MovieDataset`."""

    def __init__(
        self,
        records: Sequence[MovieRecord],
        vocabulary: GenreVocabulary,
        neighborhoods: Neighborhoods | NeighborMeans,
        seed: int = 0,
        rejected: Sequence[RejectedPoster] = (),
    ) -> None:
        super().__init__(records, vocabulary, decode=None, min_side=0, seed=seed, rejected=rejected)
        self.neighborhoods = neighborhoods
        self.nodes = np.array([neighborhoods.node[record.id] for record in records])

    def with_records(self, records: Sequence[MovieRecord]) -> "NodeDataset":
        """Not of nodes.

        Raises:
            UserError: Always.
        """
        raise UserError(
            "this system sees posters through node features that were computed before, so posters "
            "cannot be taken away for ablations"
        )

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"labels": self.labels[index], "index": index}


@dataclass(frozen=True)
class NodeCollator:
    """Batches samples of a `NodeDataset`: its neighborhoods' inputs, `labels` and `index`.

    The draw of neighbours is a function of the data set's seed and epoch and the batch's first
    movie, so it does not depend on workers or restarts.
    """

    dataset: NodeDataset

    def __call__(self, samples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        dataset = self.dataset
        index = torch.tensor([sample["index"] for sample in samples])
        first = dataset.records[int(index[0])].id
        seed = sample_seed(dataset.seed, dataset.epoch, first)
        return {
            **dataset.neighborhoods(dataset.nodes[index.numpy()], seed),
            "labels": torch.stack([sample["labels"] for sample in samples]),
            "index": index,
        }


def edges(adjacency: sparse.csr_array) -> np.ndarray:
    """(2, edges) of all edges, in both directions: the second row attends to the first."""
    rows = np.repeat(np.arange(adjacency.shape[0]), np.diff(adjacency.indptr))
    return np.stack([adjacency.indices, rows]).astype(np.int64)


def sample_neighbors(
    adjacency: sparse.csr_array,
    targets: np.ndarray,
    num_neighbors: Sequence[int],
    generator: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw neighbours of the targets, neighbours of these, and so on, each node's once.

    Args:
        targets: Without repeats.
        num_neighbors: Of each node at most, for each hop; uniform, without replacement.

    Returns:
        The nodes (nodes,), targets first, and edges (2, edges) between places in them, as `edges`.
    """
    place = np.full(adjacency.shape[0], -1)
    place[targets] = np.arange(len(targets))
    parts, frontier, size = [targets], targets, len(targets)
    sources, owners = [], []
    for count in num_neighbors:
        starts = adjacency.indptr[frontier]
        degrees = adjacency.indptr[frontier + 1] - starts
        owner = np.repeat(np.arange(len(frontier)), degrees)
        rank = np.arange(len(owner)) - np.repeat(np.cumsum(degrees) - degrees, degrees)
        # A random order within each owner; short of 1, so that rounding never makes the next owner.
        order = np.argsort(owner + 0.999 * generator.random(len(owner)))
        chosen = order[rank < count]
        source = adjacency.indices[starts[owner[chosen]] + rank[chosen]]
        sources.append(source)
        owners.append(frontier[owner[chosen]])
        frontier = np.unique(source[place[source] < 0])
        place[frontier] = np.arange(size, size + len(frontier))
        parts.append(frontier)
        size += len(frontier)
    edge_index = place[np.stack([np.concatenate(sources), np.concatenate(owners)])]
    return np.concatenate(parts), edge_index
