"""Each format, through every door that users have it by, read into the same movies."""

import io
import json
import logging
import pickle
from dataclasses import replace
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mmimdb import HUB_FEATURES, PROMPT, hub_row
from PIL import Image

from mmgenre.data.readers import READERS, detect_format, read_movies
from mmgenre.data.records import FilePoster, MovieRecord
from mmgenre.utils.errors import UserError


def jpeg(shade: int, side: int = 8) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (side, side), (shade, 0, 0)).save(buffer, "JPEG")
    return buffer.getvalue()


@pytest.fixture(autouse=True)
def _datasets_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def rows() -> list[dict]:
    prompts = ["Plot: He runs.", "Plot: He runs.\nNote it.\n\nShe  walks.\n", "no plot", "Plot: "]
    answers = ["Drama", "Film-Noir, drama,DRAMA ", " Sci-Fi ,War,", "Comedy"]
    return [
        hub_row(PROMPT.format(prompt), answer, jpeg(20 * index))
        for index, (prompt, answer) in enumerate(zip(prompts, answers, strict=True))
    ]


def save_parquet(dataset: datasets.Dataset, folder: Path) -> None:
    folder.mkdir(parents=True)
    for shard in range(2):
        part = dataset.shard(2, shard, contiguous=True)
        part.to_parquet(folder / f"train-{shard:05d}-of-00002.parquet")


DOORS = {
    "parquet": save_parquet,
    "parquet in data": lambda dataset, folder: save_parquet(dataset, folder / "data"),
    "brackets": lambda dataset, folder: save_parquet(dataset, folder / "data"),
    "save_to_disk": lambda dataset, folder: dataset.save_to_disk(folder),
    "save_to_disk of splits": lambda dataset, folder: datasets.DatasetDict(
        {"train": dataset}
    ).save_to_disk(folder),
}


def open_door(door: str, rows: list[dict], tmp_path: Path) -> Path:
    folder = tmp_path / ("movies [v2]" if door == "brackets" else "movies")
    DOORS[door](datasets.Dataset.from_list(rows, features=HUB_FEATURES), folder)
    return folder


@pytest.mark.parametrize("door", DOORS)
def test_hub_format_is_the_same_through_every_door(
    door: str, rows: list[dict], tmp_path: Path
) -> None:
    folder = open_door(door, rows, tmp_path)
    assert detect_format(str(folder)) == "hub"
    movies = list(read_movies(str(folder)))

    assert [replace(movie, poster=None) for movie in movies] == [
        MovieRecord("row00000", "He runs.", ("drama",), None),
        MovieRecord("row00001", "He runs.\nNote it.\n\nShe  walks.", ("film-noir", "drama"), None),
        MovieRecord("row00002", None, ("sci-fi", "war"), None),
        MovieRecord("row00003", None, ("comedy",), None),
    ]
    assert [movie.poster.read() for movie in movies] == [row["images"][0]["bytes"] for row in rows]
    assert movies[2].poster.name == f"{folder}#row2"


