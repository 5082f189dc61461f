"""Slices, confusions and ablations by hand and against plain loops."""

from dataclasses import dataclass

import numpy as np
import pytest
from sklearn.metrics import f1_score

from mmgenre.evaluation.ablations import ablate
from mmgenre.evaluation.confusions import confusions
from mmgenre.evaluation.slices import movie_attributes, slice_metrics

GENRES = ["drama", "comedy", "western", "news"]


@dataclass(frozen=True)
class Record:
    id: int
    plot: str | None
    poster: str | None
    year: int | None = None


def predictions(num_movies: int = 60):
    rng = np.random.default_rng(0)
    labels = rng.random((num_movies, 4)) < [0.6, 0.3, 0.1, 0.0]
    return 0.4 * labels + 0.6 * rng.random(labels.shape), labels.astype(int)


def test_every_slice_has_the_f1s_of_its_movies() -> None:
    scores, labels = predictions()
    rng = np.random.default_rng(1)
    words = [None if i == 7 else int(n) for i, n in enumerate(rng.integers(0, 300, 60))]
    records = [
        Record(i, None if n is None else "word " * n, None, None if i % 5 else 1920 + 2 * i)
        for i, n in enumerate(words)
    ]
    rows = slice_metrics(scores, labels, GENRES, 0.45, movie_attributes(records))
    predicted = scores > 0.45
    members = {
        ("plot_words", "0"): lambda i: not words[i],
        ("plot_words", "1 to 49"): lambda i: 1 <= (words[i] or 0) <= 49,
        ("plot_words", "50 to 99"): lambda i: 50 <= (words[i] or 0) <= 99,
        ("plot_words", "100 to 199"): lambda i: 100 <= (words[i] or 0) <= 199,
        ("plot_words", "200 and above"): lambda i: (words[i] or 0) >= 200,
        ("year", "unknown"): lambda i: i % 5,
        ("year", "below 1930"): lambda i: i % 5 == 0 and 1920 + 2 * i < 1930,
        ("year", "1930 to 1949"): lambda i: i % 5 == 0 and 1930 <= 1920 + 2 * i < 1950,
        ("num_genres", "0"): lambda i: labels[i].sum() == 0,
        ("num_genres", "1"): lambda i: labels[i].sum() == 1,
        ("num_genres", "2"): lambda i: labels[i].sum() == 2,
    }
    found = {(row["by"], row["slice"]): row for row in rows}
    for by in ("plot_words", "year", "num_genres"):
        assert sum(row["movies"] for row in rows if row["by"] == by) == 60
    for key, is_member in members.items():
        movies = [i for i in range(60) if is_member(i)]
        if not movies:
            assert key not in found
            continue
        truth, guess = labels[movies], predicted[movies]
        there = truth.any(axis=0)
        row = found[key]
        assert (row["movies"], row["genres"], row["positives"]) == (
            len(movies),
            there.sum(),
            truth.sum(),
        )
        micro = f1_score(truth, guess, average="micro", zero_division=0)
        assert row["f1_micro"] == pytest.approx(micro, abs=1e-12)
        per_genre = f1_score(truth, guess, average=None, zero_division=0)
        assert row["f1_macro"] == (
            pytest.approx(per_genre[there].mean(), abs=1e-12) if there.any() else None
        )


def test_genres_in_thirds_by_their_number_of_movies() -> None:
    scores, labels = predictions()
    rows = slice_metrics(scores, labels, GENRES, 0.5, {"plot_words": [3] * 60, "year": [None] * 60})
    thirds = [row for row in rows if row["by"] == "genre_frequency"]
    support = labels.sum(axis=0)
    # news has no movie and is in no third
    assert [row["slice"] for row in thirds] == [
        f"{name} ({support[column]} to {support[column]} movies)"
        for name, column in (("rare", 2), ("middle", 1), ("frequent", 0))
    ]
    for row, column in zip(thirds, (2, 1, 0), strict=True):
        expected = f1_score(labels[:, column], scores[:, column] > 0.5)
        assert row["f1_macro"] == row["f1_micro"] == pytest.approx(expected, abs=1e-12)
        assert row["positives"] == support[column]


def test_confusions_are_those_of_a_plain_loop() -> None:
    scores, labels = predictions()
    predicted = scores > 0.55
    expected: dict[tuple[str, str], int] = {}
    for movie in range(60):
        for i, missed in enumerate(GENRES):
            for j, wrong in enumerate(GENRES):
                if (labels[movie, i] > predicted[movie, i]) and (
                    predicted[movie, j] > labels[movie, j]
                ):
                    expected[missed, wrong] = expected.get((missed, wrong), 0) + 1
    rows = confusions(scores, labels, GENRES, 0.55)
    assert expected
    assert {(row["missed"], row["predicted"]): row["movies"] for row in rows} == expected
    assert [row["movies"] for row in rows] == sorted(expected.values(), reverse=True)
    for row in rows:
        column = GENRES.index(row["missed"])
        misses = (labels[:, column] > predicted[:, column]).sum()
        assert row["share_of_missed"] == row["movies"] / misses
    assert confusions(labels, labels, GENRES) == []


RECORDS = [Record(i, f"plot {i}", None if i == 3 else f"poster {i}") for i in range(8)]


def test_missing_sets_are_nested_and_everything_else_stays() -> None:
    gone: dict[str, list[set[int]]] = {"poster": [], "plot": []}
    for ablation in ablate(RECORDS, ["image", "text"], seed=0):
        other = {"poster": "plot", "plot": "poster"}[ablation.field]
        assert [r.id for r in ablation.records] == list(range(8))
        assert [getattr(r, other) for r in ablation.records] == [getattr(r, other) for r in RECORDS]
        if ablation.change == "missing":
            lacking = {r.id for r in ablation.records if getattr(r, ablation.field) is None}
            gone[ablation.field].append(lacking - ({3} if ablation.field == "poster" else set()))
            whole = {"poster": 7, "plot": 8}[ablation.field]
            assert 8 * ablation.share - 1 <= len(gone[ablation.field][-1]) <= 8 * ablation.share
            assert ablation.share < 1 or len(gone[ablation.field][-1]) == whole
    for sets in gone.values():
        assert len(sets) == 4
        assert all(small < large for small, large in zip(sets, sets[1:], strict=False))
    again = [a.records for a in ablate(RECORDS, ["image", "text"], seed=0)]
    other = [a.records for a in ablate(RECORDS, ["image", "text"], seed=1)]
    assert again == [a.records for a in ablate(RECORDS, ["image", "text"], seed=0)]
    assert again != other


def test_shuffling_gives_every_movie_another_s() -> None:
    (shuffled,) = [a for a in ablate(RECORDS, ["text"], seed=0) if a.change == "shuffled"]
    plots = [r.plot for r in shuffled.records]
    assert sorted(plots) == sorted(r.plot for r in RECORDS)
    assert all(plot != record.plot for plot, record in zip(plots, RECORDS, strict=True))
    assert [r.poster for r in shuffled.records] == [r.poster for r in RECORDS]
