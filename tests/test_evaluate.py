"""`evaluate.py` beyond its figures: fitted thresholds, ablations, other label sets, no leak."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from mmgenre.checkpoints import find_checkpoint, store_thresholds
from mmgenre.configs.arguments import DataArguments
from mmgenre.data.movies import load_movies
from mmgenre.evaluation.metrics import compute_metrics
from mmgenre.evaluation.predictions import read_predictions
from mmgenre.evaluation.thresholds import fit_thresholds
from mmgenre.models.registry import load_model, load_processor
from mmgenre.utils.errors import UserError


def read_figures(report: Path) -> dict:
    return json.loads((report / "metrics.json").read_text())


def model_folder(run: Path) -> Path:
    return run / "checkpoints" / "best" / "pretrained_model"


def change_metadata(folder: Path, edit: Callable[[dict], dict]) -> None:
    path = folder / "metadata.jsonl"
    rows = [edit(json.loads(line)) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize("method", ["global", "per_genre"])
def test_fitted_thresholds_are_stored_and_used(run_copy: Path, run_main, method: str) -> None:
    run_main("evaluate", run_copy, "--fit_thresholds", method)
    report = run_copy / "reports" / "validation"
    predictions = read_predictions(report / "predictions.parquet")
    data = (predictions.probabilities, predictions.labels, predictions.genres)
    expected = fit_thresholds(*data, method)
    assert expected is not None
    assert expected != [0.5] * len(expected)
    assert predictions.thresholds == expected
    assert load_model(str(model_folder(run_copy))).config.thresholds == expected

    # the checkpoint is whole, and every later evaluation decides by them, with 0.5 beside
    find_checkpoint(run_copy / "checkpoints", "best")
    run_main("evaluate", run_copy, "--split", "test")
    figures = read_figures(run_copy / "reports" / "test")
    test = read_predictions(run_copy / "reports" / "test" / "predictions.parquet")
    data = (test.probabilities, test.labels, test.genres)
    for key, cuts in (("overall", expected), ("overall_at_0.5", 0.5)):
        computed = compute_metrics(*data, cuts)
        assert {name: figures[key][name] for name in computed} == computed
    assert [row["threshold"] for row in figures["per_genre"]] == expected
    kind = {"global": "global, ", "per_genre": "per genre, "}[method]
    assert figures["context"]["threshold"].startswith(kind)

    run_main("evaluate", run_copy, "--fit_thresholds", "0.5")
    assert load_model(str(model_folder(run_copy))).config.thresholds is None
    find_checkpoint(run_copy / "checkpoints", "best")


def test_a_run_with_fitted_thresholds_resumes(run_copy: Path, run_main) -> None:
    run_main("evaluate", run_copy, "--checkpoint", "last", "--fit_thresholds", "global")
    arguments = ["--resume_from_checkpoint", "last", "--num_train_epochs", "3"]
    run_main("train", "--output_dir", run_copy, *arguments)
    config = (run_copy / "checkpoints" / "last" / "pretrained_model" / "config.json").read_text()
    assert json.loads(config).get("thresholds") is None  # they were those of other weights


def test_a_checkpoint_is_whole_at_every_moment_of_storing(
    run_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ended before each of the renames in turn, it can still be opened."""
    original = Path.replace
    renames = 0

    def count(path: Path, target: Path) -> Path:
        nonlocal renames
        find_checkpoint(run_copy / "checkpoints", "best")
        renames += 1
        return original(path, target)

    monkeypatch.setattr(Path, "replace", count)
    before = json.loads((model_folder(run_copy) / "config.json").read_text())
    store_thresholds(model_folder(run_copy).resolve(), [0.3] * len(before["id2label"]))
    find_checkpoint(run_copy / "checkpoints", "best")
    assert renames == 3


def test_thresholds_for_a_checkpoint_whose_manifest_is_broken(run_copy: Path) -> None:
    model = model_folder(run_copy).resolve()
    (model.parent / "manifest.json").write_text("{")
    before = (model / "config.json").read_bytes()
    with pytest.raises(UserError, match="thresholds cannot be stored in .*they need a whole model"):
        store_thresholds(model, None)
    assert (model / "config.json").read_bytes() == before


BAD_FITS = {
    "test": (["--split", "test"], ["fit_thresholds", "split 'test'", "validation movies only"]),
    "train": (["--split", "train"], ["fit_thresholds", "split 'train'"]),
    "method": (["--fit_thresholds", "median"], ["median", "global", "per_genre"]),
}


