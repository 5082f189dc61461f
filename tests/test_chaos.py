"""Runs that are killed again and again end as a run that was left alone.

The long form, at least 30 kills: `python -m pytest -m slow tests/test_chaos.py`.
"""

import json
import multiprocessing
import random
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import num_lines, rank_environments, read_lines, start
from safetensors.torch import load_file
from test_distributed import consumed
from tiny import ROOT
from toy import main_of_rank

TRAINING: dict[str, Any] = {
    "num_movies": 33,
    "batch_size": 2,
    "optimizer": "AdamW",
    "learning_rate": 0.01,
    "dropout": 0.3,
    "save_steps": 2,
}
# Real processes all the same, made from one that has imported torch already.
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["toy"])


def begin(folder: Path, num_processes: int, num_train_epochs: int) -> list[Any]:
    folder.mkdir(exist_ok=True)
    kwargs = {**TRAINING, "num_train_epochs": num_train_epochs, "resume": "auto"}
    kwargs["accumulation"] = 4 // num_processes
    jobs = [(str(folder), kwargs)]
    processes = [
        CONTEXT.Process(target=main_of_rank, args=(env, folder / f"log{num_processes}", jobs))
        for env in rank_environments(num_processes)
    ]
    for process in processes:
        process.start()
    return processes


def end(folder: Path, processes: list[Any]) -> None:
    for process in processes:
        process.join(timeout=120)
        log = folder / f"log{len(processes)}"
        assert process.exitcode == 0, (process.exitcode, log.read_text()[-3000:])


def until(condition: Callable[[], bool], is_alive: Callable[[], bool]) -> None:
    """Until the condition is true, or the process is over."""
    deadline = time.monotonic() + 120
    while is_alive() and not condition():
        assert time.monotonic() < deadline
        time.sleep(0.0005)


def next_kill(random_moment: random.Random, folder: Path) -> Callable[[], bool]:
    """A moment: some steps from now, half of the time with a checkpoint being written."""
    goal = num_lines(folder / "consumed0.jsonl") + random_moment.randint(0, 9)
    while_saving = random_moment.random() < 0.5

    def is_there() -> bool:
        if num_lines(folder / "consumed0.jsonl") < goal:
            return False
        return not while_saving or any((folder / "checkpoints").glob(".*.tmp"))

    return is_there


def chaos(tmp_path: Path, num_kills: int, layouts: list[int], num_train_epochs: int) -> None:
    """Kill a run so often, with the layouts in turn, and compare it with an undisturbed one."""
    straight, folder = tmp_path / "straight", tmp_path / "chaos"
    end(straight, begin(straight, layouts[0], num_train_epochs))
    random_moment = random.Random(num_kills)
    for i in range(num_kills):
        processes = begin(folder, layouts[i % len(layouts)], num_train_epochs)
        until(next_kill(random_moment, folder), processes[0].is_alive)
        assert processes[0].is_alive(), "the run ended before all kills were spent"
        for process in processes:
            process.kill()
        for process in processes:
            process.join()
            assert process.exitcode == -signal.SIGKILL
    end(folder, begin(folder, layouts[0], num_train_epochs))

    exact = len(set(layouts)) == 1
    history = read_lines(straight / "history.jsonl")
    assert len(history) == num_train_epochs
    expected = history if exact else [pytest.approx(line, abs=1e-5) for line in history]
    assert read_lines(folder / "history.jsonl") == expected
    for path in straight.glob("rank*.safetensors"):
        a, b = (load_file(p)["parameters"] for p in (path, folder / path.name))
        assert torch.equal(a, b) if exact else (a - b).abs().max() <= 1e-5
    if exact:
        assert consumed(folder) == consumed(straight)
    assert not list((folder / "checkpoints").glob(".*"))


def test_a_run_that_is_killed_a_few_times(tmp_path: Path) -> None:
    chaos(tmp_path, num_kills=4, layouts=[1], num_train_epochs=12)


def test_two_processes_that_are_killed(tmp_path: Path) -> None:
    chaos(tmp_path, num_kills=2, layouts=[2], num_train_epochs=6)


@pytest.mark.slow
@pytest.mark.parametrize("layouts", [[1], [2], [1, 2]], ids=["one", "two", "one and two in turn"])
def test_a_run_that_is_killed_thirty_times(tmp_path: Path, layouts: list[int]) -> None:
    chaos(tmp_path, num_kills=30, layouts=layouts, num_train_epochs=60)


@pytest.mark.slow
def test_the_script_that_is_killed(recipe: str, run_script, tmp_path: Path) -> None:
    straight, folder = tmp_path / "straight", tmp_path / "chaos"
    arguments = ["--recipe", recipe, "--num_train_epochs", "4", "--save_steps", "1"]
    result = run_script("train.py", *arguments, "--output_dir", straight)
    assert result.returncode == 0, result.stderr
    arguments += ["--output_dir", str(folder), "--resume_from_checkpoint", "auto"]
    random_moment = random.Random(0)
    manifest = folder / "checkpoints" / "last" / "manifest.json"

    def num_written() -> int:
        return json.loads(manifest.read_text())["number"] if manifest.exists() else 0

    for _ in range(4):
        (process,) = start(1, ROOT / "train.py", *arguments, stderr=subprocess.DEVNULL)
        goal = num_written() + random_moment.randint(1, 5)
        until(lambda goal=goal: num_written() >= goal, lambda p=process: p.poll() is None)
        assert process.poll() is None
        process.kill()
        process.communicate()
    result = run_script("train.py", *arguments)
    assert result.returncode == 0, result.stderr
    assert read_lines(folder / "history.jsonl") == read_lines(straight / "history.jsonl")
    a, b = (
        load_file(run / "checkpoints" / "last" / "pretrained_model" / "model.safetensors")
        for run in (straight, folder)
    )
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
