"""The archive, MMBT's JSON lines and the HDF5 file, each with what is odd in the real ones."""

import json
import logging
import pickle
import sys
from pathlib import Path
from typing import get_args

import h5py
import numpy as np
import pytest
from mmimdb import jsonl_row, movie_json, poster_bytes, write_archive, write_hdf5, write_jsonl

from mmgenre.configs.arguments import DataFormat
from mmgenre.data.readers import READERS, detect_format, read_movies
from mmgenre.data.records import FilePoster, MovieRecord
from mmgenre.utils.errors import UserError

SPLITS = {"train": ["0000002", "0000001"], "dev": ["0000004"], "test": ["0000003"]}


def test_archive_movie(tmp_path: Path) -> None:
    changes = {
        "0000002": {
            "plot": ["Ten chars.", "a longest plot\n::Anonymous", "b longest plot\n::Anonymous"],
            "genres": ["Film-Noir", " drama", "Film-Noir"],
            "director": [{"name": "A B"}, {"name": "C"}, {"name": "A B "}],
            "art director": [{"name": "D"}],
            "cast": [{"name": "E"}],
            "distributors": [{"name": "F"}],
        }
    }
    folder = write_archive(tmp_path / "mmimdb", SPLITS, changes)
    movies = list(read_movies(str(folder)))
    assert [(movie.id, movie.split) for movie in movies] == [
        ("0000002", "train"),
        ("0000001", "train"),
        ("0000004", "validation"),
        ("0000003", "test"),
    ]
    assert movies[0] == MovieRecord(
        id="0000002",
        plot="a longest plot\n::Anonymous",
        genres=("film-noir", "drama"),
        poster=FilePoster(folder / "dataset/0000002.jpeg"),
        title="Movie 0",
        year=1950,
        credits={"director": ("A B", "C"), "art director": ("D",), "cast": ("E",)},
        split="train",
    )
    assert movies[1].poster is not None
    assert movies[1].poster.read() == poster_bytes(1)


@pytest.mark.parametrize(
    ("changes", "field", "expected"),
    [
        ({"plot": None}, "plot", None),
        ({"plot": []}, "plot", None),
        ({"plot": ["", " \n"]}, "plot", None),
        ({"plot": "One text."}, "plot", "One text."),
        ({"plot": ["x" * 30_000, "short"]}, "plot", "x" * 30_000),
        ({"plot": ["<p>He&nbsp;runs.<br /></p>"]}, "plot", "<p>He&nbsp;runs.<br /></p>"),
        ({"plot": ["🎬 " * 3]}, "plot", "🎬 " * 3),
        ({"genres": None}, "genres", ()),
        ({"genres": ["Science Fiction", "Sci-Fi"]}, "genres", ("sci-fi",)),
        ({"director": None}, "credits", {}),
        ({"title": None}, "title", None),
        ({"year": "????"}, "year", None),
    ],
)
def test_archive_movie_with_gaps(
    changes: dict, field: str, expected: object, tmp_path: Path
) -> None:
    folder = write_archive(tmp_path / "mmimdb", {"train": ["1"]}, {"1": changes})
    (movie,) = read_movies(str(folder))
    assert getattr(movie, field) == expected


def test_archive_says_what_it_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    people = {"director": [{"name": "A"}, {"name": None}, {}, "B"], "year": "1999-2001"}
    folder = write_archive(tmp_path / "mmimdb", SPLITS, {"0000001": people})
    (folder / "dataset/0000009.json").write_text(json.dumps(movie_json(9)))
    with caplog.at_level(logging.WARNING):
        movies = list(read_movies(str(folder)))
    assert movies[1].credits == {"director": ("A",)}
    assert [record.getMessage() for record in caplog.records] == [
        f"{folder}: left out 1 movies that split.json does not name; the first: 0000009",
        f"{folder}: left out 1 years that are no whole number",
        f"{folder}: left out 3 people without a name",
    ]


