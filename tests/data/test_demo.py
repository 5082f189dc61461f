"""The demo data: reproducible, readable by the real reader, and hard for one modality alone."""

import itertools
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from random import Random

import numpy as np
import pytest
from PIL import Image
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from transformers import BertTokenizer

from mmgenre.data.demo import (
    JOINT_GENRES,
    PLOT_GENRES,
    POSTER_GENRES,
    DemoMovie,
    create_demo_movies,
    write_demo_movies,
)
from mmgenre.data.demo_posters import draw_poster
from mmgenre.data.readers import read_movies
from mmgenre.data.records import FilePoster
from mmgenre.data.tokenizer import train_tokenizer
from mmgenre.utils.errors import UserError

REPOSITORY = str(Path(__file__).parents[2])
GENRES = POSTER_GENRES + PLOT_GENRES + JOINT_GENRES
POSTER_CUES = POSTER_GENRES + JOINT_GENRES
PLOT_CUES = PLOT_GENRES + JOINT_GENRES


@pytest.fixture(scope="module")
def movies() -> list[DemoMovie]:
    return create_demo_movies(600, seed=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo_movies(tmp_path_factory.mktemp("demo"), num_movies=60, seed=3)


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def poster_of(movie: DemoMovie) -> Image.Image:
    return draw_poster(Random(movie.id), movie.poster_cues, movie.title)


def indicators(sets: list[frozenset[str]], names: tuple[str, ...]) -> np.ndarray:
    """Multi-hot, shape (movies, names)."""
    return np.array([[name in chosen for name in names] for chosen in sets], dtype=float)


def macro_f1(
    train_x: np.ndarray, train_y: np.ndarray, test_x: np.ndarray, test_y: np.ndarray
) -> float:
    """Macro F1 of one logistic regression per column, each at its best threshold on train."""
    scores = []
    for column in range(train_y.shape[1]):
        model = LogisticRegression(C=10.0, max_iter=1000).fit(train_x, train_y[:, column])
        fitted, predicted = (model.predict_proba(x)[:, 1] for x in (train_x, test_x))
        thresholds = np.linspace(0.05, 0.95, 19)
        on_train = [f1_score(train_y[:, column], fitted > value) for value in thresholds]
        threshold = thresholds[np.argmax(on_train)]
        scores.append(f1_score(test_y[:, column], predicted > threshold))
    return float(np.mean(scores))


def parts(movies: list[DemoMovie]) -> tuple[list[DemoMovie], list[DemoMovie]]:
    """The train movies and the held-out ones."""
    return [m for m in movies if m.split == "train"], [m for m in movies if m.split != "train"]


def test_same_seed_gives_the_same_bytes_and_another_seed_other_movies(
    folder: Path, tmp_path: Path
) -> None:
    same = write_demo_movies(tmp_path / "same", num_movies=60, seed=3)
    other = write_demo_movies(tmp_path / "other", num_movies=60, seed=4)
    assert contents(same) == contents(folder)
    assert contents(other)["metadata.jsonl"] != contents(folder)["metadata.jsonl"]


def test_movies_do_not_depend_on_the_order_of_sets(movies: list[DemoMovie]) -> None:
    script = (
        "from mmgenre.data.demo import create_demo_movies;"
        "print([(m.genres, m.plot, m.title, m.credits) for m in create_demo_movies(600, 0)])"
    )
    printed = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONHASHSEED": "1", "PYTHONPATH": REPOSITORY},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert printed.strip() == str([(m.genres, m.plot, m.title, m.credits) for m in movies])


def test_finished_folder_is_left_alone(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    write_demo_movies(folder, num_movies=60, seed=3)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_unfinished_folder_is_made_again(folder: Path, tmp_path: Path) -> None:
    write_demo_movies(tmp_path, num_movies=60, seed=3)
    (tmp_path / "metadata.jsonl").unlink()
    next((tmp_path / "posters").iterdir()).unlink()
    write_demo_movies(tmp_path, num_movies=60, seed=3)
    assert contents(tmp_path) == contents(folder)


def test_other_arguments_leave_nothing_of_the_old_movies(folder: Path, tmp_path: Path) -> None:
    write_demo_movies(tmp_path, num_movies=90, seed=4)
    write_demo_movies(tmp_path, num_movies=60, seed=3)
    assert contents(tmp_path) == contents(folder)


@pytest.mark.parametrize("name", ["metadata.jsonl", "metadata.csv", "posters/demo0001.jpg"])
def test_folder_with_other_files_is_refused_and_kept(tmp_path: Path, name: str) -> None:
    mine = tmp_path / name
    mine.parent.mkdir(exist_ok=True)
    mine.write_text("mine")
    with pytest.raises(UserError, match=f"{tmp_path} holds files that are not the demo's"):
        write_demo_movies(tmp_path, num_movies=60)
    assert contents(tmp_path) == {name: b"mine"}


def test_too_few_movies_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="num_movies is 59; the demo needs at least 60"):
        write_demo_movies(tmp_path, num_movies=59)


def test_real_reader_reads_it(folder: Path) -> None:
    records = list(read_movies(str(folder)))
    made = create_demo_movies(60, seed=3)
    assert [record.id for record in records] == [movie.id for movie in made]
    assert [record.split for record in records] == [movie.split for movie in made]
    for record, movie in zip(records, made, strict=True):
        assert record.genres == tuple(genre.lower() for genre in movie.genres)
        assert record.plot in (movie.plot, None)
        assert {role: list(names) for role, names in record.credits.items()} == movie.credits


def test_defects_are_few_and_none_is_in_test(folder: Path) -> None:
    defects = []
    for record in read_movies(str(folder)):
        if record.plot is None:
            defects.append((record.split, "no plot"))
        if record.poster is None:
            defects.append((record.split, "no file_name"))
            continue
        assert isinstance(record.poster, FilePoster)
        try:
            with Image.open(record.poster.path) as image:
                image.load()
                if image.mode != "RGB":
                    defects.append((record.split, image.mode))
        except OSError as error:  # also what Pillow raises for a text
            defects.append((record.split, type(error).__name__))
    # Pillow reports the truncated posters as a bare OSError.
    assert Counter(defects) == {
        ("train", "OSError"): 1,
        ("train", "UnidentifiedImageError"): 1,
        ("train", "FileNotFoundError"): 1,
        ("train", "no file_name"): 1,
        ("train", "no plot"): 2,
        ("train", "L"): 1,
        ("train", "CMYK"): 1,
        ("validation", "OSError"): 1,
    }


def test_missing_plots_are_null_and_empty(folder: Path) -> None:
    lines = (folder / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    plots = [json.loads(line)["plot"] for line in lines]
    assert [plots.count(None), plots.count("")] == [1, 1]


def test_posters_are_jpeg_and_png(folder: Path) -> None:
    suffixes = Counter(path.suffix for path in (folder / "posters").iterdir())
    assert suffixes.keys() == {".jpg", ".png"}
    assert suffixes[".jpg"] > suffixes[".png"]


def test_splits_and_genres_are_large_enough(movies: list[DemoMovie]) -> None:
    assert Counter(m.split for m in movies) == {"train": 400, "validation": 100, "test": 100}
    for split in ("train", "validation", "test"):
        counts = Counter(g for m in movies if m.split == split for g in m.genres)
        size = sum(m.split == split for m in movies)
        assert counts.keys() == set(GENRES)
        assert min(counts.values()) >= 0.07 * size
        assert counts.most_common(1)[0][0] == "Drama"
    assert {len(m.genres) for m in movies} == {1, 2, 3}


def test_plots_have_a_readable_length(movies: list[DemoMovie]) -> None:
    lengths = [len(movie.plot.split()) for movie in movies]
    assert min(lengths) >= 20
    assert max(lengths) <= 70
    assert not any("{" in movie.plot for movie in movies)


def test_only_both_modalities_together_reach_the_target(movies: list[DemoMovie]) -> None:
    """An observer who sees each cue without fail, fitted on five times as many other movies."""
    train, (_, test) = create_demo_movies(3000, seed=1), parts(movies)

    def observe(part: list[DemoMovie]) -> dict[str, np.ndarray]:
        poster = indicators([m.poster_cues for m in part], POSTER_CUES)
        plot = indicators([m.plot_cues for m in part], PLOT_CUES)
        return {"poster": poster, "plot": plot, "both": np.hstack([poster, plot])}

    train_x, test_x = observe(train), observe(test)
    train_y, test_y = (
        indicators([frozenset(m.genres) for m in part], GENRES) for part in (train, test)
    )
    scores = {key: macro_f1(train_x[key], train_y, test_x[key], test_y) for key in train_x}
    assert scores["both"] >= 0.95
    assert scores["poster"] <= scores["both"] - 0.12
    assert scores["plot"] <= scores["both"] - 0.12


def test_words_tell_the_plot_cues_but_not_the_poster_genres(movies: list[DemoMovie]) -> None:
    train, test = parts(movies)
    vectorizer = TfidfVectorizer()
    train_x = vectorizer.fit_transform([m.plot for m in train])
    test_x = vectorizer.transform([m.plot for m in test])
    cues = [indicators([m.plot_cues for m in part], PLOT_CUES) for part in (train, test)]
    genres = [
        indicators([frozenset(m.genres) for m in part], POSTER_GENRES) for part in (train, test)
    ]
    assert macro_f1(train_x, cues[0], test_x, cues[1]) >= 0.95
    assert macro_f1(train_x, genres[0], test_x, genres[1]) <= 0.5


def test_coarse_grey_pixels_tell_the_poster_cues(movies: list[DemoMovie]) -> None:
    train, test = parts(movies)
    pixels = [
        np.stack(
            [np.asarray(poster_of(m).convert("L").resize((12, 18))).ravel() / 255 for m in part]
        )
        for part in (train, test)
    ]
    cues = [indicators([m.poster_cues for m in part], POSTER_CUES) for part in (train, test)]
    assert macro_f1(pixels[0], cues[0], pixels[1], cues[1]) >= 0.7


@pytest.mark.parametrize("genre", PLOT_GENRES)
def test_plot_genres_leave_no_trace_on_the_poster(genre: str) -> None:
    with_genre = draw_poster(Random(0), {"Western", genre}, "The Hollow Lantern")
    without = draw_poster(Random(0), {"Western"}, "The Hollow Lantern")
    np.testing.assert_array_equal(with_genre, without)


def test_shared_directors_share_genres(movies: list[DemoMovie]) -> None:
    pairs = list(itertools.combinations(movies, 2))
    shared = [
        bool(set(a.genres) & set(b.genres))
        for a, b in pairs
        if set(a.credits["director"]) & set(b.credits["director"])
    ]
    overall = np.mean([bool(set(a.genres) & set(b.genres)) for a, b in pairs])
    assert len(shared) > 1000
    assert np.mean(shared) > overall + 0.2


def test_tokenizer_is_the_same_in_every_process(movies: list[DemoMovie]) -> None:
    script = (
        "from mmgenre.data.demo import create_demo_movies;"
        "from mmgenre.data.tokenizer import train_tokenizer;"
        "plots = [m.plot for m in create_demo_movies(600, 0)];"
        "print(sorted(train_tokenizer(plots, vocab_size=500).get_vocab().items()))"
    )
    printed = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": REPOSITORY},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    here = train_tokenizer((m.plot for m in movies), vocab_size=500)
    assert len(here) == 500
    assert printed.strip() == str(sorted(here.get_vocab().items()))


def test_tokenizer_comes_back_from_disk(movies: list[DemoMovie], tmp_path: Path) -> None:
    tokenizer = train_tokenizer(m.plot for m in movies)
    tokenizer.save_pretrained(tmp_path)
    texts = [movies[0].plot, movies[1].plot.upper(), "A zebra ate 7 teapots!", ""]
    loaded = BertTokenizer.from_pretrained(tmp_path)
    assert loaded(texts)["input_ids"] == tokenizer(texts)["input_ids"]


def test_tokenizer_encodes_as_bert_does(movies: list[DemoMovie]) -> None:
    tokenizer = train_tokenizer(m.plot for m in movies)
    upper, lower, short = tokenizer(
        ["THE ROBOT", "the robot", "the"], truncation=True, max_length=4, padding=True
    )["input_ids"]
    assert upper == lower == tokenizer.convert_tokens_to_ids(["[CLS]", "the", "robot", "[SEP]"])
    assert short == tokenizer.convert_tokens_to_ids(["[CLS]", "the", "[SEP]", "[PAD]"])


def test_tokenizer_spells_out_unseen_words(movies: list[DemoMovie]) -> None:
    tokenizer = train_tokenizer(m.plot for m in movies)
    pieces = tokenizer.tokenize("teabook")
    assert len(pieces) > 1
    assert "".join(pieces).replace("##", "") == "teabook"
