"""Once: a data set of any format into a folder that training maps into memory.

<folder>/
  prepared.json       the manifest (`readers.prepared.Manifest`): written first as not complete with
                      source and options, and last with counts, rejected posters and hashes
  shard_00000.arrow   128 movies in the source's order: posters shrunk, plots tokenised; its
                      metadata holds the key of what it was made from
  .lock               held while somebody writes
"""

import fcntl
import hashlib
import io
import json
import logging
import multiprocessing
import os
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL
import pyarrow as pa
from PIL import Image
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

import mmgenre
from mmgenre.constants import PREPARED_LOCK_FILE, PREPARED_MANIFEST_FILE, PREPARED_SHARD_PATTERN
from mmgenre.data.readers import find_format, read_movies
from mmgenre.data.readers.prepared import (
    FORMAT_VERSION,
    SCHEMA,
    Manifest,
    Shard,
    absolute_source,
    open_manifest,
    read_manifest,
    shard_file,
)
from mmgenre.data.records import MovieRecord, RejectedPoster
from mmgenre.utils.errors import UserError
from mmgenre.utils.io import replace_file, sync
from mmgenre.utils.logging import show_progress

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

SHARD_SIZE = 128
_JPEG_QUALITY = 90
# A side longer than so many poster sizes is cut down to it, whatever becomes of the aspect ratio: a
# model sees a square, and JPEG ends at 65,500 pixels.
_MAX_SIDE_RATIO = 16
_SECONDS_BETWEEN_LINES = 10.0

Decoder = Callable[..., Image.Image]

_stop: Any = None  # in a worker: whether to end early


@dataclass(frozen=True)
class PrepareOptions:
    """What decides the content of a prepared folder, beside its source.

    Attributes:
        poster_size: Posters are shrunk until their shorter side has so many pixels.
        tokenizer: Folder or Hub name; None stores plots as text only.
        max_length: Plots are cut to so many tokens, special tokens included.
    """

    poster_size: int = 256
    tokenizer: str | None = None
    max_length: int = 512


def prepare_movies(
    source: str,
    folder: Path,
    decode: Decoder,
    options: PrepareOptions,
    *,
    data_format: str = "auto",
    broken_posters: str = "count",
    num_workers: int | None = None,
    overwrite: bool = False,
) -> Manifest:
    """Write a prepared folder, go on with one that was begun, or check one that is complete.

    A shard that is there already is kept if it was made from the same movies, posters and options;
    to see that, its posters are read again, but not decoded. A complete folder's hashes are
    checked; its source is not read again.

    Args:
        decode: `models.pictures.open_poster`.
        broken_posters: `count`, or `error` to stop at the first.
        num_workers: Processes that decode; None is one for each core.
        overwrite: Delete what `folder` holds of an earlier preparation.

    Raises:
        UserError: The data set cannot be read; the folder holds other files, was prepared from
            another source or with other options, is damaged, or cannot be written to; a poster is
            broken and `broken_posters` is `error`.
    """
    num_workers = len(os.sched_getaffinity(0)) if num_workers is None else num_workers
    for name, value in (("num_workers", num_workers), ("poster_size", options.poster_size)):
        if value < 1:
            raise UserError(f"{name} is {value}; it must be above 0")
    source = absolute_source(source)
    if Path(source) == folder.resolve():
        raise UserError(f"{folder} is the source itself; name another folder")
    tokenizer = _load_tokenizer(options)
    wanted = Manifest(
        source=source,
        data_format=find_format(source, data_format),
        options=_recorded(options, tokenizer),
        versions={
            "mmgenre": mmgenre.__version__,
            **{name: version(name) for name in ("pillow", "pyarrow", "tokenizers")},
        },
    )
    manifest = None if overwrite else _find_complete(folder, wanted)
    if manifest is None:
        # The first reading finds what is wrong with the data before work begins, and their number.
        total = sum(1 for _ in read_movies(source, wanted.data_format))
        if not total:
            raise UserError(f"{source} has no movies")
        with _writing(folder), _locked(folder):
            if overwrite:
                _delete(folder)
            manifest = _find_complete(folder, wanted)
            if manifest is None:
                return _prepare(
                    folder, wanted, total, tokenizer, decode, broken_posters, num_workers
                )
    _verify(folder, manifest)
    _check_rejected(manifest.rejected_posters, broken_posters)
    logger.info(
        "%s is prepared already (%s); nothing to do, hashes checked", folder, _summary(manifest)
    )
    return manifest


