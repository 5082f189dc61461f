"""What `mmgenre prepare` writes (`mmgenre/data/prepare.py` shows the folder), memory-mapped."""

import io
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mmgenre.constants import PREPARED_MANIFEST_FILE, PREPARED_SHARD_FILE
from mmgenre.data.records import MovieRecord, RejectedPoster
from mmgenre.utils.errors import UserError
from mmgenre.utils.io import replace_file

FORMAT_VERSION = 1
SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("plot", pa.string()),
        ("genres", pa.list_(pa.string())),
        ("title", pa.string()),
        ("year", pa.int64()),
        ("credits", pa.map_(pa.string(), pa.list_(pa.string()))),
        ("split", pa.string()),
        ("poster", pa.binary()),  # a JPEG
        ("defect", pa.string()),  # why there is no poster
        ("input_ids", pa.list_(pa.int32())),
        ("features", pa.map_(pa.string(), pa.binary())),  # by name, each a .npy file
    ]
)


@dataclass(frozen=True)
class Shard:
    """One file: its movies, its bytes and the SHA-256 of its content."""

    num_movies: int
    size: int
    sha256: str


@dataclass
class Manifest:
    """What a folder was prepared from, and what it holds.

    Attributes:
        source: Absolute path or Hub name of the data set.
        data_format: The reader's name.
        options: What decides the content beside the source; see `prepare.PrepareOptions`.
        versions: Of the libraries that made it.
        is_complete: False while it is being written.
        splits: Split to its number of movies; `none` is of those that name no split.
        rejected_posters: All that could not be used.
        shards: In the order of their numbers.
        content_hash: SHA-256 over those of the shards.
    """

    source: str
    data_format: str
    options: dict[str, Any]
    versions: dict[str, str]
    is_complete: bool = False
    splits: dict[str, int] = field(default_factory=dict)
    rejected_posters: list[RejectedPoster] = field(default_factory=list)
    shards: list[Shard] = field(default_factory=list)
    content_hash: str | None = None
    format_version: int = FORMAT_VERSION

    @property
    def num_movies(self) -> int:
        return sum(shard.num_movies for shard in self.shards)

    def write(self, folder: Path) -> None:
        text = json.dumps(asdict(self), indent=1, ensure_ascii=False)
        replace_file(folder / PREPARED_MANIFEST_FILE, text.encode(errors="backslashreplace"))


