"""Readers hold one movie at a time, and of those before it the id alone."""

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import datasets
import pyarrow as pa
import pytest
from mmimdb import HUB_FEATURES, PROMPT, hub_row, jsonl_row, movie_json, write_hdf5, write_jsonl

from mmgenre.data.prepare import PrepareOptions, prepare_movies
from mmgenre.data.readers import READERS, read_movies
from mmgenre.models.pictures import open_poster

PLOT = "x" * 8_000
# A repeated id is found by a table of all ids: at most 60 bytes for the id, 80 for the place that a
# message would name, 110 for their entry while the table grows. The archive has each id in
# split.json, too, and in the listing of dataset/.
BYTES_PER_ID = 450
# pathlib interns the parts of paths, and late in a long test session that table of the interpreter
# has 8 MB, which are counted here when it happens to be made anew.
INTERPRETER = 8_000_000


def write_archive(folder: Path, size: int) -> None:
    (folder / "dataset").mkdir(parents=True)
    ids = [f"{number:07d}" for number in range(size)]
    (folder / "split.json").write_text(json.dumps({"train": ids}))
    movie = folder / "movie.json"
    movie.write_text(json.dumps(movie_json(1, plot=[PLOT])))
    for movie_id in ids:  # links to one file are made faster than files
        (folder / "dataset" / f"{movie_id}.json").hardlink_to(movie)


def write_folder(folder: Path, size: int) -> None:
    folder.mkdir()
    with (folder / "metadata.jsonl").open("w") as file:
        for number in range(size):
            row = {"file_name": f"{number:07d}.jpg", "plot": PLOT, "genres": ["war"]}
            file.write(json.dumps(row) + "\n")


def write_hub(folder: Path, size: int) -> None:
    rows = [hub_row(PROMPT.format(f"Plot: {PLOT}"), "War", b"poster" * 1000)] * size
    datasets.Dataset.from_list(rows, features=HUB_FEATURES).save_to_disk(folder)


def write_prepared(folder: Path, size: int) -> None:
    source = folder.with_name(f"source{size}")
    write_folder(source, size)
    prepare_movies(str(source), folder, open_poster, PrepareOptions(), num_workers=1)


WRITERS: dict[str, Callable[[Path, int], object]] = {
    "hub": write_hub,
    "folder": write_folder,
    "archive": write_archive,
    "jsonl": lambda folder, size: write_jsonl(
        folder, train=[jsonl_row(number, text=PLOT) for number in range(size)]
    ),
    "hdf5": lambda folder, size: write_hdf5(folder / "multimodal_imdb.hdf5", (size, 1, 1)),
    "prepared": write_prepared,
}


def peak_of_reading(folder: Path) -> int:
    """Bytes that Python and Arrow hold at most while the movies go by."""
    arrow_before = pa.total_allocated_bytes()
    tracemalloc.start()
    try:
        arrow = max(pa.total_allocated_bytes() for _ in read_movies(str(folder)))
        return tracemalloc.get_traced_memory()[1] + arrow - arrow_before
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("data_format", READERS)
def test_memory_grows_by_the_ids_alone(data_format: str, tmp_path: Path) -> None:
    for size in (500, 5_000):
        WRITERS[data_format](tmp_path / f"{size}", size)
    peak_of_reading(tmp_path / "500")  # imports, and caches that stay
    small, large = (peak_of_reading(tmp_path / f"{size}") for size in (500, 5_000))
    limit = BYTES_PER_ID * 4_500 + INTERPRETER
    assert limit < 4_500 * len(PLOT) / 3, "or a reader could keep a third of the movies"
    assert large - small < limit
