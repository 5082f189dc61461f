"""The report's cut, and the splits that a data set names."""

import logging
import re
from collections import Counter
from pathlib import Path

import datasets
import numpy as np
import pytest

from mmgenre.data.records import FilePoster, MovieRecord
from mmgenre.data.splits import find_leaks, random_cut, split_records, stratified_cut
from mmgenre.utils.errors import UserError


def movies(count: int, split: str | None = None, prefix: str = "m") -> list[MovieRecord]:
    return [MovieRecord(f"{prefix}{i}", None, ("war",), None, split=split) for i in range(count)]


def ids(records: list[MovieRecord]) -> list[str]:
    return [record.id for record in records]


@pytest.mark.parametrize(
    ("count", "fraction", "seed", "sizes"),
    [(15_552, 0.15, 42, (13_219, 2_333)), (15_552, 0.15, 7, (13_219, 2_333)), (7, 0.3, 0, (4, 3))],
)
def test_unnamed_movies_are_cut_as_in_the_report(
    count: int, fraction: float, seed: int, sizes: tuple[int, int]
) -> None:
    records = movies(count)
    # Another data set than the one the code cuts: with content, as the report had it.
    content = datasets.Dataset.from_dict({"id": ids(records), "text": ["plot"] * count})
    report = content.train_test_split(test_size=fraction, shuffle=True, seed=seed)
    splits = split_records(records, fraction, seed)
    assert list(splits) == ["train", "validation"]
    assert (len(splits["train"]), len(splits["validation"])) == sizes
    assert ids(splits["train"]) == list(report["train"]["id"])
    assert ids(splits["validation"]) == list(report["test"]["id"])


def test_named_splits_are_kept() -> None:
    test, validation, train = (movies(2, name, name) for name in ("test", "validation", "train"))
    splits = split_records([*test, *validation, *train], 0.5, 0)
    assert splits == {"train": train, "validation": validation, "test": test}


def test_validation_is_cut_off_train_where_none_is_named() -> None:
    train, test = movies(10, "train"), movies(4, "test", "t")
    splits = split_records([*test, *train], 0.3, 0)
    expected = split_records(movies(10), 0.3, 0)
    assert splits["test"] == test
    assert ids(splits["train"]) == ids(expected["train"])
    assert ids(splits["validation"]) == ids(expected["validation"])


def test_movies_without_genre_are_left_out_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    bare = [MovieRecord(f"bare{i}", "P", (), None) for i in range(2)]
    with caplog.at_level(logging.WARNING):
        splits = split_records([*bare, *movies(6)], 0.5, 1)
    assert splits == split_records(movies(6), 0.5, 1)
    assert "left out 2 of 8 movies, which have no genre; the first is bare0" in caplog.text


@pytest.mark.parametrize(
    ("records", "fraction", "expected"),
    [
        ([], 0.5, "the data set has no movies"),
        ([MovieRecord("a", "P", (), None)], 0.5, "none of the 1 movies has a genre"),
        (
            [*movies(2, "train"), *movies(1, None, "x")],
            0.5,
            "1 of 3 movies name no split, such as x0",
        ),
        (movies(2, "test"), 0.5, "in the split 'train'; the movies are in test (2)"),
        (movies(1), 0.15, "validation_fraction 0.15 cannot cut 1 training movies"),
        (movies(9), 0.0, "validation_fraction 0.0 cannot cut 9 training movies"),
        (movies(9), 1, "validation_fraction 1 cannot cut 9 training movies"),
    ],
)
def test_what_cannot_be_split_is_named(
    records: list[MovieRecord], fraction: float, expected: str
) -> None:
    with pytest.raises(UserError, match=re.escape(expected)):
        split_records(records, fraction, 0)


def multi_label_movies(count: int) -> list[MovieRecord]:
    """Genres from half of the movies to 1 in 200, and four of 1, 2, 3 and 4 movies."""
    rng = np.random.default_rng(3)
    labels = rng.random((count, 6)) < [0.5, 0.3, 0.1, 0.05, 0.02, 0.005]
    genres = [[f"g{column}" for column in np.flatnonzero(row)] or ["g0"] for row in labels]
    for movie in range(4):
        for rare in range(movie, 4):
            genres[movie].append(f"rare{rare + 1}")
    return [MovieRecord(f"m{i}", None, tuple(g), None) for i, g in enumerate(genres)]