def shard_file(folder: Path, number: int) -> Path:
    return folder / PREPARED_SHARD_FILE.format(number)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a folder, complete or not.

    Raises:
        UserError: It is missing, broken, or of another format version.
    """
    file = folder / PREPARED_MANIFEST_FILE
    try:
        values = json.loads(file.read_bytes())
        version = values["format_version"]
        if version == FORMAT_VERSION:
            manifest = Manifest(**values)
            manifest.shards = [Shard(**shard) for shard in values["shards"]]
            manifest.rejected_posters = [
                RejectedPoster(**rejected) for rejected in values["rejected_posters"]
            ]
            return manifest
    except FileNotFoundError as error:
        raise UserError(f"{folder} holds no {PREPARED_MANIFEST_FILE}") from error
    except OSError as error:
        raise UserError(f"{file} cannot be read ({error.strerror})") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file} is broken; `mmgenre prepare SOURCE {folder} --overwrite` makes it anew"
        ) from error
    raise UserError(
        f"{folder} was prepared in format version {version}, and this mmgenre reads "
        f"{FORMAT_VERSION}; `mmgenre prepare SOURCE {folder} --overwrite` makes it anew"
    )


def open_manifest(folder: Path) -> Manifest:
    """The manifest of a folder that is complete; sizes are checked, hashes are not.

    Raises:
        UserError: As `read_manifest`; it is not complete; a shard is missing or has another size.
    """
    manifest = read_manifest(folder)
    if not manifest.is_complete:
        raise UserError(
            f"{folder} is not complete; `mmgenre prepare {manifest.source} {folder}` with the "
            "options of before goes on with it"
        )
    for number, shard in enumerate(manifest.shards):
        file = shard_file(folder, number)
        try:
            size = file.stat().st_size
        except OSError as error:
            raise UserError(f"{file} cannot be read ({error.strerror}); {_anew(folder)}") from error
        if size != shard.size:
            raise UserError(f"{file} has {size} bytes in place of {shard.size}; {_anew(folder)}")
    return manifest


def is_complete(folder: Path, source: str | None) -> bool:
    """Whether `folder` was prepared, from `source` where that is named.

    Raises:
        UserError: It was prepared from another source; or as `read_manifest`.
    """
    if not (folder / PREPARED_MANIFEST_FILE).exists():
        return False
    manifest = read_manifest(folder)
    if source is not None and manifest.source != absolute_source(source):
        raise UserError(
            f"{folder} was prepared from {manifest.source}, not from {absolute_source(source)}; "
            "name another prepared_dir"
        )
    return manifest.is_complete


def absolute_source(source: str) -> str:
    """As it stands in a manifest: the absolute path, or a Hub name as it is."""
    return str(Path(source).resolve()) if Path(source).exists() else source


def read_prepared(path: str) -> Iterator[MovieRecord]:
    """Yield the movies in the source's order.

    Raises:
        UserError: As `open_manifest`, or a shard is broken.
    """
    folder = Path(path)
    manifest = open_manifest(folder)
    rejected = {poster.id: poster for poster in manifest.rejected_posters}
    tokenizer = manifest.options["tokenizer_fingerprint"], manifest.options["max_length"]
    for number in range(len(manifest.shards)):
        file = shard_file(folder, number)
        try:
            movies = open_shard(file)
        except OSError as error:
            raise UserError(f"{file} cannot be read ({error}); {_anew(folder)}") from error
        columns = [movies[name].to_pylist() for name in ("id", "plot", "title", "year", "split")]
        genres = _lists(movies["genres"])
        credits = _dicts_of_lists(movies["credits"])
        has = {
            name: movies[name].is_valid().to_pylist()
            for name in ("poster", "input_ids", "features")
        }
        for row, (movie_id, plot, title, year, split) in enumerate(zip(*columns, strict=True)):
            yield MovieRecord(
                id=movie_id,
                plot=plot,
                genres=genres[row],
                poster=PosterRow(file, row) if has["poster"][row] else None,
                title=title,
                year=year,
                credits=credits[row],
                split=split,
                features=FeatureRow(file, row) if has["features"][row] else None,
                tokens=TokenRow(file, row, *tokenizer) if has["input_ids"][row] else None,
                rejected=rejected.get(movie_id),
            )


def map_shard(file: Path) -> pa.RecordBatch:
    """The movies of a shard, mapped into memory.

    Raises:
        OSError: It is missing or broken.
    """
    try:
        with pa.ipc.open_file(pa.memory_map(str(file))) as reader:
            return reader.get_batch(0)
    except pa.ArrowInvalid as error:
        raise OSError(f"not an Arrow file: {error}") from error


open_shard = cache(map_shard)  # once a process
# Arrow's handles hold locks, which a child process must not inherit.
os.register_at_fork(after_in_child=open_shard.cache_clear)


@dataclass(frozen=True)
class PosterRow:
    """A poster in a shard. Holds and pickles no more than where it is."""

    file: Path
    row: int
    is_checked = True

    @property
    def name(self) -> str:
        return f"{self.file}#row{self.row}"

    def read(self) -> bytes:
        return open_shard(self.file)["poster"][self.row].as_py()


@dataclass(frozen=True)
class TokenRow:
    """A plot's token ids in a shard."""

    file: Path
    row: int
    fingerprint: str
    max_length: int

    def read(self) -> np.ndarray:
        return open_shard(self.file)["input_ids"][self.row].values.to_numpy()


@dataclass(frozen=True)
class FeatureRow:
    """A movie's feature vectors in a shard."""

    file: Path
    row: int

    def read(self) -> dict[str, np.ndarray]:
        arrays = open_shard(self.file)["features"][self.row].as_py()
        return {name: np.load(io.BytesIO(array), allow_pickle=False) for name, array in arrays}


# Arrow's own `to_pylist` takes several times as long for nested columns.
def _lists(column: pa.ListArray) -> list[tuple[str, ...]]:
    names, ends = column.values.to_pylist(), column.offsets.to_pylist()
    return [tuple(names[start:end]) for start, end in pairwise(ends)]


def _dicts_of_lists(column: pa.MapArray) -> list[dict[str, tuple[str, ...]]]:
    pairs = list(zip(column.keys.to_pylist(), _lists(column.items), strict=True))
    return [dict(pairs[start:end]) for start, end in pairwise(column.offsets.to_pylist())]


def _anew(folder: Path) -> str:
    return f"`mmgenre prepare SOURCE {folder} --overwrite` makes the folder anew"
