"""The same training however it is laid out: on real processes (gloo) and with accumulation."""

import json
from pathlib import Path
from typing import Any

import gathered
import pytest
import torch
from processes import TOY, read_lines, run, start
from safetensors.torch import load_file
from sklearn.metrics import average_precision_score, f1_score
from systems import CASES
from tiny import ROOT
from toy import fit

# Steps of 8; 33 movies end in a step of one, of which all processes but one have none.
TRAINING = {"num_movies": 33, "learning_rate": 0.5, "num_train_epochs": 5}
# Two runs of one row have to agree, whatever the column.
FEATURES: dict[str, dict[str, Any]] = {
    "plain": {},
    "clipping": {"max_grad_norm": 0.1},
    "AdamW": {"optimizer": "AdamW", "learning_rate": 0.05},
    "plateau": {"learning_rate": 1e-6, "num_train_epochs": 7},
    "early stop": {"learning_rate": 1e-6, "num_train_epochs": 7, "patience": 2},
    "dropout": {"dropout": 0.5},
    "a poisoned movie": {"poisoned": [5]},
    "too little memory": {"max_movies": 2, "dropout": 0.5},
    "resume": {},
}
# Name: processes, movies at once, accumulation; the first is what the others are compared with.
# Dropout depends on how a step is cut into micro-batches, so it is compared among cuts by two.
LAYOUTS = {
    "1 x 8": (1, 8, 1),
    "1 x 2, accumulation 4": (1, 2, 4),
    "2 x 2, accumulation 2": (2, 2, 2),
    "4 x 2": (4, 2, 1),
}


