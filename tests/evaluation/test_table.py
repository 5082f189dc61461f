"""Runs side by side: written by the code that writes real ones, read by `mmgenre table`."""

import csv
import io
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from sklearn.metrics import f1_score

from mmgenre import cli
from mmgenre.configs.parser import parse_train_arguments, save_config
from mmgenre.evaluation.analysis import analyse
from mmgenre.evaluation.literature import LITERATURE
from mmgenre.evaluation.predictions import Predictions
from mmgenre.evaluation.report import write_report
from mmgenre.evaluation.runs import check_comparable, group_runs, read_run
from mmgenre.evaluation.significance import holm, permutation_test
from mmgenre.evaluation.table import METRICS, compare
from mmgenre.utils.errors import UserError

GENRES = ["drama", "comedy", "western"]
LABELS = (np.random.default_rng(0).random((80, 3)) < [0.5, 0.3, 0.15]).astype(np.int8)


def write_run(
    folder: Path,
    *flags: str,
    noise: float = 0.5,
    seed: int = 1,
    thresholds: list[float] | None = None,
    **changes,
) -> Path:
    """A run and its report on test; the more noise, the worse."""
    folder.mkdir(parents=True)
    argv = [*flags, "--dataset", "movies", "--output_dir", str(folder), "--seed", str(seed)]
    save_config(parse_train_arguments(argv), folder / "config.yaml")
    scores = np.random.default_rng([seed, int(100 * noise)]).random(LABELS.shape)
    predictions = Predictions(
        ids=[f"tt{i:04d}" for i in range(80)],
        genres=GENRES,
        probabilities=noise * scores + (1 - noise) * (0.2 + 0.6 * LABELS),
        labels=LABELS,
        split="test",
        thresholds=thresholds,
        attributes={"plot_words": [5] * 80, "year": [None] * 80},
    )
    predictions = replace(predictions, **changes)
    context = {"selection": "best f1_macro on validation"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "matplotlib", None)  # whose plots take half a second a run
        write_report(folder / "reports" / "test", predictions, analyse(predictions), context)
    return folder


