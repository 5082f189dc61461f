"""The nodes of the movie graph, which graph systems have beside the movies' own inputs.

Node features are computed once, by all processes together, and kept in a file: beside the prepared
data where there is some, otherwise in the run. Its name holds a hash of all that they depend on.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from tqdm import tqdm

from mmgenre.configs.arguments import DataArguments
from mmgenre.constants import NODE_FEATURES_FILE
from mmgenre.data.collator import GenreCollator
from mmgenre.data.credits import expand_roles
from mmgenre.data.dataset import MovieDataset, drop_broken_posters
from mmgenre.data.graph import MovieGraph, build_graph, load_graph
from mmgenre.data.loaders import create_eval_loader
from mmgenre.data.movies import Movies
from mmgenre.data.neighborhoods import Neighborhoods, NeighborMeans, NodeDataset
from mmgenre.data.records import MovieRecord, RejectedPoster
from mmgenre.data.tokenizer import are_tokens_usable, fingerprint
from mmgenre.models.base import GenrePreTrainedModel
from mmgenre.models.gat import GatConfig, GraphPreTrainedModel
from mmgenre.models.mm_gatbt import MmGatbtForSequenceClassification
from mmgenre.models.pictures import open_poster
from mmgenre.models.processing_mmgenre import MMGenreProcessor
from mmgenre.models.sign import SignConfig, SignForSequenceClassification
from mmgenre.utils.errors import UserError
from mmgenre.utils.logging import show_progress

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ReadyFeatures:
    """Vectors of a movie that are in memory."""

    vectors: dict[str, np.ndarray]

    def read(self) -> dict[str, np.ndarray]:
        return self.vectors


@dataclass(frozen=True)
class GraphNodes:
    """All movies as nodes, and which of them a system sees.

    Attributes:
        ids: Of the movies, in node order.
        graphs: One, or one a relation.
        features: (nodes, feature_dim), memory-mapped where they were kept in a file.
        present: (nodes,) booleans, which nodes have what features are made of.
        rejected: Posters that cannot be used.
        splits: The ids of each split.
        setting: As in `DataArguments.graph_setting`.
    """

    ids: list[str]
    graphs: list[MovieGraph]
    features: np.ndarray
    present: np.ndarray
    rejected: list[RejectedPoster]
    splits: dict[str, list[str]]
    setting: str

    def neighborhoods(
        self, split: str, config: GatConfig | SignConfig, num_neighbors: Sequence[int]
    ) -> Neighborhoods | NeighborMeans:
        """What is seen when a system is used on a split.

        Under `transductive` that is every movie, whose labels play no part. Under `inductive` it
        is the training movies, and those of the split itself, which are new then.
        """
        ids, graphs, features, present = self.ids, self.graphs, self.features, self.present
        if self.setting == "inductive":
            places = self._places("train", split)
            ids = [ids[place] for place in places]
            graphs = [graph.select(ids) for graph in graphs]
            features, present = features[places], present[places]
        mask = present if config.missing_modality == "learned" else None
        if isinstance(config, SignConfig):
            return NeighborMeans(graphs, ids, features, mask)
        return Neighborhoods(graphs[0], features, mask, num_neighbors)

    def features_of(self, split: str) -> np.ndarray:
        """(movies, feature_dim) of the movies in a split that have any."""
        places = np.array(self._places(split))
        return self.features[places[self.present[places]]]

    def _places(self, *splits: str) -> list[int]:
        node = {movie_id: i for i, movie_id in enumerate(self.ids)}
        return [
            node[movie_id] for split in dict.fromkeys(splits) for movie_id in self.splits[split]
        ]


def create_nodes(
    accelerator: Accelerator,
    model: GenrePreTrainedModel,
    processor: Any,
    movies: Movies,
    data: DataArguments,
    batch_size: int,
    cache_dir: Path | None,
) -> GraphNodes | None:
    """The nodes of a graph system; None for any other. Called by all processes.

    Args:
        cache_dir: Where node features are kept unless the data is prepared; None keeps none.

    Raises:
        UserError: There are no credits to make edges of, a poster is broken and `broken_posters` is
            `error`, or the graph that `data` names is of other movies or other roles.
    """
    if not isinstance(model, GraphPreTrainedModel | SignForSequenceClassification):
        return None
    if any(count < 1 for count in data.graph_neighbors):
        raise UserError(f"graph_neighbors is {data.graph_neighbors}; each must be 1 or more")
    is_of_plots = isinstance(model, SignForSequenceClassification)
    if is_of_plots and (data.graph is not None or data.graph_neighbors):
        raise UserError(
            "graph and graph_neighbors are for gat and mm_gatbt; sign makes its graphs of the "
            "credits and takes the mean of all neighbours"
        )
    records = [record for split in movies.splits.values() for record in split]
    graphs = _find_graphs(model.config, records, data.graph)
    for graph in graphs:
        logger.info("movie graph of %d movies and %d edges", len(graph), graph.adjacency.nnz // 2)
    source = (_plots if is_of_plots else _posters)(model, processor, records, movies, data)
    path = None
    if data.prepared_dir is not None or cache_dir is not None:
        content_hash = None if movies.manifest is None else movies.manifest.content_hash
        name = _fingerprint(source, content_hash)
        path = Path(data.prepared_dir or cache_dir or "") / NODE_FEATURES_FILE.format(name)
    is_there = torch.tensor([path is not None and path.exists()], device=accelerator.device)
    # All processes read, or all compute: the file may be on one machine's disk alone.
    if path is not None and accelerator.gather(is_there).all():
        logger.info("node features are read from %s", path)
        features = np.load(path, mmap_mode="r", allow_pickle=False)
    else:
        model.to(accelerator.device)
        features = _encode(accelerator, source, batch_size, data.dataloader_num_workers)
        if path is not None and accelerator.is_main_process:
            _keep(features, path)
    return GraphNodes(
        [record.id for record in records],
        graphs,
        features,
        np.array(source.present),
        list(source.dataset.rejected),
        {name: [record.id for record in split] for name, split in movies.splits.items()},
        data.graph_setting,
    )


@dataclass(frozen=True)
class _Source:
    """What node features are made of.

    Attributes:
        present: (nodes,), which movies have it.
        encoder: Its weights decide the features; `others` is all else that does.
        encode: A batch's features (batch, feature_dim).
    """

    dataset: MovieDataset
    present: list[bool]
    processor: MMGenreProcessor
    encoder: nn.Module
    encode: Callable[[dict[str, torch.Tensor]], torch.Tensor]
    others: Any


def _posters(
    model: Any,
    processor: Any,
    records: Sequence[MovieRecord],
    movies: Movies,
    data: DataArguments,
) -> _Source:
    min_side = 2 * model.config.image_size
    checked, rejected = drop_broken_posters(records, open_poster, min_side, data.broken_posters)
    pictures = MMGenreProcessor(processor.image_processor, None, ["image"])
    return _Source(
        MovieDataset(checked, movies.vocabulary, open_poster, min_side, rejected=rejected),
        [record.poster is not None for record in checked],
        pictures,
        model.image_encoder,
        lambda batch: model.encode_posters(batch["pixel_values"]),
        (
            pictures.image_processor.to_json_string(),
            [(r.id, None if r.poster is None else r.poster.name) for r in checked],
        ),
    )


def _plots(
    model: Any,
    processor: Any,
    records: Sequence[MovieRecord],
    movies: Movies,
    data: DataArguments,
) -> _Source:
    config, tokenizer = model.config, processor.tokenizer
    use_tokens = are_tokens_usable(records, tokenizer, config.max_length)
    return _Source(
        MovieDataset(records, movies.vocabulary, None, 0, use_tokens=use_tokens),
        [bool(record.plot) for record in records],
        processor,
        model.text_encoder,
        lambda batch: model.encode_plots(batch["input_ids"], batch["attention_mask"]),
        (
            (config.max_length, config.missing_plot, fingerprint(tokenizer)),
            [(r.id, r.plot) for r in records],
        ),
    )


def create_node_dataset(
    nodes: GraphNodes,
    split: str,
    movies: Movies,
    config: GatConfig | SignConfig,
    data: DataArguments,
    seed: int = 0,
) -> NodeDataset:
    """A split's data set for a system that sees the neighbours of each batch."""
    records = movies.split(split)
    ids = {record.id for record in records}
    return NodeDataset(
        records,
        movies.vocabulary,
        neighborhoods=nodes.neighborhoods(split, config, data.graph_neighbors),
        seed=seed,
        rejected=[poster for poster in nodes.rejected if poster.id in ids],
    )


