"""From a data set's path to its labelled splits."""

import logging
from pathlib import Path
from typing import Any

import pytest
from mmimdb import jsonl_row, write_archive, write_hdf5, write_jsonl

from mmgenre.configs.arguments import DataArguments
from mmgenre.data.movies import load_movies
from mmgenre.data.protocols import AREVALO_GENRES
from mmgenre.utils.errors import UserError

ARCHIVE = {"train": [f"{i}" for i in range(8)], "dev": ["8", "9"], "test": ["10", "11"]}


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    return write_archive(tmp_path / "mmimdb", ARCHIVE, {"9": {"genres": ["Drama", "News"]}})


def arguments(path: Path, **values: Any) -> DataArguments:
    return DataArguments(dataset=str(path), **values)


def test_an_archive_in_its_own_splits(archive: Path) -> None:
    movies = load_movies(arguments(archive, unknown_genres="drop"), seed=0)
    assert {s: [m.id for m in records] for s, records in movies.splits.items()} == {
        "train": ARCHIVE["train"],
        "validation": ARCHIVE["dev"],
        "test": ARCHIVE["test"],
    }
    assert movies.vocabulary.genres == ("comedy", "drama", "romance", "sci-fi", "war")


def test_a_protocol_chooses_movies_and_labels(archive: Path) -> None:
    movies = load_movies(arguments(archive, protocol="mmbt"), seed=0)
    assert [movie.id for movie in movies.splits["validation"]] == ["8"]
    assert movies.vocabulary.genres == AREVALO_GENRES


def test_arevalo_of_the_hdf5_file(tmp_path: Path) -> None:
    file = write_hdf5(tmp_path / "multimodal_imdb.hdf5", (30, 4, 6))
    movies = load_movies(arguments(file, protocol="arevalo"), seed=0)
    assert [len(movies.splits[s]) for s in ("train", "validation", "test")] == [30, 4, 6]
    assert movies.splits["test"][0].features is not None


def test_a_protocol_with_a_trained_models_labels(archive: Path) -> None:
    """The protocol chooses the movies, the model the labels, and their order."""
    genres = ["war", "drama", "comedy", "romance", "sci-fi"]
    args = arguments(archive, protocol="mmbt", genres=["not.txt"])
    movies = load_movies(args, seed=0, genres=genres)
    assert list(movies.vocabulary.genres) == genres
    assert [movie.id for movie in movies.splits["validation"]] == ["8"]


@pytest.mark.parametrize(
    ("name", "value"),
    [("genres", ["drama"]), ("split_method", "stratified"), ("validation_fraction", 0.2)],
)
def test_a_protocol_decides_alone(name: str, value: object) -> None:
    args = arguments(Path("not read"), protocol="mmbt", **{name: value})
    with pytest.raises(UserError) as caught:
        load_movies(args, seed=0)
    assert str(caught.value) == (
        f"protocol 'mmbt' decides labels and splits; leave --{name} out, or set --protocol none"
    )


def test_labels_from_a_file(archive: Path, tmp_path: Path) -> None:
    file = tmp_path / "labels.txt"
    file.write_text("War\nDrama\n\nScience Fiction\nComedy\nRomance\nNews\n")
    movies = load_movies(arguments(archive, genres=[str(file)]), seed=0)
    assert movies.vocabulary.genres == ("war", "drama", "sci-fi", "comedy", "romance", "news")


def same_movie(tmp_path: Path) -> Path:
    rows = [jsonl_row(i, label=["Drama"]) for i in range(3)]
    twin = jsonl_row(9, text=rows[1]["text"], image="twin.jpeg", label=["Drama"])
    folder = write_jsonl(tmp_path, train=rows, dev=[twin])
    (folder / "dataset").mkdir()
    (folder / "dataset/0000001.jpeg").write_bytes(b"poster")
    (folder / "twin.jpeg").write_bytes(b"poster")
    return folder


LEAK = (
    "1 movies are in two splits, so that a model is tested on what it has seen: '0000001' in train "
    "and '0000009' in validation have the same poster and plot"
)


def test_a_movie_in_two_splits_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(UserError) as caught:
        load_movies(arguments(same_movie(tmp_path)), seed=0)
    assert (
        str(caught.value) == f"{LEAK}; take one of them out, or name splits that have both in one"
    )


def test_a_protocol_keeps_its_published_splits_and_warns(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = same_movie(tmp_path)
    write_jsonl(folder, test=[jsonl_row(10)])
    with caplog.at_level(logging.WARNING):
        movies = load_movies(arguments(folder, protocol="arevalo"), seed=0)
    assert len(movies.splits["train"]) == 3
    assert f"protocol arevalo: {LEAK}" in caplog.text
