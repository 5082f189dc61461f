"""Every defect of a data set that stops, with the whole sentence that the user reads."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset
from mmimdb import hub_row, jsonl_row, movie_json, write_archive, write_hdf5, write_jsonl

import mmgenre.data.readers.archive  # noqa: F401  (a test without rights could not load it)
from mmgenre.data.readers import read_movies
from mmgenre.utils.errors import UserError

Make = Callable[[Path], Any]


def archive(splits: Any = None, **changes: Any) -> Make:
    """An archive with movie 1 changed, or with another split.json."""

    def make(path: Path) -> None:
        write_archive(path, {"train": ["1", "2"], "dev": ["3"]}, {"1": changes})
        if splits is not None:
            (path / "split.json").write_text(json.dumps(splits))

    return make


def archive_with(change: Make) -> Make:
    def make(path: Path) -> None:
        archive()(path)
        change(path)

    return make


def link(path: Path, name: str, target: str) -> None:
    (path / name).unlink()
    (path / name).symlink_to(target)


def jsonl(**changes: Any) -> Make:
    return lambda path: write_jsonl(path, train=[jsonl_row(1), jsonl_row(2, **changes)])


def jsonl_broken_at(number: int) -> Make:
    def make(path: Path) -> None:
        write_jsonl(path, train=[jsonl_row(i, image=None) for i in range(number + 5)])
        lines = (path / "train.jsonl").read_text().splitlines()
        lines[number - 1] = lines[number - 1][:30]
        (path / "train.jsonl").write_text("\n".join(lines))

    return make


def folder(**changes: Any) -> Make:
    def make(path: Path) -> None:
        path.mkdir()
        (path / "link").symlink_to("..")
        row = {"file_name": "a.jpg", "plot": "P", "genres": ["war"]}
        (path / "metadata.jsonl").write_text(json.dumps({**row, **changes}))

    return make


def hdf5_with(change: Callable[[h5py.File], Any]) -> Make:
    def make(path: Path) -> None:
        with h5py.File(write_hdf5(path / "multimodal_imdb.hdf5"), "r+") as handle:
            change(handle)

    return make


def replace_by_link(handle: h5py.File) -> None:
    del handle["vgg_features"]
    handle["vgg_features"] = h5py.ExternalLink("../other.h5", "vgg_features")


def repeat_id(handle: h5py.File) -> None:
    handle["imdb_ids"][7] = handle["imdb_ids"][1]


def stretch_split(handle: h5py.File) -> None:
    table = handle.attrs["split"]
    table["stop"][table["split"] == b"test"] = 90
    handle.attrs["split"] = table


def parquet(path: Path) -> None:
    path.mkdir()
    Dataset.from_dict({"plot": ["P"], "genre": ["war"]}).to_parquet(path / "train.parquet")


def hub(**changes: Any) -> Make:
    def make(path: Path) -> None:
        path.mkdir()
        row = {**hub_row("", "War", b"poster"), **changes}
        pq.write_table(pa.Table.from_pylist([row]), path / "train.parquet")

    return make


def nested(path: Path) -> None:
    archive()(path / "mmimdb")


def inside_dataset(path: Path) -> None:
    """What was unpacked is moved, so that `path` is its folder `dataset`."""
    archive()(path.parent)
    shutil.move(path.parent / "dataset", path)


IN_ARCHIVE = "{path}/dataset/1.json: "
PLAIN = "must be a plain name without path separators"

# Case: what makes the folder, and the sentence, {path} being the folder.
BAD_INPUT: dict[str, tuple[Make, str]] = {
    # Ids and paths that lead out of the folder
    "archive, id with ..": (
        archive({"train": ["../secret"]}),
        f"{{path}}/split.json: id '../secret' {PLAIN}",
    ),
    "archive, absolute id": (
        archive({"train": ["/etc/passwd"]}),
        f"{{path}}/split.json: id '/etc/passwd' {PLAIN}",
    ),
    "archive, movie is a link": (
        archive_with(lambda path: link(path, "dataset/1.json", "/etc/hostname")),
        "movie 'dataset/1.json' must be a relative path to a file inside {path}",
    ),
    "archive, poster is a link": (
        archive_with(lambda path: link(path, "dataset/1.jpeg", "../../secret.jpeg")),
        IN_ARCHIVE + "poster 'dataset/1.jpeg' must be a relative path to a file inside {path}",
    ),
    "jsonl, id with ..": (
        jsonl(id="../2"),
        f"{{path}}/train.jsonl line 2: id '../2' {PLAIN}",
    ),
    "jsonl, image with ..": (
        jsonl(image="dataset/../../2.jpeg"),
        "{path}/train.jsonl line 2: image 'dataset/../../2.jpeg' must be a relative path to a "
        "file inside {path}",
    ),
    "jsonl, absolute image": (
        jsonl(image="/etc/2.jpeg"),
        "{path}/train.jsonl line 2: image '/etc/2.jpeg' must be a relative path to a file inside "
        "{path}",
    ),
    "folder, id with ..": (
        folder(id="a/../../b"),
        f"{{path}}/metadata.jsonl line 1: id 'a/../../b' {PLAIN}",
    ),
    "folder, file with ..": (
        folder(file_name="../a.jpg"),
        "{path}/metadata.jsonl line 1: file_name '../a.jpg' must be a relative path to a file "
        "inside {path}",
    ),
    "folder, file through a link": (
        folder(file_name="link/a.jpg"),
        "{path}/metadata.jsonl line 1: file_name 'link/a.jpg' must be a relative path to a file "
        "inside {path}",
    ),
    "hdf5, array is a link": (
        hdf5_with(replace_by_link),
        "{path}/multimodal_imdb.hdf5: vgg_features is no array of this file; links to other "
        "places are not followed",
    ),
    # Ids given twice
    "archive, id in two splits": (
        archive({"train": ["1", "2"], "test": ["2"]}),
        "{path}/split.json: id '2' was already given in train; give every movie an id of its own",
    ),
    "jsonl, id in two files": (
        lambda path: write_jsonl(path, train=[jsonl_row(1)], test=[jsonl_row(2), jsonl_row(1)]),
        "{path}/test.jsonl line 2: id '0000001' was already given in train.jsonl line 1; give "
        "every movie an id of its own",
    ),
    "hdf5, id twice": (
        hdf5_with(repeat_id),
        "{path}/multimodal_imdb.hdf5 row 7: id '0000001' was already given in row 1; give every "
        "movie an id of its own",
    ),
    # Fields
    "archive, nested genres": (
        archive(genres=[["Drama"], "War"]),
        IN_ARCHIVE + "genres must be a list of names, or names separated by | or a comma, not "
        "[['Drama'], 'War']",
    ),
    "archive, number as genres": (
        archive(genres=7),
        IN_ARCHIVE + "genres must be a list of names, or names separated by | or a comma, not 7",
    ),
    "archive, nested plots": (
        archive(plot=[["P"]]),
        IN_ARCHIVE + "plot must be a list of texts, not [['P']]",
    ),
    "archive, number as director": (
        archive(director=3),
        IN_ARCHIVE + "director must be a list of people, not 3",
    ),
    "jsonl, number in label": (
        jsonl(label=["War", 3]),
        "{path}/train.jsonl line 2: label must be a list of names, or names separated by | or a "
        "comma, not ['War', 3]",
    ),
    "jsonl, list as text": (
        jsonl(text=["P"]),
        "{path}/train.jsonl line 2: text must be text, not ['P']",
    ),
    "jsonl, no label": (
        jsonl(label=...),
        "{path}/train.jsonl line 2: the keys are id, text, image; needed are id, text, image and "
        "label",
    ),
    "jsonl, null id": (
        jsonl(id=None),
        "{path}/train.jsonl line 2: id is empty; give every movie an id of its own",
    ),
    # Files
    "archive, movie that is not there": (
        archive({"train": ["1", "8"], "dev": ["3"], "test": ["9"]}),
        "{path}/split.json names 2 movies that dataset/ lacks, such as 8, 9; unpack the archive "
        "again or take these ids out",
    ),
    "archive, broken movie": (
        archive_with(lambda path: (path / "dataset/1.json").write_text('{"plot": ')),
        IN_ARCHIVE + "broken JSON: Expecting value: line 1 column 10 (char 9)",
    ),
    "archive, movie is a list": (
        archive_with(lambda path: (path / "dataset/1.json").write_text("[]")),
        IN_ARCHIVE + "must be a JSON object {{...}}",
    ),
    "archive, split of numbers": (
        archive({"train": [1]}),
        "{path}/split.json: train must be a list of ids, not [1]",
    ),
    "archive, unknown split": (
        archive({"holdout": ["1"]}),
        "{path}/split.json: split 'holdout' is unknown; choose one of train, validation, test, "
        "val, valid, dev",
    ),
    "archive without dataset": (
        archive_with(lambda path: shutil.rmtree(path / "dataset")),
        "{path}/dataset cannot be read (No such file or directory); it must hold the movies that "
        "split.json names",
    ),
    "archive, one level deeper": (
        nested,
        "{path} holds no data set that can be read, but {path}/mmimdb holds one (archive); give "
        "that folder",
    ),
    "archive, one level higher": (
        inside_dataset,
        "{path} holds no data set that can be read, but {path.parent} holds one (archive); give "
        "that folder",
    ),
    "jsonl, broken line 10,000": (
        jsonl_broken_at(10_000),
        "{path}/train.jsonl line 10000: broken JSON: Invalid control character at: line 1 "
        "column 31 (char 30)",
    ),
    "parquet with other columns": (
        parquet,
        "{path} has the columns plot (string), genre (string); needed are messages (a list with "
        "role and content, which are text) and images (a list of images, with their bytes)",
    ),
    "parquet with numbers as messages": (
        hub(messages=[{"role": "user", "content": 1}, {"role": "assistant", "content": 2}]),
        "{path} has the columns messages (list<item: struct<role: string, content: int64>>), "
        "images (list<item: struct<bytes: binary, path: null>>); needed are messages (a list "
        "with role and content, which are text) and images (a list of images, with their bytes)",
    ),
    "hdf5 without target_names": (
        hdf5_with(lambda handle: handle["genres"].attrs.pop("target_names")),
        "{path}/multimodal_imdb.hdf5: genres has no attribute target_names, a JSON list with the "
        "genre of each column",
    ),
    "hdf5 with too few target_names": (
        hdf5_with(lambda handle: handle["genres"].attrs.create("target_names", '["War"]')),
        "{path}/multimodal_imdb.hdf5: target_names must name the columns of genres, whose shape "
        "is (9, 23), not ['War']",
    ),
    "hdf5 without an array": (
        hdf5_with(lambda handle: handle.pop("vgg_features")),
        "{path}/multimodal_imdb.hdf5: has no vgg_features; it has features, genres, images, "
        "imdb_ids, sequences",
    ),
    "hdf5 with rows missing": (
        hdf5_with(lambda handle: (handle.pop("features"), handle.update(features=np.ones((2, 3))))),
        "{path}/multimodal_imdb.hdf5: features has 2 rows, imdb_ids 9",
    ),
    "hdf5 without split": (
        hdf5_with(lambda handle: handle.attrs.pop("split")),
        "{path}/multimodal_imdb.hdf5: has no attribute split, Fuel's table with the rows of each "
        "split",
    ),
    "hdf5, split beyond the end": (
        hdf5_with(stretch_split),
        "{path}/multimodal_imdb.hdf5: split 'test' is rows 6 to 90 of 9 movies",
    ),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_stops_with_its_sentence(case: str, tmp_path: Path) -> None:
    make, expected = BAD_INPUT[case]
    path = tmp_path / "mmimdb"
    make(path)
    with pytest.raises(UserError) as caught:
        list(read_movies(str(path)))
    assert str(caught.value) == expected.format(path=path)


def test_a_file_that_is_not_hdf5_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.h5").write_bytes(b"nothing of the kind")
    with pytest.raises(UserError) as caught:
        list(read_movies(str(tmp_path / "a.h5")))
    assert str(caught.value).startswith(f"{tmp_path}/a.h5 cannot be read as HDF5 (")


def test_packed_archive_must_be_unpacked(tmp_path: Path) -> None:
    (tmp_path / "mmimdb.tar.gz").touch()
    with pytest.raises(UserError) as caught:
        list(read_movies(str(tmp_path / "mmimdb.tar.gz")))
    assert str(caught.value) == (
        f"{tmp_path}/mmimdb.tar.gz is a file; give the folder that holds the data set, unpacked "
        "if it is an archive"
    )


def test_an_archive_that_is_named_at_the_wrong_level_is_found(tmp_path: Path) -> None:
    nested(tmp_path / "data")
    with pytest.raises(UserError) as caught:
        list(read_movies(str(tmp_path / "data"), "archive"))
    assert str(caught.value) == (
        f"{tmp_path}/data holds no split.json, but {tmp_path}/data/mmimdb holds one (archive); "
        "give that folder"
    )


@pytest.fixture
def no_rights(tmp_path: Path) -> Iterator[None]:
    """Whoever runs the tests may not be the one whom all files are open to."""
    if os.geteuid() != 0:
        yield
        return
    for place in (tmp_path, tmp_path.parent, tmp_path.parent.parent):
        place.chmod(place.stat().st_mode | 0o055)
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("mode", [0o000, 0o444])
@pytest.mark.parametrize("data_format", ["auto", "archive"])
def test_folder_that_may_not_be_read(
    mode: int, data_format: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path = tmp_path / "mmimdb"
    archive()(path)
    path.chmod(mode)
    request.getfixturevalue("no_rights")
    with pytest.raises(UserError) as caught:
        list(read_movies(str(path), data_format))
    assert str(caught.value) == (
        f"{path} cannot be read (Permission denied); it needs rights r and x"
    )


def test_file_that_may_not_be_read(tmp_path: Path, request: pytest.FixtureRequest) -> None:
    path = tmp_path / "mmimdb"
    archive()(path)
    (path / "dataset/2.json").chmod(0)
    request.getfixturevalue("no_rights")
    with pytest.raises(UserError) as caught:
        list(read_movies(str(path)))
    assert str(caught.value) == f"{path}/dataset/2.json: cannot be read (Permission denied)"


def test_null_genres_are_no_genres(tmp_path: Path) -> None:
    """Accepted by every format; what becomes of the movie is for splits and protocols to say."""
    write_archive(tmp_path / "a", {"train": ["1"]})
    (tmp_path / "a/dataset/1.json").write_text(json.dumps({**movie_json(1), "genres": None}))
    write_jsonl(tmp_path / "b", train=[jsonl_row(1, label=None)])
    folder(genres=None)(tmp_path / "c")
    for name in "abc":
        assert [movie.genres for movie in read_movies(str(tmp_path / name))] == [()]
