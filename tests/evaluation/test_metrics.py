"""The metrics against scikit-learn and by hand, and the evaluate library's class against both."""

import socket
import time

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, precision_recall_fscore_support

from mmgenre.evaluation.metrics import compute_metrics, per_genre_metrics

GENRES = ("drama", "comedy", "horror", "western")
EXACT = {"rel": 0, "abs": 1e-12}


def random_case(num_movies=200, seed=0):
    """Informative, tied probabilities (multiples of 0.1, thresholds among them) and labels."""
    rng = np.random.default_rng(seed)
    labels = (rng.random((num_movies, 4)) < [0.5, 0.3, 0.1, 0.02]).astype(int)
    noisy = np.clip(labels * 0.3 + rng.random((num_movies, 4)) * 0.7, 0, 1)
    return noisy.round(1), labels


def empty_genre():
    probabilities, labels = random_case()
    labels[:, 2] = 0
    return probabilities, labels


CASES = {
    "random": random_case(),
    "empty_genre": empty_genre(),
    "all_positive": (random_case()[0], np.ones((200, 4), dtype=int)),
    "all_negative_but_one": (random_case()[0], np.eye(200, 4, dtype=int) * [1, 0, 0, 0]),
    "all_predicted": (np.ones((200, 4)), random_case()[1]),
    "nothing_predicted": (np.zeros((200, 4)), random_case()[1]),
    "one_sample": (np.array([[0.9, 0.4, 0.6, 0.1]]), np.array([[1, 1, 0, 0]])),
}


@pytest.mark.parametrize("thresholds", [0.5, [0.3, 0.5, 0.2, 0.7]], ids=["one", "per_genre"])
@pytest.mark.parametrize("case", CASES)
def test_metrics_are_scikit_learn_s(case, thresholds):
    probabilities, labels = CASES[case]
    predicted = (probabilities > np.array(thresholds)).astype(int)
    present = labels.any(axis=0)
    expected = {
        f"f1_{average}": f1_score(labels, predicted, average=average, zero_division=0)
        for average in ("micro", "macro", "weighted", "samples")
    }
    for average in ("macro", "micro"):
        # an empty column changes neither micro nor the mean over the others
        columns = present if average == "macro" else slice(None)
        expected[f"map_{average}"] = average_precision_score(
            labels[:, columns], probabilities[:, columns], average=average
        )
    metrics = compute_metrics(probabilities, labels, GENRES, thresholds)
    assert metrics == pytest.approx(expected, **EXACT)

    rows = per_genre_metrics(probabilities, labels, GENRES, thresholds)
    columns = precision_recall_fscore_support(labels, predicted, average=None, zero_division=0)
    for name, values in zip(("precision", "recall", "f1", "support"), columns, strict=True):
        assert [row[name] for row in rows] == pytest.approx(values.tolist(), **EXACT)
    assert [row["genre"] for row in rows] == list(GENRES)
    assert [row["threshold"] for row in rows] == np.broadcast_to(thresholds, 4).tolist()
    for row, truth, scores in zip(rows, labels.T, probabilities.T, strict=True):
        if truth.any():
            expected_precision = average_precision_score(truth, scores)
            assert row["average_precision"] == pytest.approx(expected_precision, **EXACT)
        else:
            assert row["average_precision"] is None


def test_metrics_by_hand():
    probabilities = np.array([[0.9, 0.2], [0.8, 0.7], [0.3, 0.6]])
    labels = np.array([[1, 0], [0, 1], [1, 0]])
    # drama: tp 1, fp 1, fn 1; comedy: tp 1, fp 1, fn 0
    # AP drama: hits at rank 1 and 3 -> (1/1 + 2/3) / 2; comedy: first -> 1
    # all six scores ranked: .9 hit, .8, .7 hit, .6, .3 hit, .2
    assert compute_metrics(probabilities, labels, ("drama", "comedy")) == pytest.approx(
        {
            "f1_micro": 4 / 7,
            "f1_macro": (1 / 2 + 2 / 3) / 2,
            "f1_weighted": (2 * 1 / 2 + 1 * 2 / 3) / 3,
            "f1_samples": (1 + 2 / 3 + 0) / 3,
            "map_macro": (5 / 6 + 1) / 2,
            "map_micro": (1 + 2 / 3 + 3 / 5) / 3,
        },
        **EXACT,
    )