@pytest.mark.parametrize("case", BAD_FITS)
def test_mistakes_in_fitting(case: str, trained_run: Path, run_main, tmp_path: Path) -> None:
    flags, words = BAD_FITS[case]
    before = (model_folder(trained_run) / "config.json").read_bytes()
    arguments = ["--report_dir", tmp_path / "report", "--fit_thresholds", "global", *flags]
    with pytest.raises(UserError) as caught:
        run_main("evaluate", trained_run, *arguments)
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert not (tmp_path / "report").exists()
    assert (model_folder(trained_run) / "config.json").read_bytes() == before


def test_thresholds_cannot_be_stored_in_a_hub_model(run_main, demo_dir: Path) -> None:
    arguments = ["--dataset", demo_dir, "--fit_thresholds", "global"]
    with pytest.raises(
        UserError, match="stores thresholds in the model's folder, and 'some/model'"
    ):
        run_main("evaluate", "some/model", *arguments)


@pytest.mark.parametrize(
    ("given", "what"),
    [("a model", "is a model without a run"), ("a mistyped run", "does not exist here")],
)
def test_a_model_by_itself_needs_a_data_set(
    trained_run: Path, run_main, given: str, what: str
) -> None:
    path = model_folder(trained_run) if given == "a model" else trained_run.with_name("traind")
    with pytest.raises(UserError) as caught:
        run_main("evaluate", path)
    assert str(caught.value) == f"{str(path)!r} {what}; a model by itself needs --dataset as well"


def test_ablations_are_evaluations_of_changed_movies(
    run_copy: Path, run_main, demo_dir: Path
) -> None:
    run_main("evaluate", run_copy, "--ablations")
    figures = read_figures(run_copy / "reports" / "validation")
    rows = {(r["field"], r["change"], r["share"]): r for r in figures["ablations"]}
    shares = [("missing", share) for share in (0.25, 0.5, 0.75, 1.0)] + [("shuffled", 1.0)]
    assert list(rows) == [(field, *rest) for field in ("poster", "plot") for rest in shares]

    model = load_model(str(model_folder(run_copy))).eval()
    processor = load_processor(str(model_folder(run_copy)))
    movies = load_movies(DataArguments(dataset=str(demo_dir)), 42)
    records = [replace(record, poster=None) for record in movies.split("validation")]
    labels = [movies.vocabulary.encode(record.genres) for record in records]
    inputs = processor(images=[None] * len(records), text=[record.plot for record in records])
    with torch.no_grad():
        probabilities = model(**inputs).logits.double().sigmoid().numpy()
    expected = compute_metrics(probabilities, labels, model.config.genres)
    without_posters = rows["poster", "missing", 1.0]
    assert {k: without_posters[k] for k in expected} == pytest.approx(expected, abs=1e-6)
    assert without_posters["map_micro"] != figures["overall"]["map_micro"]


def test_a_data_set_with_other_genres(
    trained_run: Path, demo_dir: Path, run_main, tmp_path: Path
) -> None:
    """No movie of it has drama or western; some have a genre that the model does not know."""
    data = shutil.copytree(demo_dir, tmp_path / "data")
    other_names = {"drama": "Musical", "western": "Action"}

    def rename(row: dict) -> dict:
        genres = [other_names.get(genre.casefold(), genre) for genre in row["genres"]]
        return {**row, "genres": genres}

    change_metadata(data, rename)
    arguments = [trained_run, "--dataset", data, "--report_dir", tmp_path / "report"]
    run_main("evaluate", *arguments, "--unknown_genres", "drop")
    figures = read_figures(tmp_path / "report")
    assert figures["context"]["dropped, unknown to the model"] == "musical"
    assert figures["context"]["dropped, not in the data set"] == "drama, western"
    known = load_model(str(model_folder(trained_run))).config.genres
    kept = [genre for genre in known if genre not in ("drama", "western")]
    assert [row["genre"] for row in figures["per_genre"]] == kept
    predictions = read_predictions(tmp_path / "report" / "predictions.parquet")
    assert predictions.genres == kept
    data = (predictions.probabilities, predictions.labels, kept)
    assert figures["overall"]["f1_macro"] == compute_metrics(*data)["f1_macro"]
    assert (
        "| dropped, unknown to the model | musical |"
        in (tmp_path / "report" / "report.md").read_text()
    )


