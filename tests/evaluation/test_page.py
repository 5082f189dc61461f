"""The report's page, its plots and the movies on it: numbers, hostile text, what is not there."""

import base64
import html
import io
import json
import re
import sys
import threading
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from posters import encoded, noise

from mmgenre.data.records import FilePoster, MovieRecord
from mmgenre.evaluation import report
from mmgenre.evaluation.analysis import analyse
from mmgenre.evaluation.mistakes import NUM_MISTAKES, find_mistakes
from mmgenre.evaluation.plots import PLOTS, TrainingCurves, draw_plots
from mmgenre.evaluation.predictions import Predictions
from mmgenre.evaluation.report import write_report
from mmgenre.models.pictures import open_poster

NUM_MOVIES = 60
HOSTILE = {
    "script": "<script>alert(1)</script>",
    "style": "</style><img src=x onerror=alert(2)>",
    "svg": "]]></text></svg><iframe src=http://e.org>",
    "attribute": "\" onload='alert(3)' x=\"",
    "template": "{{ 7 * 7 }}{% raw %}",
    "mathtext": r"$\frac{1$ & $$",
    "control": "a\x00b\x1b[31m\u202ec",
    "Chinese": "日本映画",
    "long": "genre" * 30,
}
CURVES = TrainingCurves(
    [
        {
            "epoch": epoch,
            "train/loss": 1 / epoch,
            "validation/loss": 1.2 / epoch,
            "learning_rate/all": 10.0**-epoch,
            "validation/f1_macro": f1,
            "validation/f1_micro": f1,
            "validation/map_macro": f1,
        }
        for epoch, f1 in enumerate((0.2, 0.4, 0.4, 0.3), start=1)
    ],
    "validation/f1_macro",
    stopped_early=True,
)


def predict(genres: list[str], seed: int = 0) -> Predictions:
    """The last genre is no movie's."""
    rng = np.random.default_rng(seed)
    shape = (NUM_MOVIES, len(genres))
    labels = (rng.random(shape) < 0.4).astype(np.int8)
    labels[:, -1] = 0
    return Predictions(
        ids=[f"tt{index:04d}" for index in range(NUM_MOVIES)],
        genres=genres,
        probabilities=0.7 * rng.random(shape) + 0.3 * labels,
        labels=labels,
        split="validation",
        thresholds=[0.4] * len(genres),
        attributes={"plot_words": [5] * NUM_MOVIES, "year": [None] * NUM_MOVIES},
    )


def movies(folder: Path, **changes) -> list[MovieRecord]:
    (folder / "poster.jpg").write_bytes(encoded(noise(600, 900), "JPEG"))
    poster = FilePoster(folder / "poster.jpg")
    record = MovieRecord("id", "A plot.", (), poster, "Title", 1994)
    return [replace(record, **changes) for _ in range(NUM_MOVIES)]


def write(folder: Path, predictions: Predictions, records: list[MovieRecord], **others) -> str:
    mistakes = find_mistakes(predictions, records, open_poster)
    arguments = {"context": {"split": "validation"}, "mistakes": mistakes, "curves": CURVES}
    write_report(folder, predictions, analyse(predictions), **{**arguments, **others})
    return (folder / "report.html").read_text(encoding="utf-8")