def test_hub_name_opens_the_split_train(
    rows: list[dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The Hub itself is out of reach of a test; what it would give is a `Dataset`."""
    asked = []

    def load_dataset(path: str, split: str) -> datasets.Dataset:
        asked.append((path, split))
        return datasets.Dataset.from_list(rows, features=HUB_FEATURES)

    monkeypatch.setattr("mmgenre.data.readers.hub.load_dataset", load_dataset)
    movies = list(read_movies("sxj1215/mmimdb"))
    assert asked == [("sxj1215/mmimdb", "train")]
    assert [movie.genres[0] for movie in movies] == ["drama", "film-noir", "sci-fi", "comedy"]
    assert movies[3].poster.name == "sxj1215/mmimdb#row3"


def test_hub_rows_without_image_or_answer_are_left_out_and_named(
    rows: list[dict], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    no_image = hub_row("", "Drama", None)
    no_answer = {**rows[0], "messages": rows[0]["messages"][:1]}
    null_answer = {**rows[0], "messages": [rows[0]["messages"][0], None]}
    no_messages = {**rows[0], "messages": []}
    left_out = [no_image, no_answer, null_answer, no_messages]
    folder = open_door("parquet", [rows[0], *left_out, rows[1]], tmp_path)
    with caplog.at_level(logging.WARNING):
        movies = list(read_movies(str(folder)))
    assert [movie.id for movie in movies] == ["row00000", "row00005"]
    assert movies[1].poster.read() == rows[1]["images"][0]["bytes"]
    messages = [record.getMessage() for record in caplog.records if "mmgenre" in record.name]
    assert len(messages) == 1
    assert "left out 4 of 6 rows" in messages[0]
    assert "row00001, row00002, row00003, row00004" in messages[0]


def test_hub_image_that_is_only_a_path_is_not_opened(rows: list[dict], tmp_path: Path) -> None:
    outside = tmp_path / "outside.jpg"
    outside.write_bytes(jpeg(1))
    row = {**rows[0], "images": [{"bytes": None, "path": str(outside)}]}
    (tmp_path / "movies").mkdir()
    table = pa.Table.from_pylist([row, rows[1]]).replace_schema_metadata(
        HUB_FEATURES.arrow_schema.metadata
    )
    pq.write_table(table, tmp_path / "movies" / "train.parquet")
    assert [movie.id for movie in read_movies(str(tmp_path / "movies"))] == ["row00001"]


def test_hub_poster_pickles_as_a_reference(tmp_path: Path) -> None:
    image = jpeg(9, side=2000)
    folder = open_door("save_to_disk", [hub_row("", "Drama", image)] * 3, tmp_path)
    size_before = sum(file.stat().st_size for file in folder.iterdir())
    poster = list(read_movies(str(folder)))[1].poster
    pickled = pickle.dumps(poster)
    assert len(pickled) < 5_000 < len(image)
    assert pickle.loads(pickled).read() == image
    assert sum(file.stat().st_size for file in folder.iterdir()) == size_before


def write_lines(folder: Path, *rows: dict) -> None:
    (folder / "metadata.jsonl").write_text("\n".join(json.dumps(row) for row in rows) + "\n")


def test_folder_jsonl_reads_every_column(tmp_path: Path) -> None:
    write_lines(
        tmp_path,
        {
            "file_name": "posters/tt1.jpg",
            "plot": "One\u2028line.",
            "genres": ["Drama", " film-noir", "DRAMA"],
            "id": 7,
            "title": "300",
            "year": 2006,
            "split": "dev",
            "director": ["A B", "C", "A B"],
            "tags": ["x"],
            "embedding": [0.5],
            "writer": None,
        },
        {"file_name": "tt2.jpg", "plot": "", "genres": "War|Sci-Fi, the", "split": "test"},
        {"file_name": None, "plot": "P", "genres": None, "id": "m", "split": "train"},
    )
    assert list(read_movies(str(tmp_path))) == [
        MovieRecord(
            id="7",
            plot="One\u2028line.",
            genres=("drama", "film-noir"),
            poster=FilePoster(tmp_path / "posters/tt1.jpg"),
            title="300",
            year=2006,
            credits={"director": ("A B", "C"), "tags": ("x",)},
            split="validation",
        ),
        MovieRecord(
            "tt2", None, ("war", "sci-fi, the"), FilePoster(tmp_path / "tt2.jpg"), split="test"
        ),
        MovieRecord("m", "P", (), None, split="train"),
    ]


def test_folder_csv_reads_every_column(tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_text(
        "id,file_name,plot,genres,year,director,note,split\r\n"
        '01,a.jpg,"Two\r\nlines, é","Drama, War",1999.0,A B|C,x|y,val\r\n'
        "02,,P,drama|war,,,,Train\r\n"
        '03,b.jpg,,"[""Drama""]",,,,test\r\n',
        encoding="utf-8-sig",
        newline="",
    )
    assert list(read_movies(str(tmp_path))) == [
        MovieRecord(
            id="01",
            plot="Two\r\nlines, é",
            genres=("drama", "war"),
            poster=FilePoster(tmp_path / "a.jpg"),
            year=1999,
            credits={"director": ("A B", "C")},
            split="validation",
        ),
        MovieRecord("02", "P", ("drama", "war"), None, split="train"),
        MovieRecord("03", None, ("drama",), FilePoster(tmp_path / "b.jpg"), split="test"),
    ]


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv"])
def test_folder_with_empty_metadata_has_no_movies(name: str, tmp_path: Path) -> None:
    (tmp_path / name).touch()
    assert list(read_movies(str(tmp_path))) == []


GOOD = b'{"file_name": "a.jpg", "plot": "P", "genres": ["drama"]}\n'
CSV_HEADER = b"file_name,plot,genres\n"
BAD_FOLDERS = {
    "broken json": ("metadata.jsonl", GOOD + b'{"file_name": ', "line 2: broken JSON"),
    "not an object": ("metadata.jsonl", b"[1]", "line 1: must be a JSON object"),
    "no genres": ("metadata.jsonl", b'{"file_name": "a.jpg"}', "line 1: the columns are file_name"),
    "no plot, no file": ("metadata.csv", b"id,genres\n1,war\n", "needed are genres, and file_name"),
    "nested genres": (
        "metadata.jsonl",
        GOOD + b'{"file_name": "b.jpg", "genres": [["war"]]}',
        "line 2: genres must be a list of names",
    ),
    "number as genre": ("metadata.jsonl", b'{"plot": "P", "id": 1, "genres": 3}', "not 3"),
    "broken genre list": ("metadata.csv", CSV_HEADER + b"a.jpg,P,[war]\n", "not a JSON list"),
    "number as plot": ("metadata.jsonl", b'{"id": 1, "plot": 1.5, "genres": []}', "plot must be"),
    "two of an id": (
        "metadata.jsonl",
        GOOD + b"\n" + GOOD,
        "line 3: id 'a' was already given in line 1",
    ),
    "no id": ("metadata.jsonl", b'{"plot": "P", "genres": []}', "neither an id nor a file_name"),
    "absolute": ("metadata.csv", CSV_HEADER + b"/etc/a.jpg,P,war\n", "'/etc/a.jpg' must be a rel"),
    "parent": ("metadata.csv", CSV_HEADER + b"x/../../a.jpg,P,war\n", "line 2: file_name 'x/../.."),
    "link": ("metadata.csv", CSV_HEADER + b"link/a.jpg,P,war\n", "'link/a.jpg' must be a relative"),
    "null character": ("metadata.jsonl", GOOD.replace(b"a.jpg", rb"a\u0000"), "must be a relative"),
    "split": (
        "metadata.csv",
        b"file_name,genres,split\na.jpg,war,eval\n",
        "line 2: split 'eval' is unknown; choose one of train, validation, test",
    ),
    "year": ("metadata.csv", b"file_name,genres,year\na.jpg,war,MM\n", "year must be a whole"),
    "credit": ("metadata.jsonl", GOOD[:-2] + b', "director": 3}', "director must be a list"),
    "surplus field": ("metadata.csv", CSV_HEADER + b"a.jpg,P,war,drama\n", "line 2: the number of"),
    "missing field": ("metadata.csv", CSV_HEADER + b"a.jpg,P\n", "line 2: the number of fields"),
    "latin-1": ("metadata.csv", CSV_HEADER + b"a.jpg,caf\xe9,war\n", "is not UTF-8 text"),
    "huge field": ("metadata.csv", CSV_HEADER + b"a" * 200_000, "line 2: broken CSV"),
}


@pytest.mark.parametrize("case", BAD_FOLDERS)
def test_bad_metadata_is_named(case: str, tmp_path: Path) -> None:
    name, content, expected = BAD_FOLDERS[case]
    folder = tmp_path / "movies"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    (folder / name).write_bytes(content)
    with pytest.raises(UserError) as caught:
        list(read_movies(str(folder)))
    assert expected in str(caught.value)
    assert str(folder / name) in str(caught.value)


def make_nothing(folder: Path) -> None:
    pass


def make_file(folder: Path) -> None:
    folder.write_text("")


def make_unknown(folder: Path) -> None:
    folder.mkdir()
    (folder / "a.jpg").touch()


def make_both(folder: Path) -> None:
    folder.mkdir()
    (folder / "metadata.csv").touch()
    (folder / "metadata.jsonl").touch()


def make_broken_parquet(folder: Path) -> None:
    folder.mkdir()
    (folder / "a.parquet").write_bytes(b"nope")


def make_other_columns(folder: Path) -> None:
    datasets.Dataset.from_dict({"messages": ["m"], "text": ["t"]}).save_to_disk(folder)


def make_other_split(folder: Path) -> None:
    dataset = datasets.Dataset.from_dict({"text": ["t"]})
    datasets.DatasetDict({"test": dataset}).save_to_disk(folder)


@pytest.mark.parametrize(
    ("make", "data_format", "expected"),
    [
        (make_nothing, "auto", "does not exist and is not a Hub name"),
        (make_file, "auto", "is a file; give the folder"),
        (make_unknown, "auto", "needs metadata.jsonl or metadata.csv (folder); split.json (archiv"),
        (make_unknown, "folder", "holds neither of metadata.jsonl and metadata.csv"),
        (make_unknown, "hub", "holds neither parquet files nor"),
        (make_unknown, "imdb", "data_format 'imdb' is unknown; choose one of auto, hub, folder"),
        (make_both, "auto", "holds both of metadata.jsonl and metadata.csv"),
        (make_broken_parquet, "auto", "as a folder: Parquet file size is 4 bytes"),
        (make_other_columns, "auto", "columns messages (string), text (string); needed are"),
        (make_other_split, "auto", "has the splits test; 'train' is needed"),
    ],
)
def test_what_cannot_be_read_is_named(
    make, data_format: str, expected: str, tmp_path: Path
) -> None:
    folder = tmp_path / "movies"
    make(folder)
    with pytest.raises(UserError) as caught:
        list(read_movies(str(folder), data_format))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_hub_out_of_reach_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError) as caught:
        list(read_movies("no-such-owner/no-such-movies"))
    assert "no-such-owner/no-such-movies as a Hub data set (and no folder" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("data_format", READERS)
def test_the_table_names_readers_that_exist(data_format: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds n"):
        list(read_movies(str(tmp_path), data_format))
