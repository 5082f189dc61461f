"""What a data set holds, in numbers: movies in, one JSON-able mapping out."""

import io
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import IO, Any

import numpy as np
from numpy.typing import ArrayLike
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from mmgenre.data.labels import GenreVocabulary
from mmgenre.data.movies import Movies
from mmgenre.data.records import FilePoster, MovieRecord, Poster
from mmgenre.utils.logging import show_progress

# Above the first a poster is larger than any use needs; Pillow warns above the second.
MEGAPIXEL_LIMITS = (4, 89)
_PLOTS_AT_ONCE = 1000

# Width and height from a poster's header; raises OSError where it is no picture. Given by the
# caller, because what counts as a picture is for the code that decodes it to say.
ReadSize = Callable[[IO[bytes]], tuple[int, int]]
CountLengths = Callable[[Sequence[str]], list[int]]


def compute_stats(
    movies: Movies, read_size: ReadSize, max_length: int, count_lengths: CountLengths
) -> dict[str, Any]:
    """Numbers of each split, as plain lists and mappings.

    A histogram has `edges` and one count fewer; a bin holds what lies above its lower and not
    above its upper edge, the first and last bin also what lies outside.

    Args:
        read_size: For posters, whose header alone is read.
        max_length: What a model sees of a plot, in the unit that `count_lengths` counts.
        count_lengths: The lengths of some plots.

    Returns:
        `genres` (in label order), `max_length`, and for each of `splits`: `movies`; `genre_counts`;
        `cooccurrence` (genre, genre), the movies that have both; `genres_per_movie`, the movies
        that have 0, 1, 2, ... genres; `missing`, the movies without plot, poster, both;
        `plot_lengths` and `posters` (see `_plot_lengths`, `_posters`); `credits`, the movies that
        name somebody in a role.
    """
    return {
        "genres": list(movies.vocabulary.genres),
        "max_length": max_length,
        "splits": {
            name: {
                "movies": len(records),
                **_genres(records, movies.vocabulary),
                "missing": {
                    "plot": sum(not record.plot for record in records),
                    "poster": sum(record.poster is None for record in records),
                    "both": sum(not r.plot and r.poster is None for r in records),
                },
                "plot_lengths": _plot_lengths(records, max_length, count_lengths, name),
                "posters": _posters(records, read_size, name),
                "credits": _credits(records),
            }
            for name, records in movies.splits.items()
        },
    }


def count_words(plots: Sequence[str]) -> list[int]:
    """Lengths in words, as white space separates them."""
    return [len(plot.split()) for plot in plots]


def token_counter(tokenizer: PreTrainedTokenizerBase) -> CountLengths:
    """Lengths in tokens, special tokens included, as `max_length` counts them."""

    def count_tokens(plots: Sequence[str]) -> list[int]:
        # Without `verbose`, or the first plot above the tokenizer's own limit gives a warning.
        return [len(ids) for ids in tokenizer(list(plots), verbose=False)["input_ids"]]

    return count_tokens


def _genres(records: Sequence[MovieRecord], vocabulary: GenreVocabulary) -> dict[str, Any]:
    labels = np.array([vocabulary.encode(record.genres) for record in records], dtype=int)
    cooccurrence = labels.T @ labels
    return {
        "genre_counts": dict(zip(vocabulary.genres, cooccurrence.diagonal().tolist(), strict=True)),
        "cooccurrence": cooccurrence.tolist(),
        "genres_per_movie": np.bincount(labels.sum(axis=1)).tolist(),
    }


def _plot_lengths(
    records: Sequence[MovieRecord], max_length: int, count_lengths: CountLengths, split: str
) -> dict[str, Any]:
    """Quantiles, `truncated` (the share of plots longer than `max_length`), and a histogram."""
    plots = [record.plot for record in records if record.plot]
    lengths: list[int] = []
    with _progress(len(plots), f"{split}: reading plots", "plots") as progress:
        for first in range(0, len(plots), _PLOTS_AT_ONCE):
            chunk = plots[first : first + _PLOTS_AT_ONCE]
            lengths += count_lengths(chunk)
            progress.update(len(chunk))
    return {
        **_quantiles(lengths),
        "truncated": _share_above(max_length, lengths),
        # The cut-off is an edge, a quarter of the way.
        "histogram": _histogram(lengths, np.linspace(0, 4 * max_length, 33)),
    }


def _posters(records: Sequence[MovieRecord], read_size: ReadSize, split: str) -> dict[str, Any]:
    """Quantiles of `width`, `height` (pixels, as stored) and `megapixels`, shares above
    `MEGAPIXEL_LIMITS`, a histogram of the megapixels, and which posters are `unreadable` and why.
    """

    def read(poster: Poster) -> tuple[int, int] | str:
        try:
            with _open(poster) as file:
                return read_size(file)
        except FileNotFoundError:
            return "file is missing"
        except OSError as error:
            return str(error)

    there = [(record.id, record.poster) for record in records if record.poster is not None]
    sizes, unreadable = [], []
    # Threads, since reading files is waiting.
    with (
        ThreadPoolExecutor(min(32, 4 * (os.cpu_count() or 1))) as pool,
        _progress(len(there), f"{split}: reading poster sizes", "posters") as progress,
    ):
        results = pool.map(read, [poster for _, poster in there])
        for (movie_id, poster), result in zip(there, results, strict=True):
            if isinstance(result, str):
                unreadable.append({"id": movie_id, "poster": poster.name, "reason": result})
            else:
                sizes.append(result)
            progress.update()
    width, height = np.array(sizes, dtype=int).reshape(-1, 2).T
    megapixels = width * height / 1e6
    return {
        "width": _quantiles(width),
        "height": _quantiles(height),
        "megapixels": _quantiles(megapixels),
        "above_megapixels": {
            str(limit): _share_above(limit, megapixels) for limit in MEGAPIXEL_LIMITS
        },
        # Ten bins to a factor of ten, from 0.001 to 200 megapixels.
        "histogram": _histogram(megapixels, np.round(10 ** (np.arange(-30, 24) / 10), 4)),
        "unreadable": unreadable,
    }


def _open(poster: Poster) -> IO[bytes]:
    # Of a file of its own no more is read than the header.
    if isinstance(poster, FilePoster):
        return poster.path.open("rb")
    return io.BytesIO(poster.read())


def _credits(records: Sequence[MovieRecord]) -> dict[str, int]:
    counts = Counter(role for record in records for role, names in record.credits.items() if names)
    return dict(counts.most_common())


def _quantiles(values: ArrayLike) -> dict[str, float | None]:
    names = {"min": 0, "median": 0.5, "p95": 0.95, "p99": 0.99, "max": 1}
    values = np.asarray(values, dtype=float)
    if not values.size:
        return dict.fromkeys(names)
    return dict(zip(names, np.quantile(values, list(names.values())).tolist(), strict=True))


def _share_above(limit: float, values: ArrayLike) -> float | None:
    values = np.asarray(values)
    return float((values > limit).mean()) if values.size else None


def _histogram(values: ArrayLike, edges: np.ndarray) -> dict[str, list]:
    bins = np.searchsorted(edges[1:-1], np.asarray(values, dtype=float), side="left")
    counts = np.bincount(bins, minlength=len(edges) - 1)
    return {"edges": edges.tolist(), "counts": counts.tolist()}


def _progress(total: int, what: str, unit: str) -> tqdm:
    return tqdm(total=total, desc=what, unit=f" {unit}", disable=not show_progress(), leave=False)