def test_a_data_set_without_any_known_genre(
    trained_run: Path, demo_dir: Path, run_main, tmp_path: Path
) -> None:
    data = shutil.copytree(demo_dir, tmp_path / "data")
    change_metadata(data, lambda row: {**row, "genres": ["Musical"]})
    arguments = [trained_run, "--dataset", data, "--unknown_genres", "drop"]
    with pytest.raises(UserError, match="have no genre in common; the model's are action"):
        run_main("evaluate", *arguments, "--report_dir", tmp_path / "report")


def test_test_labels_cannot_leak_into_a_choice(
    trained_run: Path, demo_dir: Path, recipe: str, run_main, tmp_path: Path
) -> None:
    """With noise in place of every test label, the same thresholds, epochs, weights and stop."""
    noisy = shutil.copytree(demo_dir, tmp_path / "noisy")
    genres = load_model(str(model_folder(trained_run))).config.genres
    rng = np.random.default_rng(0)

    def add_noise(row: dict) -> dict:
        if row["split"] != "test":
            return row
        return {**row, "genres": rng.choice(genres, size=2, replace=False).tolist()}

    change_metadata(noisy, add_noise)
    # it stops early: an epoch has to gain more than F1 has room for
    flags = ["--num_train_epochs", "6", "--early_stopping_patience", "2"]
    flags += ["--early_stopping_min_delta", "0.9", "--save_total_limit", "6"]
    found = []
    for name, data in (("clean", demo_dir), ("noise", noisy)):
        run = tmp_path / name
        run_main("train", "--recipe", recipe, "--dataset", data, "--output_dir", run, *flags)
        run_main("evaluate", run, "--fit_thresholds", "per_genre")
        run_main("evaluate", run, "--split", "test")
        found.append(
            {
                "history": (run / "history.jsonl").read_text(),
                "best": (run / "checkpoints" / "best").readlink(),
                "last": (run / "checkpoints" / "last").readlink(),
                "thresholds": load_model(str(model_folder(run))).config.thresholds,
            }
        )
    assert found[0] == found[1]
    assert 1 < found[0]["history"].count("\n") < 6
    tables = [
        pq.read_table(tmp_path / name / "reports" / "test" / "predictions.parquet")
        for name in ("clean", "noise")
    ]
    labels = [table.select([f"label/{genre}" for genre in genres]) for table in tables]
    assert not labels[0].equals(labels[1])  # the noise was there to be seen
    scores = [table.select([f"probability/{genre}" for genre in genres]) for table in tables]
    assert scores[0].equals(scores[1])
    assert yaml.safe_load((tmp_path / "noise" / "config.yaml").read_text())["dataset"] == str(noisy)


# --- runs that are not as they should be


def test_a_run_that_never_finished_an_epoch(run_copy: Path, run_main) -> None:
    shutil.rmtree(run_copy / "checkpoints")
    with pytest.raises(UserError) as caught:
        run_main("evaluate", run_copy)
    assert str(caught.value) == (
        f"{str(run_copy)!r} never finished an epoch; there is no best checkpoint"
    )
    assert not (run_copy / "reports").exists()


def test_the_page_of_a_run(run_copy: Path, run_main) -> None:
    """Its best epoch and whether it stopped early, from the history; then without a history."""
    history = run_copy / "history.jsonl"
    lines = [json.loads(line) for line in history.read_text().splitlines()]
    scores = [line["validation/f1_macro"] for line in lines]
    best = scores.index(max(scores)) + 1
    page = run_copy / "reports" / "validation" / "report.html"
    run_main("evaluate", run_copy)
    assert f"the best epoch, {best}, by validation/f1_macro." in page.read_text()
    assert "data:image/jpeg;base64," in page.read_text()

    config = yaml.safe_load((run_copy / "config.yaml").read_text())
    config |= {"num_train_epochs": 9, "early_stopping_patience": 1, "early_stopping_min_delta": 0.9}
    (run_copy / "config.yaml").write_text(yaml.safe_dump(config))
    run_main("evaluate", run_copy)
    assert "Dotted: training stopped early." in page.read_text()

    history.write_text('{"epoch": 1, "step"')  # a process was killed as it wrote
    run_main("evaluate", run_copy)
    assert "The run has not finished an epoch" in page.read_text()


@pytest.mark.parametrize(
    "content", ["none\n", '{"epoch": 1}\n', "3\n", '{"validation/f1_macro": 0.5}\n']
)
def test_a_history_that_is_none(run_copy: Path, run_main, content: str) -> None:
    (run_copy / "history.jsonl").write_text(content)
    with pytest.raises(UserError, match=r"history\.jsonl cannot be read \(.*\); a run's history"):
        run_main("evaluate", run_copy)