def test_no_positive_at_all_is_zero_everywhere():
    probabilities, labels = np.full((3, 4), 0.7), np.zeros((3, 4))
    assert set(compute_metrics(probabilities, labels, GENRES).values()) == {0.0}
    rows = per_genre_metrics(probabilities, labels, GENRES)
    assert {row["average_precision"] for row in rows} == {None}


def test_one_genre_is_a_label_not_a_binary_problem():
    metrics = compute_metrics([[0.9], [0.1], [0.2]], [[1], [1], [0]], ["drama"])
    assert metrics["f1_micro"] == pytest.approx(2 / 3, **EXACT)
    assert metrics["f1_samples"] == pytest.approx(1 / 3, **EXACT)


def test_a_probability_at_its_threshold_is_not_predicted():
    metrics = compute_metrics([[0.5, 0.25]], [[1, 1]], ("drama", "comedy"), [0.5, 0.24])
    assert metrics["f1_micro"] == pytest.approx(2 / 3, **EXACT)


@pytest.mark.parametrize(
    ("probabilities", "labels", "thresholds", "message"),
    [
        ([[0.5, np.nan]], [[0, 1]], 0.5, "probabilities hold nan for movie 0, genre 'comedy'"),
        ([[0.5, 3.2]], [[0, 1]], 0.5, "probabilities hold 3.2 for movie 0, genre 'comedy'"),
        ([[0.5, 0.5]], [[0, 2]], 0.5, "labels hold 2 for movie 0, genre 'comedy'; 0 or 1"),
        ([0.5, 0.5], [0, 1], 0.5, r"probabilities have shape \(2,\)"),
        (np.zeros((0, 2)), np.zeros((0, 2)), 0.5, r"probabilities have shape \(0, 2\)"),
        ([[0.5]], [[1]], 0.5, r"probabilities have shape \(1, 1\).*each of the 2 genres"),
        ([[0.5, 0.5]], [[0, 1], [0, 1]], 0.5, r"labels have shape \(2, 2\).*\(1, 2\)"),
        ([[0.5, 0.5]], [[0, 1]], [0.5] * 3, "thresholds are .*one for each of the 2 genres"),
        ([[0.5, 0.5]], [[0, 1]], [0.5, np.nan], "thresholds are .*one for each of the 2 genres"),
    ],
)
def test_wrong_input_is_named(probabilities, labels, thresholds, message):
    for function in (compute_metrics, per_genre_metrics):
        with pytest.raises(ValueError, match=message):
            function(probabilities, labels, ("drama", "comedy"), thresholds)


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No network, and an empty working directory and home to find written files in."""

    def refuse(*args, **kwargs):
        raise AssertionError("a metric must not open a connection")

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(socket.socket, "connect", refuse)
    import evaluate

    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_evaluate_metric_equals_the_function_and_leaves_no_file(offline):
    from mmgenre.evaluation.hf_metric import GenreMetrics

    probabilities, labels = random_case()
    # values that float32 would not keep
    probabilities = np.clip(
        probabilities + np.random.default_rng(1).random(labels.shape) / 99, 0, 1
    )
    thresholds = [0.3, 0.5, 0.2, 0.7]
    metric = GenreMetrics(GENRES)
    for start in range(0, len(labels), 64):
        batch = slice(start, start + 64)
        metric.add_batch(predictions=probabilities[batch], references=labels[batch])
    expected = compute_metrics(probabilities, labels, GENRES, thresholds)
    assert metric.compute(thresholds=thresholds) == expected

    again = metric.compute(predictions=probabilities, references=labels.astype(np.float32))
    assert again == compute_metrics(probabilities, labels, GENRES)
    assert list(offline.iterdir()) == []


def test_evaluate_metric_is_fast_on_a_test_split(offline):
    from mmgenre.evaluation.hf_metric import GenreMetrics

    rng = np.random.default_rng(0)
    probabilities = rng.random((7800, 26))
    labels = rng.random((7800, 26)) < probabilities
    metric = GenreMetrics([f"genre {index}" for index in range(26)])
    # processor time, so that other programs of the machine do not count; about 0.2 s
    start = time.process_time()
    metric.compute(predictions=probabilities, references=labels)
    assert time.process_time() - start < 2