class Page(HTMLParser):
    """Elements with their attributes, and all text but the style sheet's, as a browser has them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.styles: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data) -> None:
        (self.styles if self.cdata_elem == "style" else self.texts).append(data)

    def attributes(self, *names: str) -> list[str]:
        found = (attributes.get(name) for _, attributes in self.elements for name in names)
        return [value for value in found if value is not None]


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Page:
    folder = tmp_path_factory.mktemp("plain")
    return Page(write(folder, predict(["drama", "comedy", "last"]), movies(folder)))


@pytest.mark.parametrize("kind", HOSTILE)
def test_text_of_others_is_text(tmp_path: Path, plain: Page, kind: str) -> None:
    text = HOSTILE[kind]
    records = movies(tmp_path, title=f"title {text}", plot=f"plot {text}")
    page = Page(write(tmp_path / "report", predict(["drama", text, "last"]), records))
    tags = {tag for tag, _ in page.elements}
    assert tags == {tag for tag, _ in plain.elements}
    assert not tags & {"script", "iframe", "object", "embed", "form", "base"}
    assert len(page.styles) == len(plain.styles) == 1
    for _, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")]
    shown = " ".join(text.split()) if kind != "control" else "a\ufffdb"
    assert any(f"title {shown}"[:20] in part.replace("\x00", "\ufffd") for part in page.texts)
    assert any(part.replace("\x00", "\ufffd").startswith(shown) for part in page.texts)


def test_one_file_without_any_other(tmp_path: Path) -> None:
    text = write(tmp_path, predict(["drama", "comedy", "last"]), movies(tmp_path))
    page = Page(text)
    addresses = page.attributes("src", "href", "srcset", "data", "action", "xlink:href")
    assert len(addresses) > 2 * NUM_MISTAKES
    assert [a for a in addresses if not a.startswith(("data:", "#"))] == []
    assert re.findall(r"url\((?!#)|@import", text) == []
    ids = page.attributes("id")
    assert {a for a in addresses if a.startswith("#")} <= {f"#{name}" for name in ids}
    for tag, attributes in page.elements:
        if tag == "img":
            assert attributes["alt"]
        if tag == "svg":
            assert attributes["role"] == "img"
            assert attributes["aria-label"]


def test_the_numbers_of_the_page(tmp_path: Path) -> None:
    predictions = predict(["drama", "comedy", "last"])
    page = Page(write(tmp_path, predictions, movies(tmp_path)))
    figures = json.loads((tmp_path / "metrics.json").read_text())
    texts = [text.strip() for text in page.texts]
    assert f"{figures['overall']['f1_macro']:.3f}" in texts
    for row in figures["per_genre"]:
        for value in row.values():
            if value is not None:
                assert (f"{value:.4f}" if isinstance(value, float) else str(value)) in texts
    (drawn,) = (a for a in page.attributes("aria-label") if "recall of drama" in a)
    row = figures["per_genre"][0]
    assert f"precision {row['precision']:.3f} and recall {row['recall']:.3f}." in drawn
    assert "last: no movie has it." in page.attributes("aria-label")
    (told,) = (a for a in page.attributes("aria-label") if "Learning" in a)
    # of equal epochs the first, as in training
    assert "over 4 epochs" in told
    assert "best epoch is 2 with macro F1 0.400; training stopped early." in told


def test_pictures_of_the_plots(tmp_path: Path) -> None:
    write(tmp_path, predict(["drama", "comedy", "last"]), movies(tmp_path))
    for name in PLOTS:
        with Image.open(tmp_path / f"{name}.png") as picture:
            pixels = np.asarray(picture.convert("L"))
        assert pixels.shape[1] >= 600
        assert len(np.unique(pixels)) > 20


def test_the_same_report_has_the_same_bytes(tmp_path: Path) -> None:
    predictions = predict(["drama", "comedy", "last"])
    first, second = (write(tmp_path / name, predictions, movies(tmp_path)) for name in "ab")
    assert first == second


# --- the most confident errors


def test_mistakes_are_the_worst_of_each_movie(tmp_path: Path) -> None:
    predictions = predict(["drama", "comedy", "last"])
    found = find_mistakes(predictions, movies(tmp_path), open_poster)
    expected: dict[str, list] = {"predicted": [], "missed": []}
    for movie, (scores, truth) in enumerate(
        zip(predictions.probabilities, predictions.labels, strict=True)
    ):
        for kind, is_true, sign in (("predicted", 0, 1), ("missed", 1, -1)):
            wrong = [
                (sign * score, predictions.genres[genre])
                for genre, score in enumerate(scores)
                if truth[genre] == is_true and (score > 0.4) != bool(is_true)
            ]
            if wrong:
                score, genre = max(wrong)
                expected[kind].append((sign * score, genre, f"tt{movie:04d}"))
    for kind, sign in (("predicted", 1), ("missed", -1)):
        worst = sorted(expected[kind], key=lambda item: -sign * item[0])[:NUM_MISTAKES]
        assert [(m.probability, m.genre, m.id) for m in found[kind]] == worst
    first = found["predicted"][0]
    row = int(first.id[2:])
    assert first.true == [
        genre
        for genre, label in zip(predictions.genres, predictions.labels[row], strict=True)
        if label
    ]
    assert first.genre in first.predicted


def test_what_is_shown_of_a_movie(tmp_path: Path) -> None:
    predictions = predict(["drama", "comedy", "last"])
    records = movies(tmp_path, plot="many\n words " * 100)
    mistake = find_mistakes(predictions, records, open_poster)["missed"][0]
    assert mistake.plot is not None
    assert len(mistake.plot) <= 280
    assert mistake.plot.startswith("many words many")
    assert mistake.plot.endswith("…")
    assert mistake.poster is not None
    picture = Image.open(io.BytesIO(base64.b64decode(mistake.poster.partition(",")[2])))
    assert picture.size == (192, 288)

    (tmp_path / "text.jpg").write_text("no picture")
    for name in ("text.jpg", "nowhere.jpg"):
        records = movies(tmp_path, poster=FilePoster(tmp_path / name), plot=None, title=None)
        mistake = find_mistakes(predictions, records, open_poster)["missed"][0]
        assert (mistake.poster, mistake.plot, mistake.title) == (None, None, mistake.id)
    page = write(tmp_path / "report", predictions, records)
    assert page.count("no poster") == page.count("no plot") == 2 * NUM_MISTAKES


def test_a_model_without_mistakes(tmp_path: Path) -> None:
    predictions = predict(["drama", "last"])
    right = replace(predictions, probabilities=predictions.labels.astype(np.float64))
    page = write(tmp_path, right, movies(tmp_path))
    assert page.count("There is no such error.") == 2


# --- what is not there


@pytest.mark.parametrize(
    ("curves", "sentence"),
    [
        (None, "The model was evaluated without its run, so that there are no learning curves."),
        (
            TrainingCurves([], "validation/f1_macro", False),
            "The run has not finished an epoch, so that there are no learning curves.",
        ),
    ],
)
def test_no_learning_curves(tmp_path: Path, curves, sentence: str) -> None:
    predictions = predict(["drama", "last"])
    write(tmp_path, predictions, movies(tmp_path))
    assert (tmp_path / "learning_curves.png").exists()
    assert sentence in write(tmp_path, predictions, movies(tmp_path), curves=curves)
    assert not (tmp_path / "learning_curves.png").exists()  # it would be of another report
    assert (tmp_path / "calibration.png").exists()


def test_curves_of_one_epoch_with_a_rate_of_zero_and_a_loss_that_is_none() -> None:
    predictions = predict(["drama", "last"])
    (epoch, *_) = CURVES.epochs
    odd = {**epoch, "learning_rate/all": 0.0, "validation/loss": float("nan")}
    plots = draw_plots(predictions, analyse(predictions), replace(CURVES, epochs=[odd]))
    assert len(plots["learning_curves"].svgs) == 1


def test_without_matplotlib_the_rest_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predictions = predict(["drama", "comedy", "last"])
    write(tmp_path, predictions, movies(tmp_path))
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    page = Page(write(tmp_path, predictions, movies(tmp_path)))
    sentence = (
        "Plots are left out, because matplotlib is not installed; pip install 'mmgenre[plots]' "
        "brings it."
    )
    assert sentence in (tmp_path / "report.md").read_text().splitlines()
    assert sentence in [html.unescape(text) for text in page.texts]
    assert not list(tmp_path.glob("*.png"))
    tags = [tag for tag, _ in page.elements]
    assert "svg" not in tags
    assert tags.count("img") == 2 * NUM_MISTAKES


def test_two_writers_of_a_folder_wait_for_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each write is noted with its thread: the files of a report come together."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)  # which cannot be used by two threads
    original, writers = report.replace_file, []

    def note(path: Path, content: bytes) -> None:
        writers.append(threading.get_ident())
        original(path, content)

    monkeypatch.setattr(report, "replace_file", note)
    predictions = predict(["drama", "last"])
    figures = analyse(predictions)

    def write_often(name: str) -> None:
        for _ in range(10):
            write_report(tmp_path, replace(predictions, split=name), figures, {"split": name})

    threads = [threading.Thread(target=write_often, args=[name]) for name in ("train", "test")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    num_files = 4
    assert len(writers) == 2 * 10 * num_files
    for start in range(0, len(writers), num_files):
        assert len(set(writers[start : start + num_files])) == 1
    assert len(set(writers)) == 2
