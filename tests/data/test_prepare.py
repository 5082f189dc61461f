"""Prepared folders: the same movies as the source's, whole or resumable, and checked."""

import io
import json
import logging
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from mmimdb import jsonl_row, poster_bytes, write_archive, write_hdf5, write_jsonl
from PIL import Image, ImageOps

from mmgenre.data import prepare, tokenizer
from mmgenre.data.collator import GenreCollator
from mmgenre.data.dataset import MovieDataset, drop_broken_posters
from mmgenre.data.labels import GenreVocabulary
from mmgenre.data.loaders import create_eval_loader
from mmgenre.data.prepare import PrepareOptions, prepare_movies
from mmgenre.data.readers import read_movies
from mmgenre.data.readers.prepared import Manifest, read_manifest
from mmgenre.data.records import MovieRecord
from mmgenre.data.tokenizer import are_tokens_usable, train_tokenizer
from mmgenre.models.configuration_mmgenre import MMGenreConfig
from mmgenre.models.pictures import open_poster
from mmgenre.models.processing_mmgenre import MMGenreProcessor
from mmgenre.utils.errors import UserError

SMALL_SHARDS = (
    "import mmgenre.data.prepare as p; p.SHARD_SIZE = 4; from mmgenre.cli import main; main()"
)


def prepared(source: Path, folder: Path, **kwargs: Any) -> Manifest:
    options = PrepareOptions(kwargs.pop("poster_size", 256), *kwargs.pop("tokens", ()))
    return prepare_movies(str(source), folder, open_poster, options, num_workers=1, **kwargs)


def command(*arguments: str | Path) -> list[str]:
    """`mmgenre prepare` with four movies a shard and one worker."""
    command = [sys.executable, "-c", SMALL_SHARDS, "prepare", *map(str, arguments)]
    return [*command, "--num_workers", "1"]


def write_folder(folder: Path, movies: dict[str, bytes | None], **fields: Any) -> Path:
    """Format D; a movie is the name of its poster's file, None a file that is missing."""
    folder.mkdir()
    lines = []
    for name, content in movies.items():
        if content is not None:
            (folder / name).write_bytes(content)
        row = {"file_name": name, "id": name, "plot": f"Plot of {name}.", "genres": ["War"]}
        lines.append(json.dumps({**row, **fields}))
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    return folder


def encode(picture: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format, **options)
    return buffer.getvalue()


def gradient(width: int, height: int) -> Image.Image:
    """Smooth, and different at every corner."""
    x, y = np.meshgrid(np.linspace(0, 255, width), np.linspace(0, 255, height))
    pixels = np.stack([x, y, 255 - (x + y) / 2], axis=2).astype(np.uint8)
    return Image.fromarray(pixels)


