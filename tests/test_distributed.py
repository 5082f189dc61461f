"""Two real processes (gloo) against one: the same training, and every movie evaluated once."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from systems import CASES
from tiny import ROOT
from toy import fit


def launch(script: Path, *arguments: str | Path) -> str:
    """Start two processes and give their output; `--cpu --num_processes 2` would start one."""
    command = ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
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
    return result.stdout


def test_every_system_trains_in_two_processes() -> None:
    output = launch(ROOT / "tests" / "systems.py")
    assert output.splitlines() == [f"2 processes: {case}" for case in CASES]


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
    arguments += ["--prepared_dir", tmp_path / "prepared"]
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
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {**os.environ, "ACCELERATE_USE_CPU": "true", "WORLD_SIZE": "2"}
    env |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen(
            [sys.executable, ROOT / "tests" / "main_first.py", outcome],
            env={**env, "RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    outputs = [process.communicate(timeout=60) for process in processes]
    assert [error for _, error in outputs] == errors
    if outcome == "ok":
        first, second = (float(output) for output, _ in outputs)
        assert first < second
