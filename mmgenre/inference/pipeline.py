"""Genres of movies as they come: the class behind `mmgenre predict`."""

import io
import os
import re
from collections import deque
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image

from mmgenre.checkpoints import find_model
from mmgenre.models.base import GenrePreTrainedModel
from mmgenre.models.pictures import open_poster
from mmgenre.models.registry import load_model, load_processor
from mmgenre.utils.errors import UserError

# More than any plot has; a tokenizer's time and memory grow with it, whatever is cut afterwards.
MAX_PLOT_CHARACTERS = 1_000_000
# Enough that decoding goes on while the model computes.
_BATCHES_AHEAD = 2
_MAX_THREADS = 4
_SHOWN_CHARACTERS = 200
# What a model's modality is called here.
_NAMES = {"image": "poster", "text": "plot", "features": "features"}

Movie = Mapping[str, Any]
Prediction = dict[str, Any]


class Encoded(NamedTuple):
    """A movie that is ready to be batched."""

    images: dict[str, torch.Tensor]
    plot: str | None
    features: Mapping[str, Any] | None


class GenrePipeline:
    """Predicts genres, as `transformers.pipeline` would.

    A movie is a mapping with `poster` (a path, a PIL image, or something whose `read()` gives the
    file's bytes), `plot` (text) and, for models over ready-made vectors, `features` (name to
    vector). What a movie does not have is None or left out; one that the model takes is needed.
    `error` says why a movie could not even be read, and becomes its prediction.

    Its prediction is a mapping with `probabilities`, genre to probability in label order, and
    `genres`, those above the model's own thresholds, the most probable first.

    Args:
        model: Any system but those of a movie graph.
        processor: The one saved with the model.
        device: None is a GPU where there is one.
        batch_size: Movies in a forward pass.

    Raises:
        UserError: The model needs a movie graph, or the device is none.
    """

    def __init__(
        self,
        model: GenrePreTrainedModel,
        processor: Any,
        device: str | torch.device | None = None,
        batch_size: int = 16,
    ) -> None:
        if hasattr(model.config, "graph_roles"):
            raise UserError(
                f"{model.config.model_type} predicts a movie from its neighbours in the graph of "
                "its data set, so it cannot take movies one by one; use evaluate.py"
            )
        if batch_size < 1:
            raise UserError(f"batch_size is {batch_size}; it must be 1 at least")
        if device is None:
            device = "cuda" if torch.cuda.is_available() else "cpu"
        try:
            self.device = torch.zeros(1, device=device).device
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"device {str(device)!r} cannot be used ({reason})") from error
        self.model = model.eval().to(self.device)
        self.processor = processor
        self.batch_size = batch_size
        self.genres = model.config.genres
        self.thresholds = model.config.thresholds or [0.5] * len(self.genres)

    @classmethod
    def from_pretrained(
        cls, path: str, device: str | torch.device | None = None, batch_size: int = 16
    ) -> "GenrePipeline":
        """Load a model.

        Args:
            path: A run's folder (its best checkpoint), a saved model's folder, or a Hub name.

        Raises:
            UserError: There is no model, a file of it is missing or broken, or as the class.
        """
        path = find_model(str(path))
        try:
            return cls(load_model(path), load_processor(path), device, batch_size)
        except ValueError as error:
            raise UserError(str(error)) from error

    def __call__(self, movies: Movie | Iterable[Movie]) -> Any:
        """The prediction of one movie, or a list of those of several.

        Raises:
            ValueError: A movie cannot be predicted; names its place and the reason.
        """
        if isinstance(movies, Mapping):
            return self([movies])[0]
        predictions = []
        for index, prediction in enumerate(self.stream(movies)):
            if "error" in prediction:
                raise ValueError(f"movie {index}: {prediction['error']}")
            predictions.append(prediction)
        return predictions

    def stream(self, movies: Iterable[Movie]) -> Generator[Prediction, None, None]:
        """Predict movies as they come, a few batches behind; memory does not grow.

        Yields:
            A movie's prediction, or only an `error`, which says in a sentence why there is none.
        """
        movies = iter(movies)
        ahead: deque[list[Future[Encoded]]] = deque()
        # Threads, since Pillow and torch release the interpreter lock.
        pool = ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1))
        try:
            while batch := list(islice(movies, self.batch_size)):
                ahead.append([pool.submit(self.encode, movie) for movie in batch])
                if len(ahead) > _BATCHES_AHEAD:
                    yield from self._predict(ahead.popleft())
            while ahead:
                yield from self._predict(ahead.popleft())
        finally:
            pool.shutdown(cancel_futures=True)

    def encode(self, movie: Movie) -> Encoded:
        """What can be done for a movie by itself.

        Raises:
            ValueError: It has nothing that the model takes, or too much.
            OSError: The poster cannot be read.
        """
        if "error" in movie:
            raise ValueError(movie["error"])
        unknown = movie.keys() - set(_NAMES.values())
        if unknown:
            known = ", ".join(_NAMES.values())
            raise ValueError(f"{sorted(unknown)[0]!r} is unknown; a movie can have {known}")
        taken = [_NAMES[modality] for modality in self.processor.modalities]
        values = {name: movie.get(name) for name in taken}
        plot = values.get("plot")
        if plot is not None:
            values["plot"] = plot = _clean_plot(plot)
        if all(value is None for value in values.values()):
            raise ValueError(
                f"there is no {' and no '.join(taken)}, and the model takes nothing else"
            )
        poster = values.get("poster")
        if poster is not None:
            poster = self._open(poster)
        return Encoded(self.processor.encode_images([poster]), plot, values.get("features"))

    def _open(self, poster: Any) -> Image.Image:
        if isinstance(poster, Image.Image):
            return poster
        if isinstance(poster, (str, os.PathLike)):
            return self._open_file(str(poster))
        if not hasattr(poster, "read"):
            raise ValueError(f"poster must be a path or a picture, not {type(poster).__name__}")
        try:
            return open_poster(io.BytesIO(poster.read()), self.model.config.poster_side)
        except OSError as error:
            raise OSError(f"the poster cannot be read ({error})") from error

    def _open_file(self, path: str) -> Image.Image:
        name = repr(path[:_SHOWN_CHARACTERS])
        if is_url(path):
            raise ValueError(f"poster {name} is a URL, and nothing is downloaded; give a file")
        try:
            if not Path(path).is_file():
                problem = "is a folder" if Path(path).is_dir() else "does not exist"
                raise ValueError(f"poster {name} {problem}; give a picture's file")
            return open_poster(path, self.model.config.poster_side)
        except OSError as error:
            reason = error.strerror or error  # without the path, which can be long
            raise OSError(f"poster {name} cannot be read ({reason})") from error

    def _predict(self, futures: Sequence[Future[Encoded]]) -> Iterator[Prediction]:
        batch: list[Encoded | str] = []
        for future in futures:
            try:
                batch.append(future.result())
            except (OSError, ValueError) as error:
                batch.append(str(error))
        movies = [movie for movie in batch if isinstance(movie, Encoded)]
        rows = iter(self._probabilities(movies)) if movies else iter(())
        for movie in batch:
            yield {"error": movie} if isinstance(movie, str) else self._decide(next(rows))

    def collate(self, movies: Sequence[Encoded]) -> dict[str, torch.Tensor]:
        """Inputs of the model's `forward`, on its device."""
        inputs = {
            **{name: torch.cat([m.images[name] for m in movies]) for name in movies[0].images},
            **self.processor.encode_text([movie.plot for movie in movies]),
            **self.processor.encode_features([movie.features for movie in movies]),
        }
        return {name: value.to(self.device) for name, value in inputs.items()}

    @torch.inference_mode()
    def _probabilities(self, movies: Sequence[Encoded]) -> list[list[float]]:
        return self.model(**self.collate(movies)).logits.double().sigmoid().tolist()

    def _decide(self, probabilities: Sequence[float]) -> Prediction:
        if not all(0 <= p <= 1 for p in probabilities):
            return {"error": "the model's output is not finite"}
        rows = zip(self.genres, probabilities, self.thresholds, strict=True)
        chosen = sorted((-p, genre) for genre, p, threshold in rows if p > threshold)
        return {
            "genres": [genre for _, genre in chosen],
            "probabilities": dict(zip(self.genres, probabilities, strict=True)),
        }


def is_url(path: str) -> bool:
    """Whether it names something that would have to be downloaded."""
    return re.match(r"[a-zA-Z][a-zA-Z0-9+.-]+://|data:", path) is not None


def _clean_plot(plot: Any) -> str | None:
    """The text, None where it is blank; halves of characters, which JSON can hold, become `?`."""
    if not isinstance(plot, str):
        raise ValueError(f"plot must be text, not {type(plot).__name__}")
    if len(plot) > MAX_PLOT_CHARACTERS:
        raise ValueError(
            f"plot has {len(plot):,} characters; it can have {MAX_PLOT_CHARACTERS:,} at most"
        )
    return plot.encode("utf-8", "replace").decode() if plot.strip() else None