def rotated(picture: Image.Image, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encode(picture, "JPEG", exif=exif, quality=95)


def files_of(folder: Path) -> dict[str, tuple[int, int]]:
    """Inode and time of each shard: what a shard that is made anew has others of."""
    stats = {file.name: file.stat() for file in folder.glob("shard_*.arrow")}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in stats.items()}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Source and prepared folder of a movie; not to be changed."""
    path = tmp_path_factory.mktemp("made")
    source = write_folder(path / "movies", {"a.jpg": poster_bytes(1)})
    prepared(source, path / "prepared")
    return source, path / "prepared"


@pytest.fixture
def one(made: tuple[Path, Path], tmp_path: Path) -> tuple[Path, Path]:
    """The same with a copy of the folder."""
    return made[0], shutil.copytree(made[1], tmp_path / "prepared")


# --- the movies


def hub_folder(folder: Path) -> Path:
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"T\nPlot:{plot}\nNote that a movie can have many."},
                {"role": "assistant", "content": "Drama, Film-Noir"},
            ],
            "images": [{"bytes": poster_bytes(number), "path": None}],
        }
        for number, plot in enumerate(["It rains.", "", "🎬"])
    ]
    features = datasets.Features(
        {
            "messages": datasets.List(
                {"role": datasets.Value("string"), "content": datasets.Value("string")}
            ),
            "images": datasets.List(datasets.Image()),
        }
    )
    folder.mkdir()
    datasets.Dataset.from_list(rows, features).to_parquet(folder / "train.parquet")
    return folder


def demo_folder(folder: Path) -> Path:
    from mmgenre.data.demo import write_demo_movies

    return write_demo_movies(folder, num_movies=60, seed=0)


CREDITS = {"cast": [{"name": "A"}, {"name": "B"}], "producer": [{"name": "Ç"}]}
SPLITS = {"train": ["1", "2"], "dev": ["3"], "test": ["4"]}
SOURCES: dict[str, Callable[[Path], Path]] = {
    "hub": hub_folder,
    "folder": demo_folder,
    "archive": lambda path: write_archive(
        path, SPLITS, {"2": CREDITS, "3": {"plot": None, "year": None}, "4": {"genres": None}}
    ),
    "jsonl": lambda path: write_jsonl(path, dev=[jsonl_row(1, image=None), jsonl_row(2, text="")]),
    "hdf5": lambda path: write_hdf5(path / "multimodal_imdb.hdf5"),
}


@pytest.mark.parametrize("data_format", SOURCES)
def test_movies_read_back_as_the_source_has_them(
    data_format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(prepare, "SHARD_SIZE", 25)
    source = SOURCES[data_format](tmp_path / "movies")
    manifest = prepared(source, tmp_path / "prepared")
    assert manifest.data_format == data_format
    assert read_manifest(tmp_path / "prepared") == manifest
    expected, found = list(read_movies(str(source))), list(read_movies(str(tmp_path / "prepared")))
    assert manifest.num_movies == len(expected) == sum(manifest.splits.values())

    apart = {"poster": None, "features": None, "rejected": None}
    assert [replace(movie, **apart) for movie in found] == [
        replace(movie, **apart) for movie in expected
    ]
    kept, rejected = drop_broken_posters(expected, open_poster, 256, "count")
    assert manifest.rejected_posters == rejected
    assert [movie.poster is None for movie in found] == [movie.poster is None for movie in kept]
    # what a training run lists, without decoding a poster again
    assert drop_broken_posters(found, None, 0, "count")[1] == rejected
    for before, after in zip(expected, found, strict=True):
        assert (before.features is None) == (after.features is None)
        if before.features is not None and after.features is not None:
            vectors = after.features.read()
            for name, vector in before.features.read().items():
                np.testing.assert_array_equal(vectors[name], vector, strict=True)


def test_what_a_movie_points_to_pickles_as_a_reference(made: tuple[Path, Path]) -> None:
    (movie,) = read_movies(str(made[1]))
    movie.poster.read()
    pickled = pickle.dumps(movie)
    assert len(pickled) < 1000
    assert pickle.loads(pickled).poster.read() == poster_bytes(1)


# --- the posters

BIG = gradient(900, 1350)
PALETTE = gradient(400, 600).quantize(16)
PALETTE.info["transparency"] = 0
# Name: the file, the size of what is stored, and the picture that it must show.
POSTERS: dict[str, tuple[bytes, tuple[int, int], Image.Image]] = {
    "shrunk.jpg": (encode(BIG, "JPEG", quality=95), (256, 384), BIG),
    "wide.jpg": (encode(gradient(800, 600), "JPEG"), (341, 256), gradient(800, 600)),
    "shrunk.png": (encode(BIG, "PNG"), (256, 384), BIG),
    "exif6.jpg": (
        rotated(gradient(1350, 900), 6),
        (256, 384),
        gradient(1350, 900).transpose(Image.Transpose.ROTATE_270),
    ),
    "small_exif3.jpg": (
        rotated(gradient(90, 60), 3),
        (90, 60),
        gradient(90, 60).transpose(Image.Transpose.ROTATE_180),
    ),
    "cmyk.jpg": (encode(BIG.convert("CMYK"), "JPEG", quality=95), (256, 384), BIG),
    "palette.png": (
        encode(PALETTE, "PNG"),
        (256, 384),
        Image.alpha_composite(
            Image.new("RGBA", PALETTE.size, "white"), PALETTE.convert("RGBA")
        ).convert("RGB"),
    ),
    "16bit.png": (
        encode(
            Image.fromarray(np.linspace(0, 65535, 400 * 600).reshape(600, 400).astype(np.uint16)),
            "PNG",
        ),
        (256, 384),
        Image.fromarray(np.linspace(0, 255, 400 * 600).reshape(600, 400).astype(np.uint8)),
    ),
    "animated.gif": (
        encode(
            gradient(300, 400).quantize(64),
            "GIF",
            save_all=True,
            append_images=[Image.new("P", (300, 400))],
        ),
        (256, 341),
        gradient(300, 400).quantize(64),
    ),
    "small.png": (encode(gradient(60, 90), "PNG"), (60, 90), gradient(60, 90)),
    "1x1.png": (encode(Image.new("RGB", (1, 1), (200, 10, 10)), "PNG"), (1, 1), None),
    "20000x10.png": (encode(gradient(20_000, 10), "PNG"), (4096, 10), gradient(20_000, 10)),
    "70000x20.png": (encode(gradient(70_000, 20), "PNG"), (4096, 20), gradient(70_000, 20)),
}
UNCHANGED = {
    "small.jpg": encode(gradient(60, 90), "JPEG", quality=30),
    "grey.jpg": encode(gradient(60, 90).convert("L"), "JPEG"),
}
REJECTED = {
    "cut.jpg": (encode(BIG, "JPEG")[:3000], "truncated"),
    "text.jpg": (b"404", "not a picture"),
    "empty.jpg": (b"", "not a picture"),
    "missing.jpg": (None, "file is missing"),
    "bomb.png": (
        encode(Image.new("1", (20_000, 10_000)), "PNG"),
        "Image size (200000000 pixels) exceeds limit of 178956970 pixels",
    ),
}


@pytest.fixture(scope="module")
def poster_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All of them prepared: the source in `movies`, the result in `prepared`."""
    path = tmp_path_factory.mktemp("posters")
    files: dict[str, bytes | None] = {name: poster[0] for name, poster in POSTERS.items()}
    files |= UNCHANGED
    files |= {name: poster[0] for name, poster in REJECTED.items()}
    prepared(write_folder(path / "movies", files), path / "prepared")
    return path


