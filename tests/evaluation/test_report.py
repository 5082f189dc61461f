"""The report's files against the numbers they were written from."""

import json

import numpy as np
import pandas as pd
import pytest

from mmgenre.evaluation.metrics import compute_metrics, per_genre_metrics
from mmgenre.evaluation.report import write_report
from mmgenre.utils.errors import UserError

GENRES = ("drama", "film-noir", "news")
CONTEXT = {"split": "test", "checkpoint": "runs/a|b", "learning_rate": 5e-5, "num_movies": 40}


def report_arguments(dtype=np.float32):
    rng = np.random.default_rng(0)
    probabilities = rng.random((40, 3)).astype(dtype)
    labels = rng.random((40, 3)) < [0.3, 0.6, 0.0]
    return {
        "metrics": compute_metrics(probabilities, labels, GENRES),
        "per_genre": per_genre_metrics(probabilities, labels, GENRES),
        "ids": [f"tt{index:07d}" for index in range(40)],
        "probabilities": probabilities,
        "labels": labels,
        "genres": GENRES,
        "context": CONTEXT,
    }


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_predictions_give_the_written_metrics_again(tmp_path, dtype):
    arguments = report_arguments(dtype)
    folder = tmp_path / "reports" / "test"
    write_report(folder, **arguments)

    written = json.loads((folder / "metrics.json").read_text())
    assert written["context"] == CONTEXT

    table = pd.read_parquet(folder / "predictions.parquet")
    assert table["id"].tolist() == arguments["ids"]
    probabilities = table[[f"probability/{genre}" for genre in GENRES]].to_numpy()
    labels = table[[f"label/{genre}" for genre in GENRES]].to_numpy()
    assert compute_metrics(probabilities, labels, GENRES) == written["overall"]
    assert per_genre_metrics(probabilities, labels, GENRES) == written["per_genre"]


def test_markdown_lists_genres_by_support_and_escapes_cells(tmp_path):
    arguments = report_arguments()
    write_report(tmp_path, **arguments)
    text = (tmp_path / "report.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    assert ["f1_macro", f"{arguments['metrics']['f1_macro']:.4f}"] in rows
    assert ["learning_rate", "5e-05"] in rows
    assert ["checkpoint", r"runs/a\|b"] in rows
    per_genre = rows[-3:]
    assert [row[0] for row in per_genre] == ["film-noir", "drama", "news"]
    drama = arguments["per_genre"][0]
    numbers = [drama[key] for key in ("precision", "recall", "f1", "average_precision")]
    assert per_genre[1][1:] == [
        *(f"{number:.4f}" for number in numbers),
        str(drama["support"]),
        "0.5000",
    ]
    assert per_genre[2][4:6] == ["-", "0"]


def test_a_second_report_replaces_the_first_and_leaves_nothing_else(tmp_path):
    arguments = report_arguments()
    write_report(tmp_path, **arguments)
    write_report(tmp_path, **arguments | {"context": {"split": "validation"}})
    assert json.loads((tmp_path / "metrics.json").read_text())["context"] == {"split": "validation"}
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"metrics.json", "predictions.parquet", "report.md"}


def test_a_failed_write_keeps_the_old_file_whole(tmp_path, monkeypatch):
    arguments = report_arguments()
    write_report(tmp_path, **arguments)
    before = (tmp_path / "metrics.json").read_bytes()

    def half_then_full(path, content):
        with path.open("wb") as file:
            file.write(content[: len(content) // 2])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.write_bytes", half_then_full)
    with pytest.raises(UserError, match=r"metrics\.json cannot be written \(No space left"):
        write_report(tmp_path, **arguments | {"context": {}})
    assert (tmp_path / "metrics.json").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 3


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(UserError) as caught:
        write_report(blocker / "test", **report_arguments())
    assert str(blocker / "test" / "metrics.json") in str(caught.value)
    assert "Not a directory" in str(caught.value)