def share_of_validation(cut: dict[str, list[MovieRecord]]) -> dict[str, float]:
    train, validation = (
        Counter(genre for record in cut[name] for genre in record.genres)
        for name in ("train", "validation")
    )
    return {g: validation[g] / (train[g] + validation[g]) for g in {*train, *validation}}


@pytest.mark.parametrize("seed", [0, 1])
def test_stratified_cut_has_each_genre_in_proportion(seed: int) -> None:
    records = multi_label_movies(3_000)
    cut = stratified_cut(records, 0.15, seed)
    assert sorted(ids(cut["train"]) + ids(cut["validation"])) == sorted(ids(records))
    assert len(cut["validation"]) == pytest.approx(450, abs=15)
    shares = share_of_validation(cut)
    for genre in ("g0", "g1", "g2", "g3", "g4", "g5"):
        assert shares[genre] == pytest.approx(0.15, abs=0.025)
    for genre in ("rare2", "rare3", "rare4"):
        assert 0 < shares[genre] < 1
    # Better than the random cut of the same movies, or it would not be worth its code.
    random_shares = share_of_validation(random_cut(records, 0.15, seed))
    distance, random_distance = (
        sum(abs(s[f"g{column}"] - 0.15) for column in range(6)) for s in (shares, random_shares)
    )
    assert distance < random_distance / 2


def test_stratified_cut_depends_on_the_seed_alone() -> None:
    records = multi_label_movies(200)
    first = stratified_cut(records, 0.15, 0)
    np.random.seed(5)
    assert stratified_cut(records, 0.15, 0) == first
    assert stratified_cut(records, 0.15, 1) != first
    assert split_records(records, 0.15, 0, "stratified") == first


def test_stratified_cut_of_too_few_movies_is_named() -> None:
    with pytest.raises(UserError, match="validation_fraction 0.15 cannot cut 1 training movies"):
        stratified_cut(movies(1), 0.15, 0)


def poster(folder: Path, name: str, content: str) -> FilePoster:
    (folder / name).write_text(content)
    return FilePoster(folder / name)


def test_leaks_by_id_and_by_poster_and_plot(tmp_path: Path) -> None:
    one, copy, other = (poster(tmp_path, n, c) for n, c in (("a", "x"), ("b", "x"), ("c", "y")))
    missing = FilePoster(tmp_path / "none")
    splits = {
        "train": [
            MovieRecord("t1", "P", (), one),
            MovieRecord("t2", "Q", (), one),
            MovieRecord("t3", None, (), one),
            MovieRecord("t4", "R", (), None),
            MovieRecord("t5", "S", (), missing),
            MovieRecord("same", "U", (), one),
        ],
        "validation": [MovieRecord("same", "U", (), one), MovieRecord("v1", "P", (), other)],
        "test": [
            MovieRecord("e1", "P", (), copy),
            MovieRecord("e2", "P", (), copy),
            MovieRecord("e3", None, (), copy),
            MovieRecord("e4", "R", (), None),
            MovieRecord("e5", "S", (), missing),
        ],
    }
    assert find_leaks(splits) == [
        "'same' is in train and in validation",
        "'t1' in train and 'e1' in test have the same poster and plot",
        "'t1' in train and 'e2' in test have the same poster and plot",
    ]


def test_leaks_read_no_poster_but_of_equal_plots(tmp_path: Path) -> None:
    class Unread(FilePoster):
        def read(self) -> bytes:
            raise AssertionError(f"{self.path} was read")

    unread = Unread(tmp_path)
    splits = {
        "train": [MovieRecord("a", "P", (), unread), MovieRecord("b", "P", (), unread)],
        "test": [MovieRecord("c", "Q", (), unread)],
    }
    assert find_leaks(splits) == []
