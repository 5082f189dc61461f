"""`mmgenre stats`: every number against a second way to get it, and the command end to end."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mmimdb import write_hdf5
from PIL import Image
from posters import png_of_size

import mmgenre.cli
from mmgenre.configs.arguments import MoviesArguments
from mmgenre.data.labels import GenreVocabulary
from mmgenre.data.movies import Movies, load_movies
from mmgenre.data.records import FilePoster, MovieRecord
from mmgenre.data.stats import compute_stats, count_words, token_counter
from mmgenre.data.stats_report import FIGURE_PIXELS, print_stats, write_stats
from mmgenre.data.tokenizer import train_tokenizer
from mmgenre.models.pictures import poster_size
from mmgenre.utils.errors import UserError

GENRES = ("comedy", "drama", "film-noir", "war")  # nobody has film-noir
LABELS = np.random.default_rng(0).random((90, 4)) < [0.5, 0.7, 0.0, 0.2]
SPLITS = {"train": range(60), "validation": range(60, 90)}


class PosterOf:
    """A poster whose bytes are its size, in place of 90 pictures."""

    def __init__(self, number: int) -> None:
        self.name = f"poster {number}"
        self.size = (100 + 60 * number, 50 + 40 * number)

    def read(self) -> bytes:
        return json.dumps(self.size).encode()


def movie(number: int) -> MovieRecord:
    return MovieRecord(
        id=f"m{number}",
        plot=None if number % 10 == 0 else "word " * number,
        genres=tuple(g for g, has in zip(GENRES, LABELS[number], strict=True) if has),
        poster=None if number % 15 == 0 else PosterOf(number),
        credits={"director": ("A",), "writer": ("B",)} if number % 3 else {"director": ()},
    )


def stats_of(
    records: list[MovieRecord], count: Any = count_words, max_length: int = 40
) -> dict[str, Any]:
    movies = Movies({"train": records}, GenreVocabulary(GENRES))
    stats = compute_stats(movies, lambda file: tuple(json.load(file)), max_length, count)
    return stats["splits"]["train"]


@pytest.mark.parametrize("split", SPLITS)
def test_genres_are_those_of_the_label_matrix(split: str) -> None:
    labels = LABELS[SPLITS[split]]
    stats = stats_of([movie(number) for number in SPLITS[split]])
    assert stats["movies"] == len(labels)
    assert stats["genre_counts"] == dict(zip(GENRES, labels.sum(axis=0), strict=True))
    per_movie = [int((labels.sum(axis=1) == count).sum()) for count in range(4)]
    assert stats["genres_per_movie"] == per_movie
    for i in range(4):
        for j in range(4):
            both = sum(bool(row[i] and row[j]) for row in labels)
            assert stats["cooccurrence"][i][j] == both


def test_lengths_sizes_gaps_and_credits() -> None:
    numbers = SPLITS["train"]
    stats = stats_of([movie(number) for number in numbers])
    lengths = [n for n in numbers if n % 10]
    assert stats["plot_lengths"]["truncated"] == sum(n > 40 for n in lengths) / len(lengths)
    assert stats["plot_lengths"]["p95"] == pytest.approx(np.percentile(lengths, 95))
    assert stats["plot_lengths"]["max"] == 59
    with_poster = [n for n in numbers if n % 15]
    width = [100 + 60 * n for n in with_poster]
    megapixels = np.array([(100 + 60 * n) * (50 + 40 * n) / 1e6 for n in with_poster])
    posters = stats["posters"]
    assert posters["width"]["median"] == np.median(width)
    assert posters["megapixels"]["max"] == pytest.approx(megapixels.max())
    assert posters["above_megapixels"] == {"4": float((megapixels > 4).mean()), "89": 0.0}
    assert posters["unreadable"] == []
    assert stats["missing"] == {"plot": 6, "poster": 4, "both": 2}
    assert stats["credits"] == {"director": 40, "writer": 40}


@pytest.mark.parametrize("longest", [3, 40, 500])
def test_histogram_bins_end_with_their_upper_edge(longest: int) -> None:
    """A plot of `max_length` is below the cut-off line, and no plot is in no bin."""
    lengths = [*range(1, 41), longest]
    records = [MovieRecord(f"{n}", "w " * n, (), None) for n in lengths]
    histogram = stats_of(records)["plot_lengths"]["histogram"]
    edges, counts = np.array(histogram["edges"]), np.array(histogram["counts"])
    assert counts.sum() == len(lengths)
    assert counts[edges[1:] <= 40].sum() == sum(n <= 40 for n in lengths)


def test_truncated_share_is_what_the_tokenizer_cuts() -> None:
    rng = np.random.default_rng(1)
    words = "a lonely clockmaker robs the bank and flees to space".split()
    plots = [" ".join(rng.choice(words, size)) for size in rng.integers(1, 60, 50)]
    tokenizer = train_tokenizer(plots[:10], vocab_size=45)
    cut = [
        tokenizer(plot)["input_ids"] != tokenizer(plot, truncation=True, max_length=30)["input_ids"]
        for plot in plots
    ]
    records = [MovieRecord(f"m{i}", plot, (), None) for i, plot in enumerate(plots)]
    stats = stats_of(records, token_counter(tokenizer), max_length=30)
    assert 0 < sum(cut) < 50
    assert stats["plot_lengths"]["truncated"] == np.mean(cut)


def test_posters_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    contents = {"empty": b"", "text": b"404", "missing": None, "good": png_of_size(7000, 1000)}
    records = []
    for name, content in contents.items():
        path = tmp_path / name
        if content is not None:
            path.write_bytes(content)
        records.append(MovieRecord(name, "P", (), FilePoster(path)))
    movies = Movies({"test": records}, GenreVocabulary(GENRES))
    posters = compute_stats(movies, poster_size, 9, count_words)["splits"]["test"]["posters"]
    assert posters["unreadable"] == [
        {"id": "empty", "poster": f"{tmp_path}/empty", "reason": "not a picture"},
        {"id": "text", "poster": f"{tmp_path}/text", "reason": "not a picture"},
        {"id": "missing", "poster": f"{tmp_path}/missing", "reason": "file is missing"},
    ]
    # Nothing of it was decoded: there is nothing to decode.
    assert posters["width"]["max"] == 7000
    assert posters["above_megapixels"] == {"4": 1.0, "89": 0.0}


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> None:
    monkeypatch.setattr(sys, "argv", ["mmgenre", "stats", *map(str, arguments)])
    mmgenre.cli.main()


def test_the_command_on_the_demo_movies(
    demo_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    movies = load_movies(MoviesArguments(dataset=str(demo_dir)), seed=42)
    plots = [record.plot for record in movies.split("train") if record.plot]
    train_tokenizer(plots).save_pretrained(tmp_path / "tokenizer")
    flags = [
        "--tokenizer",
        tmp_path / "tokenizer",
        "--max_length",
        "60",
        "--output",
        tmp_path / "s",
    ]
    run(monkeypatch, demo_dir, *flags)

    stats = json.loads((tmp_path / "s/stats.json").read_text())
    assert stats["dataset"] == str(demo_dir)
    assert {name: split["movies"] for name, split in stats["splits"].items()} == {
        "train": 40,
        "validation": 10,
        "test": 10,
    }
    printed = " ".join(capsys.readouterr().out.split())
    drama = stats["splits"]["train"]["genre_counts"]["drama"]
    assert f"drama {drama} ({drama / 40:.1%})" in printed
    truncated = stats["splits"]["train"]["plot_lengths"]["truncated"]
    assert f"plots above 60 tokens {truncated:.1%}" in printed
    (missing,) = (
        item
        for item in stats["splits"]["train"]["posters"]["unreadable"]
        if item["reason"] == "file is missing"
    )
    assert (
        f"train: the poster {missing['poster']} of movie {missing['id']!r} cannot be read "
        "(file is missing)"
    ) in printed
    with Image.open(tmp_path / "s/stats.png") as figure:
        assert figure.size == FIGURE_PIXELS
        drawn = np.asarray(figure.convert("L")) < 250
    quarters = [half for row in np.array_split(drawn, 2) for half in np.array_split(row, 2, axis=1)]
    assert all(quarter.mean() > 0.01 for quarter in quarters)


def test_the_file_holds_what_was_computed(demo_dir: Path, tmp_path: Path) -> None:
    movies = load_movies(MoviesArguments(dataset=str(demo_dir)), seed=0)
    stats = compute_stats(movies, poster_size, 128, count_words)
    write_stats({**stats, "length_unit": "words"}, tmp_path)
    assert json.loads((tmp_path / "stats.json").read_text()) == {**stats, "length_unit": "words"}


def test_features_without_plots_and_posters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    file = write_hdf5(tmp_path / "multimodal_imdb.hdf5")
    run(monkeypatch, file, "--protocol", "arevalo", "--output", tmp_path)
    posters = json.loads((tmp_path / "stats.json").read_text())["splits"]["test"]["posters"]
    assert posters["width"] == {"min": None, "median": None, "p95": None, "p99": None, "max": None}
    printed = " ".join(capsys.readouterr().out.split())
    assert "without both 4 (100.0%) 2 (100.0%) 3 (100.0%)" in printed
    assert "plots above 128 words - - -" in printed
    assert (tmp_path / "stats.png").is_file()


def test_without_matplotlib_the_rest_is_there(
    demo_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, caplog
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    run(monkeypatch, demo_dir, "--output", tmp_path)
    assert caplog.messages[-2] == (
        f"{tmp_path}/stats.png is left out, because matplotlib is not installed; "
        "pip install 'mmgenre[plots]'"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["stats.json"]
    assert "most often with" in capsys.readouterr().out


def test_the_last_unreadable_posters_are_only_counted(capsys) -> None:
    stats = stats_of([movie(1)])
    stats["posters"]["unreadable"] = [
        {"id": f"[b]{i}", "poster": f"/data/{i}.jpg", "reason": "not a picture"} for i in range(7)
    ]
    print_stats(
        {
            "genres": GENRES,
            "max_length": 40,
            "length_unit": "words",
            "splits": {"train": stats},
        }
    )
    lines = capsys.readouterr().out.rstrip().splitlines()
    assert lines[-2:] == [
        "train: the poster /data/4.jpg of movie '[b]4' cannot be read (not a picture)",
        "train: and 2 more posters",
    ]


MISTAKES = {
    "no data set": ([], "the following arguments are required: DATASET (--help lists all flags)"),
    "flag": (
        ["{demo}", "--tokeniser", "x"],
        "unknown argument '--tokeniser'; did you mean 'tokenizer'? (--help lists all flags)",
    ),
    "length": (["{demo}", "--max_length", "0"], "max_length is 0; it must be above 0"),
    "fraction": (
        ["{demo}", "--validation_fraction", "1"],
        "validation_fraction is 1.0; it must be between 0 and 1",
    ),
    "data": (["{tmp}/none"], "{tmp}/none does not exist and is not a Hub name such as owner/name"),
    "output": (
        ["{demo}", "--output", "{tmp}/file/s"],
        "output '{tmp}/file/s' cannot be made: Not a directory",
    ),
    "tokenizer of nothing": (
        ["{demo}", "--tokenizer", "{tmp}/bert"],
        "the tokenizer '{tmp}/bert' has no tokens but the special ones; its tokenizer.json or "
        "vocab.txt is missing",
    ),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes(
    case: str, demo_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    arguments, expected = MISTAKES[case]
    places = {"demo": demo_dir, "tmp": tmp_path}
    (tmp_path / "file").touch()
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert/config.json").write_text('{"model_type": "bert"}')
    (tmp_path / "out").mkdir()
    arguments = [argument.format(**places) for argument in arguments]
    if "--output" not in arguments and arguments:
        arguments += ["--output", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as stopped:
        run(monkeypatch, *arguments)
    assert stopped.value.code == 2
    *_, line = capsys.readouterr().err.splitlines()
    assert line == f"mmgenre: error: {expected.format(**places)}"
    assert not list((tmp_path / "out").iterdir())


def test_a_file_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "stats.json").mkdir()
    with pytest.raises(UserError) as caught:
        write_stats({}, tmp_path)
    assert str(caught.value) == f"'{tmp_path}' cannot be written to: Is a directory"


def test_a_word_too_many_for_another_command(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """`stats` reads its own flags; the others still refuse what they do not know."""
    monkeypatch.setattr(sys, "argv", ["mmgenre", "demo", "folder", "--max_length", "3"])
    with pytest.raises(SystemExit):
        mmgenre.cli.main()
    assert "unrecognized arguments: --max_length 3" in capsys.readouterr().err
