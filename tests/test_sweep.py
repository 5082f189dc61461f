"""`mmgenre sweep`: what it runs, skips, tries again and prints.

Most runs are stand-ins that take no time: scripts that write the files of a run, whose F1 is a
function of its learning rate and seed.
"""

import json
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tiny import ROOT

from mmgenre import cli
from mmgenre.evaluation.predictions import Predictions

TRAIN = """
import json, os, signal, sys
from pathlib import Path

words = sys.argv[1:]
args = {w[2:]: v for w, v in zip(words, words[1:]) if w.startswith("--")}
with Path(__file__).with_name("calls.jsonl").open("a") as calls:
    calls.write(json.dumps(["train", *words]) + "\\n")
if args["seed"] in os.environ.get("FAILS", "").split():
    sys.exit(2)
if "STOPS" in os.environ:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    os.kill(os.getppid(), signal.SIGTERM)
    signal.pause()
run = Path(args["output_dir"])
run.mkdir(parents=True, exist_ok=True)
keys = ("seed", "output_dir", "learning_rate")
lines = [f"{key}: {args[key]}" for key in keys if key in args]
(run / "config.yaml").write_text("\\n".join(lines))
"""
EVALUATE = """
import json, math, shutil, sys
from pathlib import Path

run, here = Path(sys.argv[1]), Path(__file__)
with here.with_name("calls.jsonl").open("a") as calls:
    calls.write(json.dumps(["evaluate", *sys.argv[1:]]) + "\\n")
config = dict(line.split(": ") for line in (run / "config.yaml").read_text().splitlines())
rate = float(config.get("learning_rate", 1e-3))
f1 = 0.8 - 0.1 * abs(math.log10(rate) + 3) + 0.01 * int(config["seed"])
names = ("f1_micro", "f1_macro", "f1_weighted", "f1_samples", "map_macro")
metrics = {"overall_at_0.5": dict.fromkeys(names, f1), "context": {"selection": "best"}}
report = run / "reports" / "validation"
report.mkdir(parents=True)
shutil.copy(here.with_name("predictions.parquet"), report)
(report / "metrics.json").write_text(json.dumps(metrics))
"""


@pytest.fixture
def scripts(tmp_path: Path) -> Path:
    """A folder with both stand-ins."""
    folder = tmp_path / "scripts"
    folder.mkdir()
    (folder / "train.py").write_text(TRAIN)
    (folder / "evaluate.py").write_text(EVALUATE)
    labels = np.eye(3, dtype=np.int8)
    predictions = Predictions(
        ids=list("abc"),
        genres=["drama", "comedy", "war"],
        probabilities=labels.astype(float),
        labels=labels,
        split="validation",
        thresholds=None,
        attributes={"plot_words": [1] * 3, "year": [None] * 3},
    )
    (folder / "predictions.parquet").write_bytes(predictions.to_parquet())
    return folder


Sweep = Callable[..., tuple[int, str, str]]


@pytest.fixture
def sweep(scripts: Path, tmp_path: Path, monkeypatch, capsys) -> Sweep:
    """Calls the command; its exit status, output and last line of errors."""

    def run(*arguments: str, command: list[str] | None = None) -> tuple[int, str, str]:
        command = command or [sys.executable, str(scripts / "train.py")]
        own = ["--output_dir", str(tmp_path / "sweep"), *arguments, "--", *command]
        monkeypatch.setattr(sys, "argv", ["mmgenre", "sweep", *own])
        # errors of several processes end without Python's orderly teardown
        monkeypatch.setattr(os, "_exit", sys.exit)
        status = 0
        try:
            cli.main()
        except SystemExit as error:
            status = int(error.code or 0)
        output, errors = capsys.readouterr()
        return status, output, (errors.splitlines() or [""])[-1]

    return run


def calls(scripts: Path, kind: str = "train") -> list[list[str]]:
    path = scripts / "calls.jsonl"
    lines = [json.loads(line) for line in path.open()] if path.exists() else []
    return [words for name, *words in lines if name == kind]


def values(scripts: Path, flag: str) -> list[str]:
    return [words[words.index(f"--{flag}") + 1] for words in calls(scripts)]


