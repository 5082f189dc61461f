"""Once: a data set of any format into a folder that training maps into memory.

<folder>/
  prepared.json       the manifest (`readers.prepared.Manifest`): written first as not complete with
                      source and options, and last with counts, rejected posters and hashes
  shard_00000.arrow   128 movies in the source's order: posters shrunk, plots tokenised; its
                      metadata holds the key of what it was made from
  .lock               held while somebody writes
"""

import hashlib
import logging
import multiprocessing
import os
import signal
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import mmgenre
from mmgenre.constants import LOCK_FILE, PREPARED_MANIFEST_FILE, PREPARED_SHARD_PATTERN
from mmgenre.data.readers import find_format, read_movies
from mmgenre.data.readers.prepared import (
    Manifest,
    absolute_source,
    open_manifest,
    read_manifest,
    shard_file,
)
from mmgenre.data.records import Decoder, MovieRecord, RejectedPoster
from mmgenre.data.shards import Result, Task, cannot_store, start_worker, write_shard
from mmgenre.utils.errors import UserError
from mmgenre.utils.io import locked, sync
from mmgenre.utils.logging import log_progress

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

logger = logging.getLogger(__name__)

SHARD_SIZE = 128


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
    check_signals: Callable[[], None] = lambda: None,
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
        check_signals: Raises where a signal asked to stop; called between shards.

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
        with _writing(folder), locked(folder / LOCK_FILE):
            if overwrite:
                _delete(folder)
            manifest = _find_complete(folder, wanted)
            if manifest is None:
                wanted.write(folder)
                tasks = _tasks(folder, wanted, tokenizer, decode)
                _write_shards(wanted, tasks, total, broken_posters, num_workers, check_signals)
                _finish(folder, wanted)
                return wanted
    _verify(folder, manifest)
    _check_rejected(manifest.rejected_posters, broken_posters)
    logger.info(
        "%s is prepared already (%s); nothing to do, hashes checked", folder, _summary(manifest)
    )
    return manifest


def _tasks(
    folder: Path, manifest: Manifest, tokenizer: "PreTrainedTokenizerBase | None", decode: Decoder
) -> Iterator[Task]:
    records = read_movies(manifest.source, manifest.data_format)
    number = 0
    while chunk := list(islice(records, SHARD_SIZE)):
        input_ids = _tokenize(chunk, tokenizer, manifest.options["max_length"])
        yield Task(shard_file(folder, number), chunk, input_ids, manifest.options, decode)
        number += 1


def _write_shards(
    manifest: Manifest,
    tasks: Iterator[Task],
    total: int,
    broken_posters: str,
    num_workers: int,
    check_signals: Callable[[], None],
) -> None:
    """Have the shards written, and note in the manifest what they hold."""
    splits: Counter[str] = Counter()
    num_kept = 0
    with (
        log_progress(logger, "prepared", total, "movies") as advance,
        _worker_pool(num_workers) as pool,
        _quiet_readers(),
    ):
        for result in _run(pool, tasks, num_ahead=2 * num_workers):
            _check_rejected(result.rejected, broken_posters)
            manifest.shards.append(result.shard)
            manifest.rejected_posters += result.rejected
            splits += result.splits
            num_kept += result.is_kept
            advance(result.shard.num_movies)
            check_signals()
    manifest.splits = dict(splits)
    if num_kept:
        logger.info("%d of %d shards were there already", num_kept, len(manifest.shards))


def _finish(folder: Path, manifest: Manifest) -> None:
    _delete_leftovers(folder, len(manifest.shards))
    sync(folder)
    hashes = "".join(shard.sha256 for shard in manifest.shards)
    manifest.content_hash = hashlib.sha256(hashes.encode()).hexdigest()
    manifest.is_complete = True
    manifest.write(folder)
    sync(folder)
    logger.info("%s is complete: %s", folder, _summary(manifest))


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
    recorded: dict[str, Any] = asdict(options)
    if tokenizer is None:
        return {**recorded, "tokenizer_fingerprint": None, "max_length": None}
    from mmgenre.data.tokenizer import fingerprint

    return {**recorded, "tokenizer_fingerprint": fingerprint(tokenizer)}


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
        raise cannot_store(records, error) from error
    for row, ids in zip(rows, encoded, strict=True):
        input_ids[row] = np.array(ids, dtype=np.int32)
    return input_ids


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
    files = folder.iterdir() if folder.is_dir() else ()
    others = [file for file in files if file.name != LOCK_FILE]
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


@contextmanager
def _worker_pool(num_workers: int) -> Iterator[ProcessPoolExecutor]:
    """Processes that end soon when the block is left by an error, or this process is killed."""
    # Not forked: this process may have threads, of Arrow, torch or a process group.
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    pool = ProcessPoolExecutor(
        num_workers, mp_context=context, initializer=start_worker, initargs=(stop,)
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


def _run(pool: ProcessPoolExecutor, tasks: Iterator[Task], num_ahead: int) -> Iterator[Result]:
    """The results in the tasks' order; `num_ahead` bounds the movies in memory at once."""
    pending: deque[Future[Result]] = deque()
    for task in tasks:
        pending.append(_submit(pool, task))
        if len(pending) > num_ahead:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def _submit(pool: ProcessPoolExecutor, task: Task) -> "Future[Result]":
    # This may start a worker, which inherits the mask: Ctrl-C goes to the whole process group, and
    # is for this process alone to answer.
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        return pool.submit(write_shard, task)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written to ({error.strerror or error}); finished shards are kept, "
            "and the same command goes on from there"
        ) from error


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