def _prepare(
    folder: Path,
    manifest: Manifest,
    total: int,
    tokenizer: "PreTrainedTokenizerBase | None",
    decode: Decoder,
    broken_posters: str,
    num_workers: int,
) -> Manifest:
    manifest.write(folder)
    splits: Counter[str] = Counter()
    num_kept = 0
    progress = _Progress(total)
    with progress, _worker_pool(num_workers) as pool:
        pending: deque[Future[_Result]] = deque()

        def take_first() -> int:
            result = pending.popleft().result()
            _check_rejected(result.rejected, broken_posters)
            manifest.shards.append(result.shard)
            manifest.rejected_posters += result.rejected
            progress.update(result.shard.num_movies)
            return int(result.is_kept)

        with _quiet_readers():
            for number, records in enumerate(_chunks(read_movies(manifest.source, manifest.data_format))):
                splits.update(record.split or "none" for record in records)
                input_ids = _tokenize(records, tokenizer, manifest.options["max_length"])
                task = _ShardTask(
                    shard_file(folder, number), records, input_ids, manifest.options, decode
                )
                pending.append(_submit(pool, task))
                # Bounds the movies that are in memory at once.
                if len(pending) > 2 * num_workers:
                    num_kept += take_first()
        while pending:
            num_kept += take_first()

    _delete_leftovers(folder, len(manifest.shards))
    sync(folder)
    manifest.splits = dict(splits)
    hashes = "".join(shard.sha256 for shard in manifest.shards)
    manifest.content_hash = hashlib.sha256(hashes.encode()).hexdigest()
    manifest.is_complete = True
    manifest.write(folder)
    sync(folder)
    logger.info(
        "prepared %s: %s; %d of %d shards were there already; %.1f s",
        folder,
        _summary(manifest),
        num_kept,
        len(manifest.shards),
        progress.seconds,
    )
    return manifest


def _load_tokenizer(options: PrepareOptions) -> "PreTrainedTokenizerBase | None":
    if options.tokenizer is None:
        return None
    from mmgenre.data.tokenizer import fingerprint, load_tokenizer

    tokenizer = load_tokenizer(options.tokenizer)
    if fingerprint(tokenizer) is None:
        raise UserError(
            f"tokenizer {options.tokenizer!r} has no tokenizer.json, without which its ids cannot "
            "be told from another's; leave --tokenizer out"
        )
    num_special = tokenizer.num_special_tokens_to_add()
    if options.max_length <= num_special:
        raise UserError(
            f"max_length is {options.max_length}; it must be above {num_special}, the number of "
            "the tokenizer's special tokens"
        )
    return tokenizer


def _recorded(
    options: PrepareOptions, tokenizer: "PreTrainedTokenizerBase | None"
) -> dict[str, Any]:
    recorded: dict[str, Any] = {"poster_size": options.poster_size}
    if tokenizer is None:
        return {**recorded, "tokenizer": None, "tokenizer_fingerprint": None, "max_length": None}
    from mmgenre.data.tokenizer import fingerprint

    return {
        **recorded,
        "tokenizer": options.tokenizer,
        "tokenizer_fingerprint": fingerprint(tokenizer),
        "max_length": options.max_length,
    }


def _tokenize(
    records: list[MovieRecord], tokenizer: "PreTrainedTokenizerBase | None", max_length: int
) -> list[np.ndarray | None]:
    """Ids of each plot; None where it is missing."""
    rows = [row for row, record in enumerate(records) if record.plot]
    input_ids: list[np.ndarray | None] = [None] * len(records)
    if tokenizer is None or not rows:
        return input_ids
    plots = [records[row].plot for row in rows]
    try:
        encoded = tokenizer(plots, truncation=True, max_length=max_length)["input_ids"]
    except (TypeError, ValueError) as error:
        raise _cannot_store(records, error) from error
    for row, ids in zip(rows, encoded, strict=True):
        input_ids[row] = np.array(ids, dtype=np.int32)
    return input_ids


# --- what the folder holds already


