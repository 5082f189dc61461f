"""The report's cut, and the splits that a data set names."""

import logging
import re

import datasets
import pytest

from mmgenre.data.records import MovieRecord
from mmgenre.data.splits import split_records
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