def train(num_processes: int, jobs: list[tuple[str, dict[str, Any]]]) -> None:
    if num_processes > 1:
        run(num_processes, TOY, json.dumps(jobs))
        return
    for folder, kwargs in jobs:
        fit(Path(folder), **kwargs)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each feature and layout; those of one layout share their processes."""
    folder = tmp_path_factory.mktemp("layouts")
    for layout, (num_processes, batch_size, accumulation) in LAYOUTS.items():
        jobs = []
        for feature, own in FEATURES.items():
            kwargs = {"batch_size": batch_size, "accumulation": accumulation, **TRAINING, **own}
            if feature == "resume":
                jobs.append((str(folder / feature / layout), {**kwargs, "stop_after": 8}))
                kwargs["resume"] = "auto"
            jobs.append((str(folder / feature / layout), kwargs))
        train(num_processes, jobs)
    return folder


def consumed(folder: Path) -> dict[int, set[int]]:
    """Step to the movies of all its processes; a step that was run twice must be the same."""
    steps: dict[int, set[int]] = {}
    for path in sorted(folder.glob("consumed*.jsonl")):
        of_process: dict[int, list[int]] = {}
        for step, movies in read_lines(path):
            assert of_process.setdefault(step, movies) == movies
        for step, movies in of_process.items():
            assert not steps.setdefault(step, set()) & set(movies)
            steps[step] |= set(movies)
    return steps


@pytest.mark.parametrize("layout", list(LAYOUTS)[1:])
@pytest.mark.parametrize("feature", FEATURES)
def test_layouts_train_alike(runs: Path, feature: str, layout: str) -> None:
    reference = "1 x 2, accumulation 4" if "dropout" in FEATURES[feature] else "1 x 8"
    expected, got = runs / feature / reference, runs / feature / layout
    history = read_lines(expected / "history.jsonl")
    lines = read_lines(got / "history.jsonl")
    assert [pytest.approx(line, abs=1e-5) for line in history] == lines
    assert [x["learning_rate"] for x in history] == [x["learning_rate"] for x in lines]
    parameters = load_file(expected / "rank0.safetensors")["parameters"]
    for path in got.glob("rank*.safetensors"):
        difference = (load_file(path)["parameters"] - parameters).abs().max()
        assert difference <= 1e-5
    assert len(list(got.glob("rank*.safetensors"))) == LAYOUTS[layout][0]
    assert consumed(got) == consumed(expected)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_resumed_run_is_the_same_to_the_last_bit(runs: Path, layout: str) -> None:
    straight, resumed = runs / "plain" / layout, runs / "resume" / layout
    assert read_lines(straight / "history.jsonl") == read_lines(resumed / "history.jsonl")
    assert consumed(straight) == consumed(resumed)
    for path in straight.glob("rank*.safetensors"):
        a, b = (load_file(p)["parameters"] for p in (path, resumed / path.name))
        assert torch.equal(a, b)


def test_what_the_features_are_compared_on_happens(runs: Path) -> None:
    """Or else the table above would hold for nothing."""
    lines = {name: read_lines(runs / name / "1 x 8" / "history.jsonl") for name in FEATURES}
    assert lines["plain"][-1]["step"] == 25
    rates = [line["learning_rate"] for line in lines["plateau"]]
    assert rates == pytest.approx([1e-6] * 4 + [2e-7] * 3, abs=0)
    assert len(lines["early stop"]) == 3
    assert lines["dropout"] != lines["plain"]
    assert [line["train/skipped_steps"] for line in lines["a poisoned movie"]] == [1, 2, 3, 4, 5]
    # found to be the layout that dropout was given
    two = read_lines(runs / "dropout" / "1 x 2, accumulation 4" / "history.jsonl")
    assert lines["too little memory"] == two


@pytest.mark.usefixtures("fresh_accelerate")
def test_a_run_goes_on_with_another_number_of_processes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="mmgenre")
    kwargs = {**TRAINING, "optimizer": "AdamW", "learning_rate": 0.05, "batch_size": 2}
    kwargs |= {"dropout": 0.5}
    straight, elastic = str(tmp_path / "straight"), str(tmp_path / "elastic")
    train(1, [(straight, {**kwargs, "accumulation": 4})])
    # Each stops within an epoch; the accumulation given to those that go on counts nothing.
    train(1, [(elastic, {**kwargs, "accumulation": 4, "stop_after": 7})])
    train(2, [(elastic, {**kwargs, "accumulation": 9, "stop_after": 14, "resume": "auto"})])
    caplog.clear()
    train(1, [(elastic, {**kwargs, "resume": "auto"})])
    assert (
        "steps stay at 8 movies, as before; they are now laid out over 1 processes" in caplog.text
    )
    histories = [read_lines(Path(run) / "history.jsonl") for run in (straight, elastic)]
    assert histories[0] == [pytest.approx(line, abs=1e-5) for line in histories[1]]
    assert consumed(tmp_path / "elastic") == consumed(tmp_path / "straight")
    files = [Path(run) / "rank0.safetensors" for run in (straight, elastic)]
    a, b = (load_file(file)["parameters"] for file in files)
    assert (a - b).abs().max() <= 1e-5


def test_a_system_trained_by_two_processes_evaluates_alike_in_one(
    recipe: str, run_main, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    arguments = ["--per_device_eval_batch_size", "3", "--per_device_train_batch_size", "7"]
    arguments += ["--num_train_epochs", "1", "--output_dir", folder]
    arguments += ["--prepared_dir", tmp_path / "prepared"]
    run(2, ROOT / "train.py", "--recipe", recipe, *arguments)
    (line,) = read_lines(folder / "history.jsonl")
    assert line["step"] == 2  # 40 movies are two steps of 14 and a rest that is dropped
    run_main("evaluate", folder)
    text = (folder / "reports" / "validation" / "metrics.json").read_text()
    overall = json.loads(text)["overall"]
    expected = {f"validation/{name}": pytest.approx(v, abs=1e-6) for name, v in overall.items()}
    assert {name: line[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("outcome", "errors"),
    [
        ("ok", ["", ""]),
        (
            "fail",
            [
                "main_first: error: no movies\n",
                "main_first (process 1): error: another process ended before the data was ready\n",
            ],
        ),
    ],
)
def test_the_main_process_may_take_longer_than_the_process_group_waits(
    outcome: str, errors: list[str]
) -> None:
    processes = start(2, ROOT / "tests" / "main_first.py", outcome)
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [error for _, error in outputs] == errors
    if outcome == "ok":
        first, second = (float(output) for output, _ in outputs)
        assert first < second


def scikit_learn_s(num_movies: int) -> dict[str, float]:
    logits, labels = gathered.known_data(num_movies)
    probabilities, truth = logits.double().sigmoid().numpy(), labels.numpy()
    predicted = probabilities > gathered.THRESHOLDS
    expected = {
        f"f1_{average}": f1_score(truth, predicted, average=average, zero_division=0)
        for average in ("micro", "macro", "weighted", "samples")
    }
    there = truth.any(axis=0)
    for average, columns in (("macro", there), ("micro", slice(None))):
        expected[f"map_{average}"] = average_precision_score(
            truth[:, columns], probabilities[:, columns], average=average
        )
    return expected


@pytest.mark.parametrize("num_processes", [2, 3])
def test_gathered_metrics_are_scikit_learn_s(num_processes: int, tmp_path: Path) -> None:
    run(num_processes, ROOT / "tests" / "gathered.py", tmp_path)
    expected = pytest.approx(scikit_learn_s(gathered.NUM_MOVIES), rel=0, abs=1e-12)
    found = {path.name: json.loads(path.read_text()) for path in tmp_path.iterdir()}
    ranks = [f"{rank}_of_{num_processes}.json" for rank in range(num_processes)]
    assert found == dict.fromkeys(ranks, expected)


@pytest.mark.usefixtures("fresh_accelerate")
@pytest.mark.parametrize("num_movies", [1, 2, 13])
def test_metrics_of_one_process_are_scikit_learn_s(num_movies: int) -> None:
    found = gathered.evaluate(num_movies)
    assert found == pytest.approx(scikit_learn_s(num_movies), rel=0, abs=1e-12)


def test_every_system_trains_in_two_processes(tmp_path: Path) -> None:
    run(2, ROOT / "tests" / "systems.py", tmp_path)
    for rank in (0, 1):
        assert json.loads((tmp_path / f"rank{rank}.json").read_text()) == list(CASES)