def _find_complete(folder: Path, wanted: Manifest) -> Manifest | None:
    """The manifest, if `folder` is complete; None if it is to be begun or gone on with.

    Raises:
        UserError: It was prepared from something else, or holds other files.
    """
    if not (folder / PREPARED_MANIFEST_FILE).exists():
        _check_empty(folder)
        return None
    found = read_manifest(folder)
    for key, value in _identity(wanted).items():
        there = _identity(found)[key]
        if there != value:
            raise UserError(
                f"{folder} was prepared with {key} {there}, not {value}; name another folder, or "
                "make it anew with --overwrite"
            )
    return open_manifest(folder) if found.is_complete else None


def _identity(manifest: Manifest) -> dict[str, Any]:
    """What must be the same for a folder to be gone on with."""
    return {"source": manifest.source, "data_format": manifest.data_format, **manifest.options}


def _check_empty(folder: Path) -> None:
    others = folder.exists() and [f for f in folder.iterdir() if f.name != PREPARED_LOCK_FILE]
    if others:
        raise UserError(
            f"{folder} holds other files, such as {others[0].name}, and no "
            f"{PREPARED_MANIFEST_FILE}; give a new or an empty folder"
        )


def _verify(folder: Path, manifest: Manifest) -> None:
    for number, shard in enumerate(manifest.shards):
        file = shard_file(folder, number)
        if hashlib.sha256(file.read_bytes()).hexdigest() != shard.sha256:
            raise UserError(
                f"{file} is damaged: its SHA-256 is not the manifest's; --overwrite makes the "
                "folder anew"
            )


def _check_rejected(rejected: list[RejectedPoster], broken_posters: str) -> None:
    if rejected and broken_posters == "error":
        raise UserError(rejected[0].message)


def _delete(folder: Path) -> None:
    """Delete what an earlier preparation wrote, and nothing else."""
    if (folder / PREPARED_MANIFEST_FILE).exists():
        (folder / PREPARED_MANIFEST_FILE).unlink()
        _delete_leftovers(folder, num_shards=0)


def _delete_leftovers(folder: Path, num_shards: int) -> None:
    """Delete shards beyond `num_shards` and what a killed process left half-written."""
    files = {shard_file(folder, number) for number in range(num_shards)}
    for file in [*folder.glob(PREPARED_SHARD_PATTERN), *folder.glob(".*.tmp")]:
        if file not in files:
            file.unlink()


def _summary(manifest: Manifest) -> str:
    megabytes = sum(shard.size for shard in manifest.shards) / 1e6
    return (
        f"{manifest.num_movies} movies, {len(manifest.rejected_posters)} rejected posters, "
        f"{megabytes:.1f} MB, content hash {(manifest.content_hash or '')[:12]}"
    )


# --- the work


@dataclass(frozen=True)
class _ShardTask:
    """A shard to write, as it goes to a worker."""

    file: Path
    records: list[MovieRecord]
    input_ids: list[np.ndarray | None]
    options: dict[str, Any]
    decode: Decoder


@dataclass(frozen=True)
class _Result:
    shard: Shard
    rejected: list[RejectedPoster]
    is_kept: bool


class _Stopped(Exception):
    """The main process wants no more of this shard."""


def _write_shard(task: _ShardTask) -> _Result:
    """Runs in a worker; `OSError` means that the shard cannot be written."""
    kept = _stored_shard(task.file)
    if kept is not None:
        key = _key(task.options, (_digest(r, _read(r)) for r in task.records))
        if kept.schema.metadata[b"key"] == key.encode():
            return _result(task, kept["defect"].to_pylist(), task.file.read_bytes(), is_kept=True)
    rows, digests = [], []
    for record, input_ids in zip(task.records, task.input_ids, strict=True):
        if _stop.is_set():
            raise _Stopped
        sources = _read(record)
        digests.append(_digest(record, sources))
        rows.append(_row(record, input_ids, sources, task))
    schema = SCHEMA.with_metadata({"key": _key(task.options, digests)})
    sink = pa.BufferOutputStream()
    try:
        batch = pa.RecordBatch.from_pylist(rows, schema)
    except (ValueError, OverflowError) as error:
        raise _cannot_store(task.records, error) from error
    with pa.ipc.new_file(sink, schema) as writer:
        writer.write_batch(batch)
    content = sink.getvalue().to_pybytes()
    replace_file(task.file, content)
    return _result(task, [row["defect"] for row in rows], content, is_kept=False)


def _result(task: _ShardTask, defects: list[str | None], content: bytes, is_kept: bool) -> _Result:
    rejected = [
        record.rejected or RejectedPoster(record.id, record.poster.name, defect)
        for record, defect in zip(task.records, defects, strict=True)
        if defect is not None and (record.rejected or record.poster)
    ]
    shard = Shard(len(task.records), len(content), hashlib.sha256(content).hexdigest())
    return _Result(shard, rejected, is_kept)


