"""The report's files against the numbers they were written from."""

import json
import resource

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from mmgenre.evaluation.analysis import analyse
from mmgenre.evaluation.metrics import compute_metrics
from mmgenre.evaluation.predictions import Predictions, read_predictions
from mmgenre.evaluation.report import write_report
from mmgenre.utils.errors import UserError

GENRES = ("drama", "film-noir", "news")
FILES = {
    "metrics.json",
    "predictions.parquet",
    "report.md",
    "report.html",
    "per_genre.png",
    "calibration.png",
    "precision_recall.png",
}
CONTEXT = {"split": "test", "checkpoint": "runs/a|b", "learning_rate": 5e-5, "num_movies": 40}


def report_arguments(dtype=np.float32, split="test", thresholds=None):
    rng = np.random.default_rng(0)
    predictions = Predictions(
        ids=[f"tt{index:07d}" for index in range(40)],
        genres=list(GENRES),
        probabilities=rng.random((40, 3)).astype(dtype),
        labels=(rng.random((40, 3)) < [0.3, 0.6, 0.0]).astype(np.int8),
        split=split,
        thresholds=thresholds,
        attributes={"plot_words": [3 * i for i in range(40)], "year": [None, 1999] * 20},
    )
    return {"predictions": predictions, "figures": analyse(predictions), "context": CONTEXT}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("split", ["validation", "test"])
@pytest.mark.parametrize("thresholds", [None, [0.3, 0.61, 0.5]])
def test_every_figure_can_be_computed_again_from_the_predictions(
    tmp_path, dtype, split, thresholds
):
    arguments = report_arguments(dtype, split, thresholds)
    write_report(tmp_path, **arguments)
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert written.pop("context") == CONTEXT
    again = analyse(read_predictions(tmp_path / "predictions.parquet"))
    assert json.loads(json.dumps(again)) == written

    # and without this package's own reader
    table = pd.read_parquet(tmp_path / "predictions.parquet")
    assert table["id"].tolist() == arguments["predictions"].ids
    probabilities = table[[f"probability/{genre}" for genre in GENRES]].to_numpy()
    labels = table[[f"label/{genre}" for genre in GENRES]].to_numpy()
    for cuts, key in ((0.5, "overall_at_0.5"), (thresholds or 0.5, "overall")):
        assert compute_metrics(probabilities, labels, GENRES, cuts) == written[key]
    assert ("cross_validated_thresholds" in written) == (split == "validation")
    assert ("temperature" in written["calibration"]) == (split == "validation")


def spoil(column, value):
    def edit(table):
        values = table[column].to_pylist()
        values[3] = value
        return table.set_column(table.column_names.index(column), column, [values])

    return edit


BAD_FILES = {
    "nan": (spoil("probability/drama", float("nan")), "nan for movie 3, genre 'drama'"),
    "label": (spoil("label/news", 3), "labels hold 3 for movie 3, genre 'news'"),
    "column": (lambda table: table.drop_columns("label/news"), "label/news"),
    "other table": (lambda table: table.replace_schema_metadata({}), "mmgenre"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_file_that_holds_no_predictions(tmp_path, case):
    edit, words = BAD_FILES[case]
    write_report(tmp_path, **report_arguments())
    path = tmp_path / "predictions.parquet"
    pq.write_table(edit(pq.read_table(path)), path)
    with pytest.raises(UserError) as caught:
        read_predictions(path)
    assert f"{path} cannot be read as predictions" in str(caught.value)
    assert words in str(caught.value)


def test_markdown_lists_genres_by_support_and_escapes_cells(tmp_path):
    arguments = report_arguments()
    write_report(tmp_path, **arguments)
    text = (tmp_path / "report.md").read_text()
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    figures = arguments["figures"]
    macro = [figures["overall"]["f1_macro"], *figures["intervals"]["f1_macro"]]
    macro.append(figures["overall_at_0.5"]["f1_macro"])
    assert ["f1_macro", *(f"{number:.4f}" for number in macro)] in rows
    assert ["learning_rate", "5e-05"] in rows
    assert ["checkpoint", r"runs/a\|b"] in rows
    start = next(i for i, row in enumerate(rows) if row[:2] == ["genre", "precision"])
    per_genre = rows[start + 2 : start + 5]
    assert [row[0] for row in per_genre] == ["film-noir", "drama", "news"]
    drama = dict(zip(rows[start], per_genre[1], strict=True))
    for key, value in figures["per_genre"][0].items():
        assert drama[key] == (f"{value:.4f}" if isinstance(value, float) else str(value))
    assert dict(zip(rows[start], per_genre[2], strict=True))["average_precision"] == "-"


def test_a_second_report_replaces_the_first_and_leaves_nothing_else(tmp_path):
    arguments = report_arguments()
    write_report(tmp_path, **arguments)
    write_report(tmp_path, **arguments | {"context": {"split": "validation"}})
    assert json.loads((tmp_path / "metrics.json").read_text())["context"] == {"split": "validation"}
    names = {path.name for path in tmp_path.iterdir()}
    assert names == FILES | {".lock"}


def test_a_failed_write_keeps_the_old_file_whole(tmp_path):
    arguments = report_arguments()
    write_report(tmp_path, **arguments)
    before = (tmp_path / "metrics.json").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) // 2, hard))  # as on a full disk
    try:
        with pytest.raises(UserError, match=r"metrics\.json cannot be written \(File too large"):
            write_report(tmp_path, **arguments | {"context": {}})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (tmp_path / "metrics.json").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == FILES | {".lock"}


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(UserError) as caught:
        write_report(blocker / "test", **report_arguments())
    assert f"{blocker / 'test'} cannot be written" in str(caught.value)
    assert "Not a directory" in str(caught.value)