def test_jsonl_movies(tmp_path: Path) -> None:
    (tmp_path / "test_hard_gt.jsonl").write_text("not read")
    folder = write_jsonl(
        tmp_path,
        train=[jsonl_row(1), jsonl_row(2, text=" ", image=None, label=None)],
        dev=[jsonl_row(3, image=..., img="dataset/3.jpeg", label=["War", "WAR"])],
        test=[jsonl_row(4, id=4, text="<b>🎬</b>" + "x" * 30_000)],
    )
    plot = "The longer plot of movie 1, set at sea."
    assert list(read_movies(str(folder))) == [
        MovieRecord(
            "0000001",
            plot,
            ("comedy",),
            FilePoster(folder / "dataset/0000001.jpeg"),
            split="train",
        ),
        MovieRecord("0000002", None, (), None, split="train"),
        MovieRecord(
            "0000003",
            "The longer plot of movie 3, set at sea.",
            ("war",),
            FilePoster(folder / "dataset/3.jpeg"),
            split="validation",
        ),
        MovieRecord(
            "4",
            "<b>🎬</b>" + "x" * 30_000,
            ("drama", "romance"),
            FilePoster(folder / "dataset/0000004.jpeg"),
            split="test",
        ),
    ]


@pytest.mark.parametrize("name", ["folder", "multimodal_imdb.hdf5", "other.h5"])
def test_hdf5_movies(name: str, tmp_path: Path) -> None:
    file = tmp_path / ("multimodal_imdb.hdf5" if name == "folder" else name)
    write_hdf5(file, (4, 2, 3))
    movies = list(read_movies(str(tmp_path if name == "folder" else file)))
    assert [movie.id for movie in movies] == [f"{i:07d}" for i in range(9)]
    assert [movie.split for movie in movies] == 4 * ["train"] + 2 * ["validation"] + 3 * ["test"]
    assert movies[0].genres == ("drama", "comedy")
    assert movies[4].genres == ("comedy", "crime")
    assert {(movie.plot, movie.poster) for movie in movies} == {(None, None)}


def test_hdf5_features_pickle_as_a_reference(tmp_path: Path) -> None:
    file = write_hdf5(tmp_path / "multimodal_imdb.hdf5")
    features = list(read_movies(str(file)))[5].features
    pickled = pickle.dumps(features)
    assert len(pickled) < 500
    read = pickle.loads(pickled).read()
    with h5py.File(file) as handle:
        assert set(read) == {"image_features", "text_features"}
        np.testing.assert_array_equal(read["image_features"], handle["vgg_features"][5])
        np.testing.assert_array_equal(read["text_features"], handle["features"][5])


def test_hdf5_without_h5py_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_hdf5(tmp_path / "a.h5")
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(UserError) as caught:
        list(read_movies(str(file)))
    expected = f"reading {file} needs h5py, which is not installed; pip install h5py"
    assert str(caught.value) == expected


WRITERS = {
    "archive": lambda path: write_archive(path, SPLITS),
    "jsonl": lambda path: write_jsonl(path, dev=[jsonl_row(1)]),
    "hdf5": lambda path: write_hdf5(path / "multimodal_imdb.hdf5"),
}


@pytest.mark.parametrize("data_format", WRITERS)
def test_the_format_is_found_and_said(
    data_format: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    WRITERS[data_format](tmp_path / "movies [v2]")
    path = str(tmp_path / "movies [v2]")
    with caplog.at_level(logging.INFO):
        found = list(read_movies(path))
    assert f"reading {path} as format {data_format!r} (found from the path)" in caplog.text
    assert found == list(read_movies(path, data_format))


def test_two_formats_in_a_folder_must_be_told_apart(tmp_path: Path) -> None:
    write_archive(tmp_path / "movies", SPLITS)
    write_jsonl(tmp_path / "movies", train=[jsonl_row(1)])
    with pytest.raises(UserError) as caught:
        detect_format(str(tmp_path / "movies"))
    assert "formats archive and jsonl; name one with --data_format" in str(caught.value)
    assert len(list(read_movies(str(tmp_path / "movies"), "jsonl"))) == 1


def test_the_arguments_name_all_formats() -> None:
    assert set(get_args(DataFormat)) == {"auto", *READERS}