def _stored_shard(file: Path) -> pa.RecordBatch | None:
    try:
        with pa.ipc.open_file(pa.memory_map(str(file))) as reader:
            return reader.get_batch(0)
    except (OSError, pa.ArrowInvalid):
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
    record: MovieRecord, input_ids: np.ndarray | None, sources: _Sources, task: _ShardTask
) -> dict[str, Any]:
    poster, defect = None, sources.defect
    if sources.poster is not None:
        size = task.options["poster_size"]
        try:
            poster = _jpeg(shrink(task.decode(io.BytesIO(sources.poster), size), size))
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


def shrink(picture: Image.Image, poster_size: int) -> Image.Image:
    """The picture with its shorter side at `poster_size` pixels; never enlarged."""
    scale = min(1.0, poster_size / min(picture.size))
    longest = _MAX_SIDE_RATIO * poster_size
    width, height = (max(1, min(round(side * scale), longest)) for side in picture.size)
    if (width, height) == picture.size:
        return picture
    return picture.resize((width, height), Image.Resampling.LANCZOS)


def _jpeg(picture: Image.Image) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=_JPEG_QUALITY)
    return buffer.getvalue()


def _cannot_store(records: list[MovieRecord], error: Exception) -> UserError:
    reason = " ".join(str(error).split())
    return UserError(
        f"a movie from {records[0].id!r} to {records[-1].id!r} cannot be stored: {reason}"
    )


# --- processes


@contextmanager
def _worker_pool(num_workers: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that end soon when the block is left by an error, or this process is killed."""
    # Not forked: this process may have threads, of Arrow, torch or a process group.
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    pool = ProcessPoolExecutor(
        num_workers, mp_context=context, initializer=_start_worker, initargs=(stop,)
    )
    try:
        yield pool
    except BrokenProcessPool as error:
        raise UserError(
            "a worker process was killed, perhaps for want of memory; the same command goes on, "
            "with a lower --num_workers in less memory"
        ) from error
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def _start_worker(stop: Any) -> None:
    global _stop
    _stop = stop
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _submit(pool: ProcessPoolExecutor, task: _ShardTask) -> "Future[_Result]":
    # This may start a worker, which inherits the mask: Ctrl-C goes to the whole process group, and
    # is for this process alone to answer.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        return pool.submit(_write_shard, task)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written to ({error.strerror}); finished shards are kept, and the "
            "same command goes on from there"
        ) from error


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Wait until nobody else prepares `folder`; a process that is killed gives its lock back."""
    with (folder / PREPARED_LOCK_FILE).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("another process prepares %s; waiting for it", folder)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _chunks(records: Iterator[MovieRecord]) -> Iterator[list[MovieRecord]]:
    while chunk := list(islice(records, SHARD_SIZE)):
        yield chunk


@contextmanager
def _quiet_readers() -> Iterator[None]:
    """The second reading warns of nothing that the first has not."""
    readers = logging.getLogger("mmgenre.data.readers")
    level = readers.level
    readers.setLevel(logging.ERROR)
    try:
        yield
    finally:
        readers.setLevel(level)


class _Progress:
    """A bar on a terminal; elsewhere a line now and then, with rate and time left."""

    def __init__(self, total: int) -> None:
        self.total = total
        self.done = 0
        self.started = self.last_line = time.monotonic()
        self.bar = tqdm(
            total=total, desc="preparing", unit=" movies", disable=not show_progress()
        )

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def update(self, num_movies: int) -> None:
        self.bar.update(num_movies)
        self.done += num_movies
        if self.bar.disable and time.monotonic() - self.last_line >= _SECONDS_BETWEEN_LINES:
            self.last_line = time.monotonic()
            rate = self.done / self.seconds
            logger.info(
                "prepared %d of %d movies, %.1f movies/s, %s left",
                self.done,
                self.total,
                rate,
                tqdm.format_interval((self.total - self.done) / rate),
            )

    def __enter__(self) -> None:
        self.redirect = nullcontext() if self.bar.disable else logging_redirect_tqdm()
        self.redirect.__enter__()

    def __exit__(self, *exception: object) -> None:
        self.bar.close()
        self.redirect.__exit__(*exception)
