"""Genre names and the label vector."""

import logging
from pathlib import Path

import numpy as np
import pytest
from sklearn.preprocessing import MultiLabelBinarizer

from mmgenre.data.labels import GenreVocabulary, canonical_genre, canonical_genres, check_known
from mmgenre.data.records import MovieRecord
from mmgenre.utils.errors import UserError


def movie(movie_id: str, *genres: str) -> MovieRecord:
    return MovieRecord(movie_id, "P", genres, None)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("Drama", "drama"),
        (" Film-Noir\n", "film-noir"),
        ("Road \t Movie", "road movie"),
        ("Sci-Fi", "sci-fi"),
        ("Science  Fiction", "sci-fi"),
        ("Science-Fiction", "sci-fi"),
        ("SciFi", "sci-fi"),
        ("sci fi", "sci-fi"),
        ("Film Noir", "film-noir"),
        ("Reality TV", "reality-tv"),
        ("Talk Show", "talk-show"),
        ("Sports", "sport"),
        ("Historical", "historical"),
    ],
)
def test_canonical_genre(name: str, expected: str) -> None:
    assert canonical_genre(name) == expected


def test_canonical_genres_keep_order_and_lose_repeats() -> None:
    assert canonical_genres(["War", "drama", " ", "WAR "]) == ("war", "drama")
    assert canonical_genres(["Sci-Fi", "war", "Science Fiction"]) == ("sci-fi", "war")


def test_vocabulary_and_labels_are_those_of_scikit_learn() -> None:
    movies = [movie("a", "war", "drama"), movie("b", "comedy"), movie("c")]
    vocabulary = GenreVocabulary.from_records(movies)
    binarizer = MultiLabelBinarizer()
    expected = binarizer.fit_transform([record.genres for record in movies])
    assert vocabulary.genres == tuple(binarizer.classes_)
    np.testing.assert_array_equal([vocabulary.encode(m.genres) for m in movies], expected)


def test_given_order_is_kept_and_maps_both_ways() -> None:
    vocabulary = GenreVocabulary(("War", "Drama"))
    assert vocabulary.id2label == {0: "war", 1: "drama"}
    assert vocabulary.label2id == {"war": 0, "drama": 1}
    assert vocabulary.index("DRAMA") == 1
    assert len(vocabulary) == 2


@pytest.mark.parametrize(
    ("genres", "expected"),
    [
        ((), "is empty"),
        (("war", " "), "has an empty name"),
        (("war", "drama", "War"), "has war more than once"),
    ],
)
def test_bad_vocabulary_is_named(genres: tuple[str, ...], expected: str) -> None:
    with pytest.raises(UserError, match=expected):
        GenreVocabulary(genres)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "the list of genres is empty"),
        (b"War\nSci-Fi\nSciFi\n", "the list of genres has sci-fi more than once"),
        (b"caf\xe9", "is not UTF-8 text"),
        (None, "cannot be read (No such file or directory)"),
    ],
)
def test_bad_vocabulary_file_is_named(content: bytes | None, expected: str, tmp_path: Path) -> None:
    file = tmp_path / "labels.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UserError) as caught:
        GenreVocabulary.from_arguments([str(file)])
    assert str(caught.value).startswith(str(file))
    assert expected in str(caught.value)


def test_encode_names_an_unknown_genre() -> None:
    with pytest.raises(UserError, match="genre 'adult' is unknown; the vocabulary has war"):
        GenreVocabulary(("war",)).encode(["war", "adult"])


@pytest.mark.parametrize(
    ("power", "expected"), [(1, [5, 2.5, 5]), (0.5, [5**0.5, 2.5**0.5, 5**0.5])]
)
def test_positive_weights(power: float, expected: list[float]) -> None:
    """Of five movies one has war, two drama and none news, which weighs as if one had it."""
    movies = [movie("a", "war", "drama"), movie("b", "drama"), *(movie(i) for i in "cde")]
    weights = GenreVocabulary(("war", "drama", "news")).positive_weights(movies, power)
    assert weights == pytest.approx(expected)


UNKNOWN = [movie("a", "war"), movie("b", "adult", "war"), movie("c", "adult"), movie("d", "news")]


def test_unknown_genres_are_an_error_that_names_them() -> None:
    with pytest.raises(UserError) as caught:
        check_known(UNKNOWN, GenreVocabulary(("war",)), "test", "error")
    for part in ("test split", "adult (movies: 2, such as b)", "news (movies: 1, such as d)"):
        assert part in str(caught.value)
    assert "--unknown_genres drop" in str(caught.value)


def test_unknown_genres_are_dropped_and_counted(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        kept = check_known(UNKNOWN, GenreVocabulary(("war",)), "test", "drop")
    assert kept == [movie("a", "war"), movie("b", "war"), movie("c"), movie("d")]
    assert "adult (movies: 2, such as b)" in caplog.text
    assert "2 movies have no genre left" in caplog.text


@pytest.mark.parametrize("unknown_genres", ["error", "drop"])
def test_known_genres_pass_unchanged(unknown_genres: str, caplog: pytest.LogCaptureFixture) -> None:
    movies = [movie("a", "war"), movie("b")]
    assert check_known(movies, GenreVocabulary(("war",)), "test", unknown_genres) == movies
    assert not caplog.records
