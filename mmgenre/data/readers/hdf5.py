"""`multimodal_imdb.hdf5` (Arevalo et al. 2017): feature vectors and 23 labels, no plot, no poster.

The file's `images` are left alone: they are not posters but input of a VGG network, cropped to
160 x 256, BGR, and in some copies with a mean subtracted, so that no picture can be had from them.
Its `sequences` are word numbers whose words are in another file (a pickle).
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from reprlib import repr as short_repr
from typing import Any

import numpy as np

from mmgenre.data.labels import canonical_genre
from mmgenre.data.readers import HDF5_FILE, HDF5_SUFFIXES
from mmgenre.data.readers import _fields as fields
from mmgenre.data.records import MovieRecord
from mmgenre.utils.errors import UserError

# The file's arrays of vectors, under the names of the model inputs that they are.
FEATURES = {"image_features": "vgg_features", "text_features": "features"}
_BATCH_SIZE = 1000


@dataclass(frozen=True)
class FeatureRow:
    """A movie's vectors: `image_features` (4096,), VGG16's of its poster, and `text_features`
    (300,), the mean word2vec vector of its plot."""

    file: Path
    row: int

    def read(self) -> dict[str, np.ndarray]:
        # Opened anew for each movie: a handle kept open neither pickles nor survives a fork.
        with _open(self.file) as handle:
            return {name: handle[array][self.row] for name, array in FEATURES.items()}


def read_hdf5(path: str) -> Iterator[MovieRecord]:
    """Yield the movies, split by split in the file's order.

    Args:
        path: The file, or the folder that holds it as `multimodal_imdb.hdf5`.

    Raises:
        UserError: h5py is not installed, or the file is missing or lacks a part.
    """
    file = Path(path)
    if file.suffix not in HDF5_SUFFIXES:
        file = file / HDF5_FILE
    if not file.is_file():
        raise UserError(f"{path} holds no {HDF5_FILE}")
    taken: dict[str, str] = {}
    with _open(file) as handle:
        with fields.located(str(file)):
            ids, genres = _array(handle, "imdb_ids"), _array(handle, "genres")
            names = _target_names(genres)
            for name in ("genres", *FEATURES.values()):
                if len(_array(handle, name)) != len(ids):
                    raise UserError(f"{name} has {len(handle[name])} rows, imdb_ids {len(ids)}")
            splits = _splits(handle, len(ids))
        for split, rows in splits:
            for first in range(rows.start, rows.stop, _BATCH_SIZE):
                batch = rows[first - rows.start :][:_BATCH_SIZE]
                chunk = slice(batch.start, batch.stop)
                for row, movie_id, label in zip(batch, ids[chunk], genres[chunk], strict=True):
                    movie = MovieRecord(
                        id=movie_id.decode(errors="replace"),
                        plot=None,
                        genres=tuple(names[column] for column in np.flatnonzero(label)),
                        poster=None,
                        split=split,
                        features=FeatureRow(file, row),
                    )
                    with fields.located(f"{file} row {row}"):
                        fields.claim_id(taken, movie.id, f"row {row}")
                    yield movie


@contextmanager
def _open(file: Path) -> Iterator[Any]:
    """The opened file.

    Raises:
        UserError: h5py is not installed, or the file is broken.
    """
    try:
        import h5py
    except ImportError as error:
        raise UserError(
            f"reading {file} needs h5py, which is not installed; pip install h5py"
        ) from error
    try:
        # Without locks, which some file systems of clusters do not have.
        with h5py.File(file, "r", locking=False) as handle:
            yield handle
    except OSError as error:
        raise UserError(f"{file} cannot be read as HDF5 ({error})") from error


def _array(handle: Any, name: str) -> Any:
    """A data set of the file, not of another file that it links to."""
    import h5py

    link = handle.get(name, getlink=True)
    if link is None:
        raise UserError(f"has no {name}; it has {', '.join(handle)}")
    array = handle[name] if isinstance(link, h5py.HardLink) else None
    if not isinstance(array, h5py.Dataset) or array.is_virtual or array.external:
        raise UserError(f"{name} is no array of this file; links to other places are not followed")
    return array


def _target_names(genres: Any) -> list[str]:
    """The genre of each column of `genres`."""
    try:
        names = json.loads(genres.attrs["target_names"])
    except KeyError:
        raise UserError(
            "genres has no attribute target_names, a JSON list with the genre of each column"
        ) from None
    except ValueError as error:
        raise UserError(f"target_names of genres is broken JSON: {error}") from error
    if not fields.is_names(names) or (len(names),) != genres.shape[1:]:
        raise UserError(
            f"target_names must name the columns of genres, whose shape is {genres.shape}, not "
            f"{short_repr(names)}"
        )
    return [canonical_genre(name) for name in names]


def _splits(handle: Any, num_movies: int) -> list[tuple[str, range]]:
    """The rows of each split, from Fuel's table of (split, source, start, stop, ...)."""
    table = np.asarray(handle.attrs.get("split"))
    if not {"split", "source", "start", "stop"} <= set(table.dtype.names or ()):
        raise UserError("has no attribute split, Fuel's table with the rows of each split")
    splits = []
    for entry in table[table["source"] == b"genres"]:
        name, rows = entry["split"].decode(), range(int(entry["start"]), int(entry["stop"]))
        if rows.start < 0 or rows.stop > num_movies:
            raise UserError(
                f"split {name!r} is rows {rows.start} to {rows.stop} of {num_movies} movies"
            )
        splits.append((fields.split(name), rows))
    return splits
