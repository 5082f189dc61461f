"""Real processes (gloo) against one: the same training, and every movie evaluated once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import gathered
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import average_precision_score, f1_score
from tiny import ROOT
from toy import fit


def launch(script: Path, *arguments: str | Path, num_processes: int = 2) -> None:
    """Start processes; `--cpu --num_processes 2` would start one, silently."""
    command = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", f"{num_processes}"]
    command += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    result = subprocess.run(
        [sys.executable, "-m", *command, "--main_process_port", "0", script, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, "ACCELERATE_USE_CPU": "true"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr


# 33 movies end in a step of one, of which the second process has none; 13 are evaluated
TRAINING = {"num_movies": 33, "num_train_epochs": 3, "max_grad_norm": 0.1, "learning_rate": 0.5}


@pytest.mark.usefixtures("fresh_accelerate")
def test_two_processes_train_and_evaluate_as_one(tmp_path: Path) -> None:
    layout = {**TRAINING, "batch_size": 2, "accumulation": 2}
    launch(ROOT / "tests" / "toy.py", tmp_path / "two", json.dumps(layout))
    expected, history = fit(tmp_path / "one", batch_size=8, **TRAINING)
    for rank in (0, 1):
        got = load_file(tmp_path / "two" / f"rank{rank}.safetensors")["parameters"]
        torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)
    lines = [json.loads(line) for line in (tmp_path / "two" / "history.jsonl").open()]
    assert lines == [pytest.approx(line, abs=1e-6) for line in history]
    states = {path.name for path in (tmp_path / "two" / "checkpoints").rglob("random_states_*")}
    assert states == {"random_states_0.pkl", "random_states_1.pkl"}


def test_a_system_trained_by_two_processes_evaluates_alike_in_one(
    recipe: str, run_main, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    arguments = ["--per_device_eval_batch_size", "3", "--per_device_train_batch_size", "7"]
    arguments += ["--num_train_epochs", "1", "--output_dir", run]
    launch(ROOT / "train.py", "--recipe", recipe, *arguments)
    (line,) = [json.loads(line) for line in (run / "history.jsonl").open()]
    assert line["step"] == 2  # 40 movies are two steps of 14 and a rest that is dropped
    folder = run / "checkpoints" / "last" / "training_state"
    states = [torch.load(folder / f"random_states_{i}.pkl", weights_only=False) for i in (0, 1)]
    # or both would drop the same units
    assert not torch.equal(*(state["torch_manual_seed"] for state in states))
    run_main("evaluate", run)
    overall = json.loads((run / "reports" / "validation" / "metrics.json").read_text())["overall"]
    expected = {f"validation/{name}": pytest.approx(v, abs=1e-6) for name, v in overall.items()}
    assert {name: line[name] for name in expected} == expected


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
    launch(ROOT / "tests" / "gathered.py", tmp_path, num_processes=num_processes)
    expected = pytest.approx(scikit_learn_s(gathered.NUM_MOVIES), rel=0, abs=1e-12)
    found = {path.name: json.loads(path.read_text()) for path in tmp_path.iterdir()}
    ranks = [f"{rank}_of_{num_processes}.json" for rank in range(num_processes)]
    assert found == dict.fromkeys(ranks, expected)


@pytest.mark.usefixtures("fresh_accelerate")
@pytest.mark.parametrize("num_movies", [1, 2, 13])
def test_metrics_of_one_process_are_scikit_learn_s(num_movies: int) -> None:
    found = gathered.evaluate(num_movies)
    assert found == pytest.approx(scikit_learn_s(num_movies), rel=0, abs=1e-12)