def stored(poster_folder: Path) -> dict[str, MovieRecord]:
    return {movie.id: movie for movie in read_movies(str(poster_folder / "prepared"))}


@pytest.mark.parametrize("name", POSTERS)
def test_posters_are_shrunk_upright_and_the_same(name: str, poster_folder: Path) -> None:
    _, size, expected = POSTERS[name]
    poster = stored(poster_folder)[name].poster
    assert poster is not None
    with Image.open(io.BytesIO(poster.read())) as picture:
        assert (picture.format, picture.mode, picture.size) == ("JPEG", "RGB", size)
        assert ImageOps.exif_transpose(picture).size == size
        expected = expected or Image.new("RGB", (1, 1), (200, 10, 10))
        shown = expected.convert("RGB").resize(size, Image.Resampling.BOX)
        difference = np.abs(np.asarray(picture, float) - np.asarray(shown, float))
    assert difference.mean() < 4


@pytest.mark.parametrize("name", UNCHANGED)
def test_small_jpegs_stay_as_they_are(name: str, poster_folder: Path) -> None:
    poster = stored(poster_folder)[name].poster
    assert poster is not None
    assert poster.read() == UNCHANGED[name]


@pytest.mark.parametrize("name", REJECTED)
def test_rejected_posters_are_listed(name: str, poster_folder: Path) -> None:
    listed = {
        poster.id: poster for poster in read_manifest(poster_folder / "prepared").rejected_posters
    }
    assert listed.keys() == REJECTED.keys()
    assert listed[name].poster == str(poster_folder / "movies" / name)
    assert REJECTED[name][1] in listed[name].reason
    movie = stored(poster_folder)[name]
    assert (movie.poster, movie.rejected) == (None, listed[name])


def test_a_broken_poster_can_stop(tmp_path: Path) -> None:
    movies = {"a.jpg": poster_bytes(1), "b.jpg": b"404"}
    source, folder = write_folder(tmp_path / "movies", movies), tmp_path / "prepared"
    sentence = (
        f"the poster {source}/b.jpg of movie 'b.jpg' cannot be used (not a picture); "
        "--broken_posters count would go on without it"
    )
    for _ in range(2):  # begun, and complete
        with pytest.raises(UserError) as caught:
            prepared(source, folder, broken_posters="error")
        assert str(caught.value) == sentence
        prepared(source, folder)


# --- once, however often it is interrupted


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 movies, each a few hundredths of a second's work: 15 shards of four."""
    content = encode(gradient(2400, 3600), "JPEG")
    path = tmp_path_factory.mktemp("many") / "movies"
    return write_folder(path, {f"{number:02d}.jpg": content for number in range(60)})


