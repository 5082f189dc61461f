"""Signals to real processes: a checkpoint, status 75, and the rest as if never interrupted."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import TOY, finish, num_lines, start, wait_for
from tiny import ROOT
from toy import fit

from mmgenre.utils.errors import INTERRUPTED_STATUS, PREEMPTED_STATUS

TRAINING: dict[str, Any] = {
    "batch_size": 4,
    "num_movies": 40,
    "optimizer": "AdamW",
    "learning_rate": 0.01,
    "dropout": 0.3,
}
ENDLESS = {**TRAINING, "num_train_epochs": 100_000}
LAUNCH = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
LAUNCH += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
LAUNCH += ["--main_process_port", "0"]


def resumes_as_if_never_stopped(folder: Path, tmp_path: Path) -> None:
    """Go on for a little and compare with a run that was left alone, to the last bit."""
    loop_state = folder / "checkpoints" / "last" / "training_state" / "loop_state.json"
    epochs = json.loads(loop_state.read_text())["training"]["epoch"] + 2
    kwargs = {**TRAINING, "num_train_epochs": epochs}
    got, history = fit(folder, resume="auto", **kwargs)
    expected, straight = fit(tmp_path / "straight", **kwargs)
    assert torch.equal(got, expected)
    assert history == straight


@pytest.mark.usefixtures("fresh_accelerate")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT"])
def test_a_signal_is_followed_by_a_checkpoint(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "run"
    kwargs = {**ENDLESS, "num_workers": 1 if name == "SIGTERM" else 0}
    (process,) = start(1, TOY, json.dumps([[str(folder), kwargs]]), start_new_session=True)
    wait_for(lambda: num_lines(folder / "consumed0.jsonl") > 13, process)
    os.killpg(process.pid, getattr(signal, name))  # loader processes too, as a batch system does
    ((status, errors),) = finish([process])
    assert status == PREEMPTED_STATUS, errors
    last = errors.splitlines()[-1]
    assert re.fullmatch(
        r"toy\.py: stopped in epoch \d+, after step \d+, as asked; --resume_from_checkpoint auto "
        "goes on from here",
        last,
    )
    assert "Traceback" not in errors
    resumes_as_if_never_stopped(folder, tmp_path)


def test_a_second_ctrl_c_quits_at_once(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    # The step that would see the first one never ends.
    kwargs = {**ENDLESS, "hang_at": 3}
    (process,) = start(1, TOY, json.dumps([[str(folder), kwargs]]))
    wait_for((folder / "hangs").exists, process)
    process.send_signal(signal.SIGINT)
    wait_for((folder / "interrupted").exists, process)
    process.send_signal(signal.SIGINT)
    ((status, _),) = finish([process])
    assert status % 256 in (INTERRUPTED_STATUS, 256 - signal.SIGINT)  # a shell says 130 to both


@pytest.mark.parametrize(("name", "status"), [("SIGTERM", 75), ("SIGUSR1", 75), ("SIGINT", 130)])
def test_a_signal_before_training_ends_it_at_once(name: str, status: int) -> None:
    code = (
        "import time\n"
        "from mmgenre.training.preemption import Preemption\n"
        "from mmgenre.utils.errors import exit_on_user_error\n"
        "with exit_on_user_error('x'):\n"
        "    Preemption().listen()\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(60)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(getattr(signal, name))
    _, errors = process.communicate(timeout=30)
    assert process.returncode == status
    assert len(errors.splitlines()) == 1


@pytest.mark.usefixtures("fresh_accelerate")
@pytest.mark.parametrize("num_steps", [0, 5], ids=["first step", "evaluation"])
def test_a_signal_before_the_first_step_or_in_evaluation(tmp_path: Path, num_steps: int) -> None:
    from toy import create_trainer

    from mmgenre.utils.errors import Preempted

    kwargs = {**TRAINING, "batch_size": 8, "num_train_epochs": 2, "warmup_epochs": 2}
    trainer = create_trainer(tmp_path / "run", **kwargs)
    if num_steps:
        evaluate = trainer.evaluator.evaluate

        def ask(model: torch.nn.Module, before_batch: Callable[[], None]) -> Any:
            trainer.preemption.signal = signal.SIGTERM
            return evaluate(model, before_batch)

        trainer.evaluator.evaluate = ask
    else:
        trainer.preemption.signal = signal.SIGTERM
    with pytest.raises(Preempted):
        trainer.fit()
    checkpoints = tmp_path / "run" / "checkpoints"
    assert (checkpoints / "last").resolve().name == f"step_{num_steps:08d}"
    got, history = fit(tmp_path / "run", resume="auto", **kwargs)
    expected, straight = fit(tmp_path / "straight", **kwargs)
    assert torch.equal(got, expected)
    assert history == straight


def launch(folder: Path, **env: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *LAUNCH, str(TOY), json.dumps([[str(folder), ENDLESS]])],
        cwd=ROOT,
        env={**os.environ, "ACCELERATE_USE_CPU": "true", **env},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


USR1 = {"PET_SIGNALS_TO_HANDLE": "SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"}


@pytest.mark.parametrize(
    ("name", "env"),
    [
        ("SIGTERM", {}),
        pytest.param("SIGUSR1", USR1, marks=pytest.mark.slow),
        pytest.param("SIGUSR1", {}, marks=pytest.mark.slow),
    ],
    ids=["TERM", "USR1 that is passed on", "USR1 that kills the launcher"],
)
def test_a_signal_to_the_launcher(tmp_path: Path, name: str, env: dict[str, str]) -> None:
    folder = tmp_path / "run"
    process = launch(folder, **env)
    files = [folder / f"consumed{rank}.jsonl" for rank in (0, 1)]
    wait_for(lambda: all(num_lines(file) > 7 for file in files), process)
    process.send_signal(getattr(signal, name))
    _, errors = process.communicate(timeout=60)  # until its processes have closed the pipe too
    assert "stopped in epoch" in errors, errors
    (steps,) = {int(step) for step in re.findall(r"after step (\d+), as asked", errors)}
    assert [num_lines(file) for file in files] == [steps, steps]
    state = json.loads(
        (folder / "checkpoints" / "last" / "training_state" / "loop_state.json").read_text()
    )
    assert state["training"]["step"] == steps
    assert state["sampler"]["num_processes"] == 2