def add_node_embeddings(
    nodes: GraphNodes,
    split: str,
    records: Sequence[MovieRecord],
    model: MmGatbtForSequenceClassification,
    data: DataArguments,
) -> list[MovieRecord]:
    """A split's movies with their node's vector as a feature."""
    neighborhoods = nodes.neighborhoods(split, model.config, data.graph_neighbors)
    targets = np.array([neighborhoods.node[record.id] for record in records])
    inputs = {name: x.to(model.device) for name, x in neighborhoods(targets, seed=0).items()}
    places = inputs.pop("target_nodes")
    vectors = model.embed_nodes(**inputs)[places].cpu().numpy()
    return [
        replace(record, features=ReadyFeatures({"node_embedding": vector}))
        for record, vector in zip(records, vectors, strict=True)
    ]


def _find_graphs(
    config: GatConfig | SignConfig, records: Sequence[MovieRecord], folder: str | None
) -> list[MovieGraph]:
    if isinstance(config, SignConfig):
        relations = config.graph_relations
        return [build_graph(records, roles, config.graph_max_movies) for roles in relations]
    if folder is None:
        return [build_graph(records, config.graph_roles, config.graph_max_movies)]
    graph = load_graph(Path(folder))
    asked = (expand_roles(config.graph_roles), config.graph_max_movies)
    if (graph.roles, graph.max_movies) != asked:
        raise UserError(
            f"the movie graph in {folder} has the roles {', '.join(graph.roles)} and the cap "
            f"{graph.max_movies}, and the model's config has {', '.join(asked[0])} and {asked[1]}"
        )
    return [graph.select([record.id for record in records])]


def _encode(
    accelerator: Accelerator, source: _Source, batch_size: int, num_workers: int
) -> np.ndarray:
    """(movies, feature_dim); each process encodes its part."""
    loader = create_eval_loader(
        source.dataset, batch_size, GenreCollator(source.processor), num_workers
    )
    parts = []
    for batch in tqdm(
        accelerator.prepare_data_loader(loader),
        desc="encoding movies",
        unit=" batches",
        disable=not show_progress(),
        leave=False,
    ):
        with accelerator.autocast():
            features = source.encode(batch).float()
        parts.append(accelerator.gather_for_metrics(features).cpu().numpy())
    return np.concatenate(parts)


def _keep(features: np.ndarray, path: Path) -> None:
    temporary = path.with_suffix(".tmp.npy")
    try:
        np.save(temporary, features, allow_pickle=False)
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        logger.warning("node features cannot be kept in %s (%s)", path, error.strerror)


def _fingerprint(source: _Source, content_hash: str | None) -> str:
    """Of all that decides node features but the precision."""
    digest = hashlib.blake2b(digest_size=8)
    for name, tensor in source.encoder.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.cpu().contiguous().numpy().data)
    digest.update(json.dumps([source.others, content_hash]).encode())
    return digest.hexdigest()