def test_first_stages_of_other_seeds_are_one_system_and_of_other_options_are_not(tmp_path) -> None:
    folders = []
    for name, seed, loss in (("one", 1, "bce"), ("two", 2, "bce"), ("focal", 2, "focal")):
        stage = write_run(tmp_path / f"stage_{name}", "--model_config", f"loss={loss}", seed=seed)
        flags = ("--model", "sign", "--text_backbone", str(stage))
        folders.append(write_run(tmp_path / name, *flags, seed=seed))
    systems = group_runs([read_run(folder, "test") for folder in folders])
    assert [(system.name, len(system.runs)) for system in systems] == [
        ("sign text_backbone.loss=bce", 2),
        ("sign text_backbone.loss=focal", 1),
    ]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Two systems of three and two seeds, and one of a recipe of the literature, thresholds
    fitted."""
    folder = tmp_path_factory.mktemp("runs")
    made = {f"good{s}": write_run(folder / f"good{s}", noise=0.6, seed=s) for s in (1, 2, 3)}
    for seed in (1, 2):
        flags = ("--model_config", "modalities=[text]")
        made[f"bad{seed}"] = write_run(folder / f"bad{seed}", *flags, noise=0.9, seed=seed)
    made["fitted"] = write_run(
        folder / "fitted", "--recipe", "report", noise=0.7, thresholds=[0.4, 0.45, 0.6]
    )
    return made


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """What `mmgenre table ARGUMENTS` prints."""

    def run(*arguments: str | Path) -> str:
        monkeypatch.setattr(sys, "argv", ["mmgenre", "table", *map(str, arguments)])
        cli.main()
        return capsys.readouterr().out

    return run


def macro_f1(folder: Path, cuts) -> float:
    p = read_run(folder, "test").predictions
    return f1_score(p.labels, p.probabilities > cuts, average="macro")


def test_systems_are_means_over_seeds_and_tested_against_the_baseline(runs, table) -> None:
    text = table(*runs.values(), "--baseline", runs["good1"], "--format", "json")
    rows = json.loads(text)
    measured = [row for row in rows if row["runs"]]
    assert [(row["system"], row["runs"], row["measured_threshold"]) for row in measured] == [
        ("mmgenre", 3, "0.5"),
        ("mmgenre modalities=['text']", 2, "0.5"),
        ("report", 1, "0.5"),
        ("report", 1, "per genre, fitted on validation"),
    ]
    good, bad = (
        [macro_f1(runs[name], 0.5) for name in runs if name.startswith(kind)]
        for kind in ("good", "bad")
    )
    for row, values in zip(measured[:2], (good, bad), strict=True):
        assert row["measured_f1_macro"] == pytest.approx(np.mean(values), abs=1e-12)
        assert row["measured_f1_macro_sd"] == pytest.approx(np.std(values, ddof=1), abs=1e-12)
        assert (row["measured_split"], row["measured_movies"]) == ("test", 80)
        assert row["measured_selection"] == "best f1_macro on validation"
    assert measured[2]["measured_f1_macro_sd"] is None
    own = macro_f1(runs["fitted"], [0.4, 0.45, 0.6])
    assert measured[3]["measured_f1_macro"] == pytest.approx(own, abs=1e-12)

    assert measured[0]["p"] is None  # the baseline itself
    difference = measured[1]["difference"]
    assert difference == pytest.approx(np.mean(bad) - np.mean(good), abs=1e-12)
    assert measured[1]["difference_low"] < difference < measured[1]["difference_high"] < 0
    assert measured[3]["p"] is None  # the baseline has no fitted thresholds to compare with
    p_values = [row["p"] for row in measured[1:3]]
    assert [row["p_holm"] for row in measured[1:3]] == holm(p_values)
    assert p_values[0] < 0.01

    # with one run a side, the test is the plain paired one
    one, other = (read_run(runs[name], "test") for name in ("bad1", "good1"))
    (row,) = [r for r in compare(group_runs([one, other]), one.folder, "f1_micro") if r["p"]]
    counts = [run.counts("0.5") for run in (other, one)]
    assert row["p"] == row["p_holm"] == permutation_test(*counts, "f1_micro")


def test_reported_and_measured_figures_never_mix(runs, table) -> None:
    rows = json.loads(table(runs["fitted"], runs["good1"], "--format", "json"))
    reported = [key for key in rows[0] if key.startswith("reported_")]
    measured = [key for key in rows[0] if key.startswith(("measured_", "difference", "p"))]
    # all of a row but its name and the number of runs is in one of the two
    assert {*reported, *measured, "system", "runs"} == set(rows[0])
    assert rows[0]["reported_f1_macro"] == 0.523
    assert rows[0]["reported_split"] == "MM-IMDb, held-out 15 % of training"
    assert rows[0]["measured_f1_macro"] == pytest.approx(macro_f1(runs["fitted"], 0.5), abs=1e-12)
    # neither its row at other thresholds nor another recipe's has reported figures
    assert all(row[key] is None for row in rows[1:3] for key in reported)
    others = rows[3:]
    assert [row["system"] for row in others] == [
        row.system for recipe, row in LITERATURE.items() if recipe != "report"
    ]
    assert all(row[key] is None for row in others for key in [*measured, "runs"])
    mm_gatbt = others[-1]
    assert (mm_gatbt["reported_f1_micro"], mm_gatbt["reported_source"]) == (
        0.685,
        "Seo et al. 2022",
    )
    alone = json.loads(table(runs["fitted"], runs["good1"], "--no_literature", "--format", "json"))
    assert all(row[key] is None for row in alone for key in reported)
    assert len(alone) == 3


def test_markdown(runs, table) -> None:
    lines = table(*runs.values(), "--no_literature").splitlines()
    header, _, first, *_ = ([cell.strip() for cell in line.split("|")[1:-1]] for line in lines)
    assert header == [
        "system",
        "runs",
        *(f"measured here: {name}" for name in METRICS),
        *(f"measured here: {name}" for name in ("split", "movies", "selection", "threshold")),
    ]
    values = [macro_f1(runs[f"good{seed}"], 0.5) for seed in (1, 2, 3)]
    assert first[3] == f"{np.mean(values):.4f} ± {np.std(values, ddof=1):.4f}"
    assert first[-1] == "0.5"


def test_latex_has_as_many_cells_in_every_line_and_no_bare_special(runs, table) -> None:
    text = table(*runs.values(), "--baseline", runs["bad1"], "--format", "latex")
    lines = text.splitlines()
    assert (lines[0][:16], lines[-1]) == (r"\begin{tabular}{", r"\end{tabular}")
    cells = [line.count(" & ") + 1 for line in lines if line.endswith(r" \\")]
    assert set(cells) == {lines[0].count("l", len(r"\begin{tabular}"))}
    assert r"f1\_macro" in text
    assert r"held-out 15 \% of training" in text
    assert r" $\pm$ " in text


def test_csv_has_the_numbers_of_json(runs, table) -> None:
    arguments = [*runs.values(), "--baseline", runs["good1"]]
    rows = json.loads(table(*arguments, "--format", "json"))
    read = list(csv.DictReader(io.StringIO(table(*arguments, "--format", "csv"))))
    assert [{k: "" if v is None else str(v) for k, v in row.items()} for row in rows] == read


def other_ids(folder: Path) -> Path:
    return write_run(folder, ids=[f"tt{i + 2:04d}" for i in range(80)])


def other_order(folder: Path) -> Path:
    return write_run(folder, ids=[f"tt{i:04d}" for i in reversed(range(80))])


def other_labels(folder: Path) -> Path:
    labels = LABELS.copy()
    labels[5, 1] ^= 1
    labels[9] ^= 1
    return write_run(folder, labels=labels)


def other_genres(folder: Path) -> Path:
    return write_run(folder, genres=["drama", "comedy", "horror"])


INCOMPARABLE = {
    "ids": (
        other_ids,
        "only {good} has the movie tt0000, tt0001; only {other} has the movie tt0080, tt0081",
    ),
    "order": (other_order, "the movies are in another order"),
    "labels": (
        other_labels,
        "their labels differ for 2 movies, such as movie 'tt0005' in genre 'comedy'",
    ),
    "genres": (
        other_genres,
        "only {good} has the genre western; only {other} has the genre horror",
    ),
}


@pytest.mark.parametrize("case", INCOMPARABLE)
def test_runs_that_cannot_be_compared(runs, case: str, tmp_path: Path) -> None:
    write, words = INCOMPARABLE[case]
    other = write(tmp_path / "other")
    with pytest.raises(UserError) as caught:
        check_comparable([read_run(folder, "test") for folder in (runs["good1"], other)])
    expected = f"{runs['good1']} and {other} cannot be compared: {words}"
    assert str(caught.value) == expected.format(good=runs["good1"], other=other)


def test_a_run_given_twice(runs) -> None:
    run = read_run(runs["good1"], "test")
    with pytest.raises(UserError, match="good1 is given twice; give every run once"):
        check_comparable([run, run])


def test_a_baseline_that_is_none_of_the_runs(runs) -> None:
    systems = group_runs([read_run(runs["good1"], "test")])
    with pytest.raises(UserError, match=r"baseline 'nowhere' is none of the runs .*good1"):
        compare(systems, "nowhere")


def test_folders_without_a_report(runs, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a run: it has no config.yaml"):
        read_run(tmp_path, "test")
    config = (runs["good1"] / "config.yaml").read_text()
    (tmp_path / "config.yaml").write_text(config)
    with pytest.raises(UserError, match="never finished an epoch; there is nothing to compare"):
        read_run(tmp_path, "test")
    (tmp_path / "checkpoints" / "last").mkdir(parents=True)
    with pytest.raises(UserError, match=rf"`python evaluate.py {tmp_path} --split test` writes it"):
        read_run(tmp_path, "test")


def test_figures_of_the_movies_that_thresholds_were_fitted_on_say_so(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", split="validation", thresholds=[0.4] * 3)
    run = read_run(folder, "test")
    assert list(run.metrics) == ["0.5", "global, fitted on these movies"]


def test_figures_that_are_not_there(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run")
    (folder / "reports" / "test" / "metrics.json").write_text("{}")
    with pytest.raises(UserError, match=r"metrics.json cannot be read \('overall_at_0.5'\)"):
        read_run(folder, "test")


def test_demo_movies_in_each_run_s_own_folder_are_one_data_set(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for seed, folder in enumerate(folders):
        write_run(folder, seed=seed)
        argv = ["--output_dir", str(folder), "--seed", str(seed)]
        config = parse_train_arguments([*argv, "--dataset", str(folder / "demo_movies")])
        save_config(config, folder / "config.yaml")
    (system,) = group_runs([read_run(folder, "test") for folder in folders])
    assert len(system.runs) == 2
