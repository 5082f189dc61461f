"""One shard of a prepared folder: what a worker process makes of a few movies."""

import hashlib
import io
import json
import multiprocessing
import os
import threading
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import pyarrow as pa
from PIL import ExifTags, Image

from mmgenre.data.readers.prepared import FORMAT_VERSION, SCHEMA, Shard, map_shard
from mmgenre.data.records import Decoder, MovieRecord, RejectedPoster
from mmgenre.utils.errors import UserError
from mmgenre.utils.io import replace_file

_JPEG_QUALITY = 90
# A side longer than so many poster sizes is cut down to it, whatever becomes of the aspect ratio: a
# model sees a square, and JPEG ends at 65,500 pixels.
_MAX_SIDE_RATIO = 16


@dataclass(frozen=True)
class Task:
    """A shard to write.

    Attributes:
        input_ids: Token ids of each movie's plot; None where there are none.
        options: As in the manifest.
        decode: `models.pictures.open_poster`.
    """

    file: Path
    records: list[MovieRecord]
    input_ids: list[np.ndarray | None]
    options: dict[str, Any]
    decode: Decoder


@dataclass(frozen=True)
class Result:
    """A shard that is there now.

    Attributes:
        is_kept: It was there already, made from the same movies, posters and options.
    """

    shard: Shard
    splits: Counter[str]
    rejected: list[RejectedPoster]
    is_kept: bool


class Stopped(Exception):
    """The main process wants no more shards."""


_stop: Any = None  # an event of the main process


def start_worker(stop: Any) -> None:
    """What a worker process does first.

    Args:
        stop: Event that ends the work within a poster.
    """
    global _stop
    _stop = stop
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def write_shard(task: Task) -> Result:
    """Write a shard, or keep the one that is there.

    Raises:
        OSError: It cannot be written.
        UserError: A movie's fields cannot be stored.
    """
    kept = _find_shard(task.file)
    if kept is not None:
        key = _key(task.options, (_digest(r, _read(r)) for r in task.records))
        if (kept.schema.metadata or {}).get(b"key") == key.encode():
            return _result(task, kept["defect"].to_pylist(), task.file.read_bytes(), is_kept=True)
    rows, digests = [], []
    for record, input_ids in zip(task.records, task.input_ids, strict=True):
        if _stop.is_set():
            raise Stopped
        sources = _read(record)
        digests.append(_digest(record, sources))
        rows.append(_row(record, input_ids, sources, task))
    schema = SCHEMA.with_metadata({"key": _key(task.options, digests)})
    sink = pa.BufferOutputStream()
    try:
        batch = pa.RecordBatch.from_pylist(rows, schema)
    except (ValueError, OverflowError) as error:
        raise cannot_store(task.records, error) from error
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(batch)
    content = sink.getvalue().to_pybytes()
    replace_file(task.file, content)
    return _result(task, [row["defect"] for row in rows], content, is_kept=False)


def _result(task: Task, defects: list[str | None], content: bytes, is_kept: bool) -> Result:
    rejected = [
        record.rejected or RejectedPoster(record.id, _poster_name(record), defect)
        for record, defect in zip(task.records, defects, strict=True)
        if defect is not None
    ]
    shard = Shard(len(task.records), len(content), hashlib.sha256(content).hexdigest())
    splits = Counter(record.split or "none" for record in task.records)
    return Result(shard, splits, rejected, is_kept)


def _poster_name(record: MovieRecord) -> str:
    assert record.poster is not None
    return record.poster.name


def _find_shard(file: Path) -> pa.RecordBatch | None:
    try:
        return map_shard(file)
    except OSError:
        return None


@dataclass(frozen=True)
class _Sources:
    """What a record only points to."""

    poster: bytes | None
    defect: str | None
    features: list[tuple[str, bytes]] | None


def _read(record: MovieRecord) -> _Sources:
    poster, defect = None, record.rejected.reason if record.rejected else None
    if record.poster is not None:
        try:
            poster = record.poster.read()
        except OSError as error:
            defect = str(error)
    features = None
    if record.features is not None:
        features = [(name, _npy(array)) for name, array in record.features.read().items()]
    return _Sources(poster, defect, features)


def _npy(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _digest(record: MovieRecord, sources: _Sources) -> str:
    """Hash of all that a movie's row is made from, the options apart."""
    texts = [record.id, record.plot, record.genres, record.title, record.year, record.split]
    digest = hashlib.sha256(json.dumps([*texts, record.credits, sources.defect]).encode())
    for part in (sources.poster, *(array for _, array in sources.features or ())):
        digest.update(hashlib.sha256(part or b"").digest())
    return digest.hexdigest()


def _key(options: dict[str, Any], digests: Iterable[str]) -> str:
    """What a shard was made from: a shard with the same key need not be made again."""
    makers = [FORMAT_VERSION, PIL.__version__, options["poster_size"]]
    makers += [options["tokenizer_fingerprint"], options["max_length"]]
    return hashlib.sha256(json.dumps([makers, *digests]).encode()).hexdigest()


def _row(
    record: MovieRecord, input_ids: np.ndarray | None, sources: _Sources, task: Task
) -> dict[str, Any]:
    poster, defect = None, sources.defect
    if sources.poster is not None:
        try:
            poster = _small_jpeg(sources.poster, task.decode, task.options["poster_size"])
        except OSError as error:
            defect = str(error)
    return {
        "id": record.id,
        "plot": record.plot,
        "genres": record.genres,
        "title": record.title,
        "year": record.year,
        "credits": list(record.credits.items()),
        "split": record.split,
        "poster": poster,
        "defect": defect,
        "input_ids": input_ids,
        "features": sources.features,
    }


def _small_jpeg(content: bytes, decode: Decoder, poster_size: int) -> bytes:
    """A poster as it is stored: the bytes themselves where nothing is to change."""
    picture = decode(io.BytesIO(content), poster_size)
    scale = min(1.0, poster_size / min(picture.size))
    longest = _MAX_SIDE_RATIO * poster_size
    width, height = (max(1, min(round(side * scale), longest)) for side in picture.size)
    if (width, height) != picture.size:
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    elif _is_plain_jpeg(content, picture.size):
        return content
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()


def _is_plain_jpeg(content: bytes, size: tuple[int, int]) -> bool:
    """Whether every decoder makes the same of it: no rotation, no CMYK, one frame."""
    with Image.open(io.BytesIO(content)) as picture:
        return (
            picture.format == "JPEG"
            and picture.mode in ("RGB", "L")
            and picture.size == size
            and picture.getexif().get(ExifTags.Base.Orientation, 1) == 1
        )


def cannot_store(records: list[MovieRecord], error: Exception) -> UserError:
    reason = " ".join(str(error).split())
    return UserError(
        f"a movie from {records[0].id!r} to {records[-1].id!r} cannot be stored: {reason}"
    )
