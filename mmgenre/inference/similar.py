"""The movies of a training set that a model finds most alike another."""

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import xxhash
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from mmgenre.data.records import MovieRecord
from mmgenre.inference.pipeline import Encoded, GenrePipeline
from mmgenre.utils.errors import UserError
from mmgenre.utils.io import replace_file
from mmgenre.utils.logging import log_progress

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SimilarMovies:
    """Movies by what the model's classifier sees of them.

    Attributes:
        embeddings: (movies, dim), of length 1.
    """

    pipeline: GenrePipeline
    records: Sequence[MovieRecord]
    embeddings: torch.Tensor

    @classmethod
    def build(
        cls, pipeline: GenrePipeline, records: Sequence[MovieRecord], path: Path | None = None
    ) -> "SimilarMovies":
        """Embed the movies that the model can take, or read them where they were stored.

        Args:
            path: File to keep the embeddings in; None keeps none.

        Raises:
            UserError: The model can take none of the movies.
        """
        fingerprint = _fingerprint(pipeline, records)
        stored = None if path is None else _read(path, fingerprint)
        if stored is None:
            places, embeddings = _embed_all(pipeline, records)
            if path is not None:
                _keep(path, fingerprint, places, embeddings)
        else:
            places, embeddings = stored
        return cls(pipeline, [records[place] for place in places.tolist()], embeddings)

    def nearest(self, movie: Encoded, number: int) -> list[tuple[MovieRecord, float]]:
        """The most similar movies and their cosines, the nearest first."""
        similarities = self.embeddings @ _embed(self.pipeline, [movie])[0]
        best = similarities.topk(min(number, len(self.records)))
        return [
            (self.records[place], cosine)
            for cosine, place in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]


@torch.inference_mode()
def _embed(pipeline: GenrePipeline, movies: Sequence[Encoded]) -> torch.Tensor:
    output = pipeline.model(**pipeline.collate(movies), output_embedding=True)
    return torch.nn.functional.normalize(output.embedding.float(), dim=-1).cpu()


def _embed_all(
    pipeline: GenrePipeline, records: Sequence[MovieRecord]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Places (movies,) in `records`, and embeddings (movies, dim)."""
    places, parts = [], []
    with log_progress(logger, "embedded", len(records), "training movies") as advance:
        for start in range(0, len(records), pipeline.batch_size):
            batch = []
            chunk = records[start : start + pipeline.batch_size]
            for place, record in enumerate(chunk, start):
                features = None if record.features is None else record.features.read()
                movie = {"poster": record.poster, "plot": record.plot, "features": features}
                try:
                    batch.append(pipeline.encode(movie))
                except (OSError, ValueError) as error:
                    logger.warning("left out %s: %s", record.id, error)
                else:
                    places.append(place)
            if batch:
                parts.append(_embed(pipeline, batch))
            advance(len(chunk))
    if not parts:
        raise UserError("the model can take none of the training movies")
    return torch.tensor(places), torch.cat(parts)


def _fingerprint(pipeline: GenrePipeline, records: Sequence[MovieRecord]) -> str:
    """Of the weights, and of which movies there are."""
    digest = xxhash.xxh3_128()
    for tensor in pipeline.model.state_dict().values():
        digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy())
    movies = [(r.id, None if r.poster is None else r.poster.name, r.plot) for r in records]
    digest.update(json.dumps(movies).encode())
    return digest.hexdigest()


def _read(path: Path, fingerprint: str) -> tuple[torch.Tensor, torch.Tensor] | None:
    try:
        with safe_open(path, "pt") as file:
            if file.metadata().get("fingerprint") == fingerprint:
                return file.get_tensor("places"), file.get_tensor("embeddings")
    except (OSError, SafetensorError, AttributeError):  # of a file without metadata
        pass
    return None


def _keep(path: Path, fingerprint: str, places: torch.Tensor, embeddings: torch.Tensor) -> None:
    tensors = {"places": places, "embeddings": embeddings}
    try:
        replace_file(path, save(tensors, {"fingerprint": fingerprint}))
    except OSError as error:
        logger.warning("embeddings cannot be kept in %s (%s)", path, error.strerror)