@pytest.fixture(scope="module")
def uninterrupted(many: Path, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """Prepared by three workers, in shards of four."""
    folder = tmp_path_factory.mktemp("uninterrupted") / "prepared"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prepare, "SHARD_SIZE", 4)
        return prepare_movies(str(many), folder, open_poster, PrepareOptions(), num_workers=3)


def wait_for(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not is_so():
        assert time.monotonic() < end
        time.sleep(0.001)


def is_gone(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize(
    ("interruption", "status", "last_line"),
    [
        (signal.SIGKILL, -signal.SIGKILL, None),
        (signal.SIGINT, 130, "mmgenre: interrupted"),
        (signal.SIGTERM, 75, "mmgenre: stopped by SIGTERM; start it again"),
    ],
)
def test_an_interrupted_preparation_is_gone_on_with(
    interruption: signal.Signals,
    status: int,
    last_line: str | None,
    many: Path,
    uninterrupted: Manifest,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "prepared"
    with subprocess.Popen(
        command(many, folder), stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        wait_for(lambda: len(files_of(folder)) >= 2)
        os.killpg(process.pid, signal.SIGSTOP)  # a busy machine may be late with what follows
        assert len(files_of(folder)) < 10
        if interruption == signal.SIGKILL:
            process.kill()
        else:  # as terminals and batch systems send it, to all processes
            os.killpg(process.pid, interruption)
        os.killpg(process.pid, signal.SIGCONT)
        _, error = process.communicate(timeout=60)
    wait_for(lambda: is_gone(process.pid))  # its workers too
    assert process.returncode == status
    if last_line is not None:
        assert error.splitlines()[-1] == last_line
        assert "Traceback" not in error
    finished = files_of(folder)
    assert 2 <= len(finished) < 15
    with pytest.raises(UserError) as caught:
        list(read_movies(str(folder)))
    assert str(caught.value) == (
        f"{folder} is not complete; `mmgenre prepare {many} {folder}` with the options of before "
        "goes on with it"
    )

    result = subprocess.run(command(many, folder), capture_output=True, text=True, check=True)
    assert f"{len(finished)} of 15 shards were there already" in result.stderr
    files = files_of(folder)
    assert {name: files[name] for name in finished} == finished
    assert read_manifest(folder) == uninterrupted
    assert not list(folder.glob(".*.tmp"))


def test_what_changed_since_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prepare, "SHARD_SIZE", 1)
    movies = {f"{number}.jpg": poster_bytes(number) for number in range(4)}
    source, folder = write_folder(tmp_path / "movies", movies), tmp_path / "prepared"
    manifest = prepared(source, folder)
    before = files_of(folder)
    replace(manifest, is_complete=False).write(folder)
    (source / "1.jpg").write_bytes(poster_bytes(50))
    (folder / "shard_00002.arrow").write_bytes(b"half")
    lines = (source / "metadata.jsonl").read_text().replace("Plot of 3", "Other plot of 3")
    (source / "metadata.jsonl").write_text("\n".join(lines.splitlines()[:4]))
    (folder / "shard_00009.arrow").write_bytes(b"of a source that was longer")

    prepared(source, folder)
    after = files_of(folder)
    assert before.keys() == after.keys()
    assert [name for name in before if before[name] == after[name]] == ["shard_00000.arrow"]
    found = list(read_movies(str(folder)))
    assert [movie.poster.read() for movie in found if movie.poster] == [
        poster_bytes(shade) for shade in (0, 50, 2, 3)
    ]
    assert found[3].plot == "Other plot of 3.jpg."


def test_twice_does_nothing(one: tuple[Path, Path], caplog: pytest.LogCaptureFixture) -> None:
    source, folder = one
    manifest = read_manifest(folder)
    before = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    with caplog.at_level(logging.INFO):
        assert prepared(source, folder) == manifest
    assert before == {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    assert f"{folder} is prepared already" in caplog.text
    assert "nothing to do, hashes checked" in caplog.text


def test_a_full_disk_leaves_what_is_finished(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    small, large = poster_bytes(1), encode(Image.fromarray(noise), "JPEG")
    movies = {f"{number}.jpg": large if number == 9 else small for number in range(12)}
    source, folder = write_folder(tmp_path / "movies", movies), tmp_path / "prepared"
    limit = 16_000  # of each file; the third shard has more bytes
    result = subprocess.run(
        command(source, folder),
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert result.returncode == 2
    assert result.stderr.splitlines()[-1] == (
        f"mmgenre: error: {folder} cannot be written to (File too large); finished shards are "
        "kept, and the same command goes on from there"
    )
    finished = files_of(folder)
    assert sorted(finished) == ["shard_00000.arrow", "shard_00001.arrow"]
    subprocess.run(command(source, folder), check=True)
    assert finished.items() <= files_of(folder).items()
    assert len(list(read_movies(str(folder)))) == 12


# --- what is refused


def change_manifest(**values: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        file = folder / "prepared.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), **values}))

    return change


def cut_shard(folder: Path) -> None:
    file = folder / "shard_00000.arrow"
    file.write_bytes(file.read_bytes()[:1000])


def spoil_shard(folder: Path) -> None:
    file = folder / "shard_00000.arrow"
    file.write_bytes(b"\0" * file.stat().st_size)


ANEW = "`mmgenre prepare SOURCE {folder} --overwrite` makes"
# Case: what happens to a prepared folder, and what reading it then says.
SPOILED: dict[str, tuple[Callable[[Path], Any], str]] = {
    "other version": (
        change_manifest(format_version=9),
        f"{{folder}} was prepared in format version 9, and this mmgenre reads 1; {ANEW} it anew",
    ),
    "broken manifest": (
        lambda folder: (folder / "prepared.json").write_text('{"format_version": 1, "sou'),
        f"{{folder}}/prepared.json is broken; {ANEW} it anew",
    ),
    "manifest of something else": (
        lambda folder: (folder / "prepared.json").write_text("[]"),
        f"{{folder}}/prepared.json is broken; {ANEW} it anew",
    ),
    "manifest with an unknown key": (
        change_manifest(format_version=1, colour="red"),
        f"{{folder}}/prepared.json is broken; {ANEW} it anew",
    ),
    "missing shard": (
        lambda folder: (folder / "shard_00000.arrow").unlink(),
        "{folder}/shard_00000.arrow cannot be read (No such file or directory); "
        f"{ANEW} the folder anew",
    ),
    "truncated shard": (
        cut_shard,
        f"{{folder}}/shard_00000.arrow has 1000 bytes in place of {{size}}; {ANEW} the folder anew",
    ),
    "spoiled shard": (
        spoil_shard,
        "{folder}/shard_00000.arrow cannot be read (not an Arrow file: Not an Arrow file); "
        f"{ANEW} the folder anew",
    ),
}


@pytest.mark.parametrize("case", SPOILED)
def test_a_spoiled_folder_is_refused(case: str, one: tuple[Path, Path]) -> None:
    _, folder = one
    spoil, sentence = SPOILED[case]
    size = (folder / "shard_00000.arrow").stat().st_size
    spoil(folder)
    with pytest.raises(UserError) as caught:
        list(read_movies(str(folder), "prepared"))
    assert str(caught.value) == sentence.format(folder=folder, size=size)


def test_a_spoiled_folder_can_be_overwritten(one: tuple[Path, Path]) -> None:
    source, folder = one
    manifest = read_manifest(folder)
    (folder / "prepared.json").write_text("{")
    assert prepared(source, folder, overwrite=True) == manifest


def test_a_second_preparation_checks_the_hashes(one: tuple[Path, Path]) -> None:
    source, folder = one
    content = bytearray((folder / "shard_00000.arrow").read_bytes())
    content[len(content) // 2] ^= 1
    (folder / "shard_00000.arrow").write_bytes(content)
    with pytest.raises(UserError) as caught:
        prepared(source, folder)
    assert str(caught.value) == (
        f"{folder}/shard_00000.arrow is damaged: its SHA-256 is not the manifest's; --overwrite "
        "makes the folder anew"
    )


def test_a_poster_whose_shard_is_gone(one: tuple[Path, Path]) -> None:
    (movie,) = read_movies(str(one[1]))
    elsewhere = replace(movie.poster, file=one[1] / "shard_00001.arrow")
    with pytest.raises(OSError, match="shard_00001"):
        elsewhere.read()


@pytest.fixture(scope="module")
def wordpiece(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    train_tokenizer(["plot of a movie. the longer plots, set at sea."]).save_pretrained(folder)
    return folder


PLOTS = [
    "A movie at sea. " * 40,
    "a plot",
    None,
    "",
    "sea " * 18,
    "sea " * 17,
    "🎬 [SEP] the [PAD]",
]


@pytest.fixture(scope="module")
def with_ids(wordpiece: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Source and prepared folder of movies with `PLOTS`, cut to 20 tokens."""
    path = tmp_path_factory.mktemp("with_ids")
    rows = [jsonl_row(i, text=plot, image=None) for i, plot in enumerate(PLOTS)]
    source = write_jsonl(path / "movies", train=rows)
    prepared(source, path / "prepared", tokens=(str(wordpiece), 20))
    return source, path / "prepared"


@pytest.mark.parametrize("is_complete", [True, False])
@pytest.mark.parametrize("key", ["source", "poster_size", "tokenizer", "max_length"])
def test_other_options_are_refused(
    key: str,
    is_complete: bool,
    with_ids: tuple[Path, Path],
    wordpiece: Path,
    tmp_path: Path,
) -> None:
    source, folder = with_ids[0], shutil.copytree(with_ids[1], tmp_path / "prepared")
    change_manifest(is_complete=is_complete)(folder)
    others = write_jsonl(tmp_path / "others", train=[jsonl_row(1)])
    options: dict[str, Any] = {"source": source, "tokens": (str(wordpiece), 20)}
    was, now, changes = {
        "source": (source, others, {"source": others}),
        "poster_size": (256, 128, {"poster_size": 128}),
        "tokenizer": (wordpiece, None, {"tokens": ()}),
        "max_length": (20, 32, {"tokens": (str(wordpiece), 32)}),
    }[key]
    with pytest.raises(UserError) as caught:
        prepared(folder=folder, **{**options, **changes})
    assert str(caught.value) == (
        f"{folder} was prepared with {key} {was}, not {now}; name another folder, or make it anew "
        "with --overwrite"
    )


def test_files_of_somebody_else_are_left_alone(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "movies", {"a.jpg": poster_bytes(1)})
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "shard_00001.arrow").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(UserError) as caught:
            prepared(source, tmp_path / "home", overwrite=overwrite)
        assert str(caught.value) == (
            f"{tmp_path}/home holds other files, such as shard_00001.arrow, and no prepared.json; "
            "give a new or an empty folder"
        )
    assert (tmp_path / "home" / "shard_00001.arrow").read_text() == "mine"


def test_a_source_is_not_overwritten_by_itself(one: tuple[Path, Path]) -> None:
    with pytest.raises(UserError) as caught:
        prepared(one[1], one[1], overwrite=True)
    assert str(caught.value) == f"{one[1]} is the source itself; name another folder"
    assert len(list(read_movies(str(one[1])))) == 1


# Case: arguments, and the sentence.
BAD_OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "poster_size": ({"poster_size": 0}, "poster_size is 0; it must be above 0"),
    "max_length": (
        {"tokens": 2},
        "max_length is 2; it must be above 2, the number of the tokenizer's special tokens",
    ),
}


@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_bad_options(case: str, wordpiece: Path, tmp_path: Path) -> None:
    options, sentence = BAD_OPTIONS[case]
    source = write_folder(tmp_path / "movies", {"a.jpg": poster_bytes(1)})
    if "tokens" in options:
        options = {"tokens": (str(wordpiece), options["tokens"])}
    with pytest.raises(UserError) as caught:
        prepared(source, tmp_path / "prepared", **options)
    assert str(caught.value) == sentence
    assert not (tmp_path / "prepared").exists()


# Case: fields that every reader takes, and Arrow does not.
NOT_STORED: dict[str, tuple[dict[str, Any], str]] = {
    "half an emoji": (
        {"plot": "\ud83d"},
        "'utf-8' codec can't encode character '\\ud83d' in position 0: surrogates not allowed",
    ),
    "year": ({"year": 10**30}, "Python int too large to convert to C long"),
}


@pytest.mark.parametrize("case", NOT_STORED)
def test_fields_that_cannot_be_stored(case: str, tmp_path: Path) -> None:
    fields, reason = NOT_STORED[case]
    movies = {"a.jpg": poster_bytes(1), "b.jpg": poster_bytes(2)}
    source = write_folder(tmp_path / "movies", movies, **fields)
    with pytest.raises(UserError) as caught:
        prepared(source, tmp_path / "prepared")
    assert str(caught.value) == f"a movie from 'a.jpg' to 'b.jpg' cannot be stored: {reason}"


def test_a_folder_that_is_a_file(made: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "prepared").write_text("mine")
    with pytest.raises(UserError) as caught:
        prepared(made[0], tmp_path / "prepared")
    assert str(caught.value) == (
        f"{tmp_path}/prepared cannot be written to (File exists); finished shards are kept, and "
        "the same command goes on from there"
    )


def test_a_source_without_movies(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "movies", {})
    with pytest.raises(UserError) as caught:
        prepared(source, tmp_path / "prepared")
    assert str(caught.value) == f"{source} has no movies"


# --- the plots' token ids


@pytest.fixture
def tokenized(with_ids: tuple[Path, Path]) -> list[MovieRecord]:
    movies = list(read_movies(str(with_ids[1])))
    assert [movie.tokens is None for movie in movies] == [not plot for plot in PLOTS]
    return movies


@pytest.mark.parametrize("max_length", [3, 7, 16, 20])
@pytest.mark.parametrize("padding", ["longest", "max_length"])
@pytest.mark.parametrize("missing_modality", ["fill", "learned"])
def test_batches_from_ids_equal_batches_from_text(
    max_length: int,
    padding: str,
    missing_modality: str,
    tokenized: list[MovieRecord],
    wordpiece: Path,
) -> None:
    config = MMGenreConfig(
        id2label={0: "drama", 1: "romance", 2: "comedy", 3: "war", 4: "sci-fi"},
        modalities=["text"],
        max_length=max_length,
        padding=padding,
        missing_modality=missing_modality,
    )
    own = tokenizer.load_tokenizer(str(wordpiece))
    processor = MMGenreProcessor.from_config(config, own)
    assert are_tokens_usable(tokenized, processor.tokenizer, max_length)
    vocabulary = GenreVocabulary(tuple(config.genres))

    def batches(records: list[MovieRecord], use_tokens: bool, num_workers: int = 0) -> list[Any]:
        dataset = MovieDataset(records, vocabulary, None, 0, use_tokens=use_tokens)
        if use_tokens:  # the text is not looked at
            dataset.records = [replace(r, plot=r.plot and "x") for r in records]
        collate = GenreCollator(processor)
        return [
            batch
            for size in (1, 3, len(records))
            for batch in create_eval_loader(dataset, size, collate, num_workers)
        ]

    from_text, from_ids = batches(tokenized, False), batches(tokenized, True, num_workers=1)
    assert len(from_text) == len(from_ids) == 11
    for one, other in zip(from_text, from_ids, strict=True):
        assert one.keys() == other.keys()
        assert all(one[key].dtype == other[key].dtype for key in one)
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_ids_that_do_not_fit_are_left_alone(
    tokenized: list[MovieRecord], wordpiece: Path, caplog: pytest.LogCaptureFixture
) -> None:
    own = tokenizer.load_tokenizer(str(wordpiece))
    other = train_tokenizer(["other words"])
    left = tokenizer.load_tokenizer(str(wordpiece))
    left.truncation_side = "left"
    tokenizer._log_once.cache_clear()
    for _ in range(2):
        assert not are_tokens_usable(tokenized, other, 20)
        assert not are_tokens_usable(tokenized, own, 21)
        assert not are_tokens_usable(tokenized, left, 20)
    assert not are_tokens_usable([replace(r, tokens=None) for r in tokenized], own, 20)
    start = "plots are tokenised in training: the prepared token ids "
    assert [record.getMessage() for record in caplog.records] == [
        f"{start}are of another tokenizer",
        f"{start}are cut to 20, and the model takes 21",
        f"{start}are cut at the end, and the model's tokenizer cuts at the start",
    ]


def test_a_saved_tokenizer_is_the_same_tokenizer(wordpiece: Path, tmp_path: Path) -> None:
    """After use, which changes its state, and through a checkpoint."""
    own = tokenizer.load_tokenizer(str(wordpiece))
    before = tokenizer.fingerprint(own)
    own(["a plot", "two plots"], padding="longest", truncation=True, max_length=5)
    processor = MMGenreProcessor.from_config(MMGenreConfig(), own)
    assert processor._num_end_tokens == 1
    processor.save_pretrained(tmp_path / "saved")
    loaded = MMGenreProcessor.from_pretrained(tmp_path / "saved")
    assert before == tokenizer.fingerprint(own) == tokenizer.fingerprint(loaded.tokenizer)
    config = json.loads((tmp_path / "saved" / "processor_config.json").read_text())
    assert "_num_end_tokens" not in config
