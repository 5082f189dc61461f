"""The published protocols, on movies with the published numbers of genres and splits."""

import logging
from collections import Counter
from dataclasses import replace

import pytest
from mmimdb import GENRE_COUNTS, RARE_GENRES, SPLIT_SIZES, full_size_records

from mmgenre.data.protocols import AREVALO_GENRES, PROTOCOLS, apply_protocol
from mmgenre.data.records import MovieRecord
from mmgenre.utils.errors import UserError


@pytest.fixture(scope="module")
def records() -> list[MovieRecord]:
    return full_size_records()


def genre_counts(splits: dict[str, list[MovieRecord]]) -> Counter[str]:
    return Counter(g for movies in splits.values() for movie in movies for g in movie.genres)


def sizes(splits: dict[str, list[MovieRecord]]) -> dict[str, int]:
    return {name: len(movies) for name, movies in splits.items()}


def test_the_generated_movies_are_the_published_ones(records: list[MovieRecord]) -> None:
    assert genre_counts({"all": records}) == GENRE_COUNTS
    assert Counter(movie.split for movie in records) == SPLIT_SIZES
    assert all(len(set(movie.genres)) == len(movie.genres) > 0 for movie in records)


def test_report_cuts_the_training_movies(
    records: list[MovieRecord], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        splits, vocabulary = apply_protocol("report", records)
    assert sizes(splits) == {"train": 13_219, "validation": 2_333}
    assert {movie.split for movies in splits.values() for movie in movies} == {"train"}
    assert list(vocabulary.genres) == sorted(set(GENRE_COUNTS) - {"adult"})
    assert set(genre_counts(splits)) == set(vocabulary.genres)
    assert (
        "protocol report: keeps train 13219, validation 2333 of 25959 movies; left out: 10407 not "
        "for training (validation 2608, test 7799); 26 labels: action, adventure"
    ) in caplog.text


def test_report_takes_movies_without_split_as_they_are(records: list[MovieRecord]) -> None:
    """So the hub format, which has the training movies alone, is cut as the archive is."""
    train = [movie for movie in records if movie.split == "train"]
    unnamed = [replace(movie, split=None) for movie in train]
    of_archive, of_hub = (apply_protocol("report", movies)[0] for movies in (records, unnamed))
    for split in ("train", "validation"):
        assert [m.id for m in of_archive[split]] == [m.id for m in of_hub[split]]


def test_arevalo_keeps_every_movie(
    records: list[MovieRecord], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        splits, vocabulary = apply_protocol("arevalo", records)
    assert sizes(splits) == SPLIT_SIZES
    assert list(vocabulary.genres) == [g for g, _ in Counter(GENRE_COUNTS).most_common(23)]
    assert genre_counts(splits) == {g: GENRE_COUNTS[g] for g in vocabulary.genres}
    assert (
        "takes off the labels news (64 movies), adult (4 movies), talk-show (2 movies), "
        "reality-tv (1 movies); 0 movies stay with no label"
    ) in caplog.text
    assert "train 15552, validation 2608, test 7799 of 25959 movies; left out: none" in caplog.text


def test_mmbt_filters_movies(records: list[MovieRecord], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        splits, vocabulary = apply_protocol("mmbt", records)
    assert sizes(splits) == {"train": 15_513, "validation": 2_599, "test": 7_779}
    assert len(vocabulary) == 23
    assert set(genre_counts(splits)) == set(vocabulary.genres)
    assert (
        "left out: 64 with the genre news (train 39, validation 8, test 17); 4 with a genre that "
        "no training movie has, of adult (validation 1, test 3); 23 labels: drama, comedy"
    ) in caplog.text
    assert "takes off the labels talk-show (2 movies), reality-tv (1 movies)" in caplog.text


def movie(movie_id: str, split: str | None, *genres: str, plot: str | None = "P") -> MovieRecord:
    return MovieRecord(movie_id, plot, genres, None, split=split)


FEW = [
    movie("a", "train", "drama", "reality-tv"),
    movie("b", "train", "news", "western"),
    movie("c", "train", "drama", plot=None),
    movie("d", "validation", "drama"),
    movie("e", "validation", "drama", "western"),
    movie("f", "test", "talk-show", "reality-tv"),
    movie("g", "test", "reality-tv"),
    movie("h", "test", "drama", plot=""),
]


@pytest.mark.parametrize(
    ("protocol", "expected"),
    [
        # A label that only a left-out training movie has counts as unseen (e); an empty plot is
        # left out (c, h); a movie whose labels are all taken off stays (g).
        (
            "mmbt",
            {"train": {"a": ("drama",)}, "validation": {"d": ("drama",)}, "test": {"g": ()}},
        ),
        (
            "arevalo",
            {
                "train": {"a": ("drama",), "b": ("western",), "c": ("drama",)},
                "validation": {"d": ("drama",), "e": ("drama", "western")},
                "test": {"f": (), "g": (), "h": ("drama",)},
            },
        ),
    ],
)
def test_movies_and_labels_of_a_protocol(
    protocol: str, expected: dict[str, dict[str, tuple[str, ...]]]
) -> None:
    splits, vocabulary = apply_protocol(protocol, FEW)
    assert vocabulary.genres == AREVALO_GENRES
    assert {s: {m.id: m.genres for m in movies} for s, movies in splits.items()} == expected


def test_genres_outside_a_protocol_stay_for_the_check_of_unknown_genres() -> None:
    splits, _ = apply_protocol("arevalo", [*FEW, movie("i", "test", "drama", "anime")])
    assert splits["test"][-1].genres == ("drama", "anime")


@pytest.mark.parametrize(
    ("protocol", "records", "expected"),
    [
        (
            "arevalo",
            [movie("a", None, "drama")],
            "protocol 'arevalo' finds no movie for train and validation and test among 1 movies "
            "(no split named 1; left out: none); give a data set that has them",
        ),
        (
            "mmbt",
            [movie(s, s, "drama", plot=None) for s in SPLIT_SIZES],
            "protocol 'mmbt' finds no movie for train and validation and test among 3 movies "
            "(train 1, validation 1, test 1; left out: 3 without a plot (train 1, validation 1, "
            "test 1)); give a data set that has them",
        ),
        (
            "report",
            [movie("a", "test", "drama")],
            "protocol 'report' finds no movie for train among 1 movies (test 1; left out: 1 not "
            "for training (test 1)); give a data set that has them",
        ),
    ],
)
def test_a_data_set_that_a_protocol_cannot_use_is_named(
    protocol: str, records: list[MovieRecord], expected: str
) -> None:
    with pytest.raises(UserError) as caught:
        apply_protocol(protocol, records)
    assert str(caught.value) == expected


def test_each_genre_that_a_protocol_leaves_aside_is_one_of_mm_imdb() -> None:
    for protocol in PROTOCOLS.values():
        aside = {*protocol.left_out_genres, *protocol.taken_off_genres}
        assert aside <= set(RARE_GENRES)
        assert set(protocol.genres) < set(GENRE_COUNTS)
        assert aside.isdisjoint(protocol.genres)
