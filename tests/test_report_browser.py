"""The report's page in a real browser: `python -m pytest -m browser`."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from browser import DESKTOP, PHONE, Visit
from posters import encoded, noise

from mmgenre.data.records import FilePoster, MovieRecord
from mmgenre.evaluation.analysis import analyse
from mmgenre.evaluation.mistakes import find_mistakes
from mmgenre.evaluation.plots import TrainingCurves
from mmgenre.evaluation.predictions import Predictions
from mmgenre.evaluation.report import write_report
from mmgenre.models.pictures import open_poster

pytestmark = pytest.mark.browser

GENRES = (
    "drama comedy romance thriller crime action adventure horror documentary mystery sci-fi "
    "fantasy family biography war history music animation musical western sport short film-noir "
    "adult talk-show"
).split()
HOSTILE = "</style><script>console.error(1)</script>$x_$<img src=http://127.0.0.1:9/x.png>"


@pytest.fixture(scope="module")
def reports(
    tmp_path_factory: pytest.TempPathFactory, trained_run: Path, run_script
) -> dict[str, Path]:
    """One by `evaluate.py`, and one with what a data set can hold at worst."""
    folder = tmp_path_factory.mktemp("reports")
    result = run_script(
        "evaluate.py", trained_run, "--ablations", "--report_dir", folder / "evaluate"
    )
    assert result.returncode == 0, result.stderr
    write_hostile(folder / "hostile")
    return {name: folder / name / "report.html" for name in ("evaluate", "hostile")}


def write_hostile(folder: Path) -> None:
    """26 genres, one of them in no movie, a word as long as a plot, and HTML everywhere."""
    rng = np.random.default_rng(0)
    genres = [*GENRES, HOSTILE]
    labels = rng.random((3000, 26)) < np.geomspace(0.5, 0.002, 26)
    labels[:, -2] = False
    logits = rng.normal(size=labels.shape) + 2.5 * labels - 1.5
    predictions = Predictions(
        ids=[f"tt{index:07d}" for index in range(3000)],
        genres=genres,
        probabilities=1 / (1 + np.exp(-logits)),
        labels=labels.astype(np.int8),
        split="validation",
        thresholds=np.linspace(0.3, 0.7, 26).tolist(),
        attributes={"plot_words": [9] * 3000, "year": [None] * 3000},
    )
    folder.mkdir()
    (folder / "poster.jpg").write_bytes(encoded(noise(300, 450), "JPEG"))
    poster = FilePoster(folder / "poster.jpg")
    movies = [
        MovieRecord("id", HOSTILE + "long" * 99, (), poster if row % 2 else None, HOSTILE * 2, 1994)
        for row in range(3000)
    ]
    epochs = [
        {
            "epoch": epoch,
            "train/loss": 0.1 + 1 / epoch,
            "validation/loss": 0.2 + 1 / epoch,
            "learning_rate/image_encoder": 1e-5 / epoch,
            "learning_rate/text_encoder": 2e-5 / epoch,
            "learning_rate/the_rest_of_the_model": 1e-4 / epoch,
            "learning_rate/graph": 1e-4 / epoch,
            "validation/f1_macro": 1 - 1 / epoch,
            "validation/f1_micro": 1 - 0.9 / epoch,
            "validation/map_macro": 1 - 0.8 / epoch,
        }
        for epoch in range(1, 41)
    ]
    write_report(
        folder,
        predictions,
        analyse(predictions),
        {"split": "validation", "model": "runs/" + "name" * 40, HOSTILE: HOSTILE},
        find_mistakes(predictions, movies, open_poster),
        TrainingCurves(epochs, "validation/f1_macro", stopped_early=True),
    )


@pytest.mark.parametrize("color_scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [PHONE, DESKTOP])
@pytest.mark.parametrize("name", ["evaluate", "hostile"])
def test_the_page(
    reports: dict[str, Path],
    visit: Callable[[str, int, str], Visit],
    name: str,
    width: int,
    color_scheme: str,
) -> None:
    url = reports[name].as_uri()
    seen = visit(url, width, color_scheme)
    assert seen.missing_pictures == []
    assert seen.overflow == 0
    assert seen.hard_to_read() == []
    assert seen.overlapping_labels == []
    assert seen.labels_cut_off == []
    for summary in seen.page.query_selector_all("summary"):
        summary.click()
    assert seen.overflow == 0
    assert seen.hard_to_read() == []
    assert seen.problems == []
    assert seen.requests == [url]
    paper = seen.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert paper == {"light": "rgb(255, 255, 255)", "dark": "rgb(21, 24, 28)"}[color_scheme]