def cells(output: str) -> list[list[str]]:
    return [[c.strip() for c in line.split("|")[1:-1]] for line in output.splitlines()[2:]]


def test_a_run_for_each_seed(sweep: Sweep, scripts: Path, tmp_path: Path) -> None:
    status, output, _ = sweep("--seeds", "1", "2", "3")
    assert status == 0
    folders = [str(tmp_path / "sweep" / f"seed{seed}") for seed in (1, 2, 3)]
    assert values(scripts, "seed") == ["1", "2", "3"]
    assert values(scripts, "output_dir") == folders
    assert calls(scripts, "evaluate") == [[f, "--split", "validation"] for f in folders]
    ((system, runs, f1, *_),) = cells(output)
    assert (system, runs, f1) == ("mmgenre", "3", "0.8200 ± 0.0100")

    # finished runs are skipped, and a new seed joins them
    status, output, _ = sweep("--seeds", "1", "2", "3", "4")
    assert values(scripts, "seed") == ["1", "2", "3", "4"]
    assert cells(output)[0][1] == "4"


def test_a_run_that_fails_is_named_and_the_others_go_on(
    sweep: Sweep, scripts: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setenv("FAILS", "1 2")
    status, output, error = sweep("--seeds", "1", "2", "3")
    assert status == 1
    folder = tmp_path / "sweep"
    assert error == (
        f"mmgenre: error: 2 of 3 runs failed: {folder}/seed1 (status 2); {folder}/seed2 (status "
        "2); the same command tries them again"
    )
    assert cells(output)[0][1] == "1"
    monkeypatch.setenv("FAILS", "2")
    assert sweep("--seeds", "1", "2", "3")[0] == 1
    assert values(scripts, "seed") == ["1", "2", "3", "1", "2"]
    monkeypatch.setenv("FAILS", "1 2 3")
    assert sweep("--seeds", "1", "2", "3")[0] == 1  # the last is tried, and it alone
    assert values(scripts, "seed")[5:] == ["2"]


def test_asked_to_stop_it_stops_and_goes_on_later(sweep: Sweep, scripts: Path, monkeypatch) -> None:
    """The run passes on what it was sent, as from a batch system, and waits for its own signal."""
    monkeypatch.setenv("STOPS", "yes")
    status, _, error = sweep("--seeds", "1", "2")
    assert (status, error) == (
        75,
        "mmgenre: stopped as asked; the same command goes on from here",
    )
    assert values(scripts, "seed") == ["1"]
    monkeypatch.delenv("STOPS")
    assert sweep("--seeds", "1", "2")[0] == 0
    assert values(scripts, "seed") == ["1", "1", "2"]
    assert values(scripts, "resume_from_checkpoint") == ["auto"] * 3


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_search_goes_on_as_if_it_had_not_stopped(
    sampler: str, sweep: Sweep, scripts: Path, tmp_path: Path, monkeypatch
) -> None:
    search = ["--search", "learning_rate=log:1e-5:1e-1", "dropout=0.1,0.3"]
    model = ["--model", "gmu"]
    command = [sys.executable, str(scripts / "train.py"), *model]
    arguments = [*search, "--seeds", "1", "2", "--sampler", sampler]
    assert sweep(*arguments, "--trials", "12", command=command)[0] == 0
    rates, options = values(scripts, "learning_rate"), values(scripts, "model_config")
    assert len(set(rates)) == 12
    assert rates[::2] == rates[1::2]  # a setting is trained with each seed
    assert set(options) == {"dropout=0.1", "dropout=0.3"}

    shutil.rmtree(tmp_path / "sweep")
    (scripts / "calls.jsonl").unlink()
    sweep(*arguments, "--trials", "3", command=command)
    monkeypatch.setenv("FAILS", "2")
    assert sweep(*arguments, "--trials", "4", command=command)[0] == 1
    monkeypatch.delenv("FAILS")
    status, output, _ = sweep(*arguments, "--trials", "12", command=command)
    assert status == 0
    assert values(scripts, "learning_rate") == [*rates[:8], rates[7], *rates[8:]]
    best = min(rates, key=lambda rate: abs(np.log10(float(rate)) + 3))
    assert f"learning_rate={float(best)}" in cells(output)[0][0]


@pytest.mark.parametrize(
    ("arguments", "command", "message"),
    [
        (
            [],
            ["echo", "hello"],
            "the command 'echo hello' has no train.py with evaluate.py beside it; give it after "
            "--, such as -- accelerate launch train.py --recipe quickstart",
        ),
        ([], ["TRAIN", "--seed=3"], "--seed is set for each run; leave it out of the command"),
        ([], ["TRAIN", "--output-dir", "x"], "--output_dir is set for each run; leave it out of "),
        ([], ["TRAIN", "--learning_rat", "1"], "unknown argument '--learning_rat'; did you mean"),
        ([], ["no_such_launcher", "TRAIN"], "'no_such_launcher' cannot be started: No such file"),
        (
            ["--search", "learning_rate=log:1"],
            ["TRAIN"],
            "search 'learning_rate=log:1' is not understood; it can be KEY=A,B,..., KEY=log:LOW:H",
        ),
        (["--search", "learning_rate=uniform:2:1"], ["TRAIN"], "search 'learning_rate=uniform:2"),
        (["--search", "learning_rate="], ["TRAIN"], "search 'learning_rate=' is not understood"),
        (
            ["--search", "learning_rate=uniform:-1:1"],
            ["TRAIN"],
            "learning_rate is -1.0; it must be above 0",
        ),
        (
            ["--search", "projection_dims=64,128"],
            ["TRAIN"],
            "model_config key 'projection_dims' is unknown to model 'mmgenre'; did you mean",
        ),
    ],
)
def test_what_does_not_fit_stops_before_the_first_run(
    arguments, command, message, sweep: Sweep, scripts: Path
) -> None:
    command = [str(scripts / "train.py") if word == "TRAIN" else word for word in command]
    status, _, error = sweep(*arguments, command=command)
    assert status == 2
    assert error.startswith(f"mmgenre: error: {message}")
    assert calls(scripts) == []


def test_another_sweep_s_folder(sweep: Sweep, scripts: Path, tmp_path: Path) -> None:
    sweep()
    command = [sys.executable, str(scripts / "train.py"), "--learning_rate", "1e-2"]
    status, _, error = sweep(command=command)
    assert status == 2
    assert error.startswith(f"mmgenre: error: {tmp_path}/sweep holds another sweep (")


def test_optuna_is_not_installed(sweep: Sweep, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    status, _, error = sweep("--search", "learning_rate=1,2")
    assert (status, error) == (
        2,
        'mmgenre: error: a search needs optuna: pip install -e ".[search]"',
    )


@pytest.mark.slow
def test_real_runs(sweep: Sweep, demo_dir: Path, tmp_path: Path) -> None:
    options = ["--recipe", "label_frequency", "--dataset", str(demo_dir), "--report_to", "none"]
    status, output, _ = sweep(command=[sys.executable, str(ROOT / "train.py"), *options])
    assert status == 0
    assert cells(output)[0][:2] == ["label_frequency", "1"]
    reports = tmp_path / "sweep" / "seed42" / "reports"
    assert [path.name for path in reports.iterdir()] == ["validation"]


@pytest.mark.slow
def test_labels_of_test_movies_change_nothing(sweep: Sweep, demo_dir: Path, tmp_path: Path) -> None:
    noisy = shutil.copytree(demo_dir, tmp_path / "noisy")
    rows = [json.loads(line) for line in (noisy / "metadata.jsonl").open()]
    for number, row in enumerate(rows):
        if row["split"] == "test":
            row["genres"] = ["Comedy", "Drama"][: 1 + number % 2]
    (noisy / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    dataset = tmp_path / "movies"
    tables = []
    for source in (demo_dir, noisy):
        shutil.copytree(source, dataset)
        options = ["--recipe", "tfidf", "--dataset", str(dataset), "--report_to", "none"]
        command = [sys.executable, str(ROOT / "train.py"), *options]
        search = ["--search", "C=log:0.01:100", "--trials", "3"]
        tables.append(sweep(*search, command=command)[:2])
        shutil.rmtree(dataset)
        (tmp_path / "sweep").rename(tmp_path / f"sweep_{source.name}")
    assert tables[0] == tables[1]
    assert tables[0][0] == 0
