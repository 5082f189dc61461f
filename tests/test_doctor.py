"""`mmgenre doctor`: what it says of a training, and what it refuses."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from processes import rank_environments
from tiny import ROOT

from mmgenre.configs.arguments import DoctorArguments
from mmgenre.constants import JOB_FILE
from mmgenre.doctor import Probe, check_alike, check_disk, check_time, note_start, parse_time
from mmgenre.training.preemption import Preemption
from mmgenre.utils.errors import UserError

DOCTOR = ["-m", "mmgenre.cli", "doctor"]


def lines(output: str) -> dict[str, str]:
    return dict(re.split(r" {2,}", line, maxsplit=1) for line in output.splitlines())


def test_the_environment_alone(run_script) -> None:
    result = run_script(*DOCTOR)
    assert (result.returncode, result.stderr) == (0, "")
    said = lines(result.stdout)
    assert list(said) == ["versions", "devices", "precision", "training"]
    assert said["devices"] == "1 x CPU"
    assert said["training"].startswith("not looked at")


@pytest.mark.slow
def test_a_training_of_two_processes(recipe: str, tmp_path: Path) -> None:
    """It measures, and leaves nothing behind."""
    flags = ["--recipe", recipe, "--output_dir", str(tmp_path), "--time_left=10:00"]
    processes = [
        subprocess.Popen(
            [sys.executable, *DOCTOR, *flags],
            cwd=ROOT,
            env={**os.environ, **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for env in rank_environments(2)
    ]
    (output, errors), (others, _) = (process.communicate(timeout=120) for process in processes)
    assert [process.returncode for process in processes] == [0, 0], errors
    assert others == ""
    said = lines(output)
    assert said["devices"] == "2 x CPU"
    assert said["data"].startswith("40 train, 10 validation, 10 test movies of ")
    assert re.match(r"adding up \d+\.\d MB of gradients takes", said["interconnect"])
    assert re.match(r"a step takes .* an epoch of 2 steps .* a checkpoint", said["training"])
    assert re.match(r"\d+ s left, of which \d+ are for more steps", said["time"])
    assert list(tmp_path.iterdir()) == []


def test_a_gpu_that_torch_does_not_see(run_script) -> None:
    result = run_script(*DOCTOR, SLURM_GPUS_ON_NODE="2", CUDA_VISIBLE_DEVICES="")
    assert result.returncode == 2
    assert re.fullmatch(
        r"mmgenre: error: Slurm gave 2 GPUs of \S+ to the job, and torch \S+ sees 0; `nvidia-smi` "
        "on the node and the CUDA version of torch say why\n",
        result.stderr,
    )


FACTS: dict[str, Any] = {"node": "a", "device": "NVIDIA A100", "versions": ["torch 2.14", "x 1"]}


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        (
            {"node": "b", "device": "Tesla V100"},
            "the processes are not alike: NVIDIA A100 on a and Tesla V100 on b; name one type in "
            "GPUS_PER_NODE of slurm/site.sh, such as a100:4",
        ),
        (
            {"node": "b", "versions": ["torch 2.15", "x 1"]},
            "the processes are not alike: torch 2.14, x 1 on a and torch 2.15, x 1 on b; the nodes "
            "must share one environment",
        ),
    ],
    ids=["GPUs", "versions"],
)
def test_processes_that_are_not_alike(other: dict[str, Any], sentence: str) -> None:
    check_alike([FACTS, {**FACTS, "node": "b"}])
    with pytest.raises(UserError, match=f"^{re.escape(sentence)}$"):
        check_alike([FACTS, FACTS, {**FACTS, **other}])


def probe(first: float, other: float, save: float) -> Probe:
    probe = Probe(Preemption())
    probe.asked = [0, first, first + other, first + 2 * other]
    probe.ended = probe.asked[-1] + save
    return probe


TIMES = {
    "no time to start": (
        ("1:00", 20.0, probe(3, 1, 2)),
        "the time limit leaves 60 s, and 64 are needed: 40 to start up, 20 from the signal to the "
        "end, the rest for a step; raise TIME_LIMIT in slurm/site.sh",
    ),
    "no time to save": (
        ("1-00:00:00", 20.0, probe(3, 12, 9)),
        "the job is asked to stop 20 s before its time limit, and a step and a checkpoint take "
        "21.0 s; raise SIGNAL_SECONDS in slurm/site.sh",
    ),
}


@pytest.mark.parametrize("name", TIMES)
def test_a_time_limit_below_a_checkpoint(name: str) -> None:
    (left, signal_seconds, measured), sentence = TIMES[name]
    job = DoctorArguments(time_left=left, signal_seconds=signal_seconds)
    with pytest.raises(UserError, match=f"^{re.escape(sentence)}$"):
        check_time(job, 20, measured)


def test_a_time_limit_that_is_enough() -> None:
    job = DoctorArguments(time_left="1:05", signal_seconds=20)
    assert check_time(job, 20, probe(3, 1, 2)) == "65 s left, of which 1 are for more steps"
    assert check_time(DoctorArguments(time_left="UNLIMITED"), 20, probe(3, 1, 2)) == "no time limit"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0:59", 59), ("10:00", 600), ("4:00:00", 14400), ("1-12:00:01", 129601), ("UNLIMITED", None)],
)
def test_times_as_slurm_writes_them(text: str, seconds: int | None) -> None:
    assert parse_time(text) == seconds


def test_a_time_that_is_none() -> None:
    with pytest.raises(UserError) as caught:
        parse_time("soon")
    assert str(caught.value) == "time_left is 'soon'; it must be [DAYS-][HOURS:]MINUTES:SECONDS"


def test_a_disk_that_is_too_small(tmp_path: Path) -> None:
    (tmp_path / "checkpoints" / "epoch_0001").mkdir(parents=True)
    size = shutil.disk_usage(tmp_path).free // 2  # two more of three: just not
    assert check_disk(tmp_path, size // 2, 2).endswith("checkpoints need " + f"{size / 1e9:.2f}")
    with pytest.raises(UserError) as caught:
        check_disk(tmp_path, 2 * size, 2)
    assert re.fullmatch(
        rf"output_dir '{tmp_path}' has \d+\.\d MB free, and checkpoints need "
        rf"{4 * size / 1e6:.1f} MB; free some, lower save_total_limit or name another disk",
        str(caught.value),
    )


CONFIG = {"seed": 42, "genres": ["a"], "save_steps": None}


def save_checkpoint(run: Path, name: str) -> None:
    folder = run / "checkpoints"
    (folder / name).mkdir(parents=True)
    (folder / "last").unlink(missing_ok=True)
    (folder / "last").symlink_to(name)


def test_a_job_that_makes_no_progress(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for _ in range(3):
        note_start(run, "7", CONFIG)
    save_checkpoint(run, "step_00000004")
    for _ in range(3):
        note_start(run, "7", CONFIG)
    with pytest.raises(UserError) as caught:
        note_start(run, "7", CONFIG)
    assert str(caught.value) == (
        "job 7 started 3 times from checkpoint step_00000004 without writing a newer one; its log "
        "says what ended it, and a longer time limit may help"
    )
    save_checkpoint(run, "epoch_0001")
    note_start(run, "7", CONFIG)
    note_start(run, "8", CONFIG)  # another job begins to count anew
    assert json.loads((run / JOB_FILE).read_text())["starts_without_progress"] == 0


@pytest.mark.slow
def test_a_requeued_job_whose_configuration_changed(
    recipe: str, tmp_path: Path, run_main, run_script
) -> None:
    own = tmp_path / "own.yaml"
    own.write_text(Path(recipe).read_text())
    run = tmp_path / "run"
    flags = ["--recipe", own, "--output_dir", run, "--resume_from_checkpoint", "auto"]
    assert run_script(*DOCTOR, *flags, SLURM_JOB_ID="7").returncode == 0
    run_main("train", *flags, "--num_train_epochs", "1")
    own.write_text(own.read_text().replace("learning_rate: 0.001", "learning_rate: 0.01"))
    result = run_script(*DOCTOR, *flags, "--seed=1", SLURM_JOB_ID="7")
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == (
        "mmgenre: error: job 7 was requeued, and its configuration changed meanwhile: "
        "learning_rate was 0.001 and is 0.01; seed was 42 and is 1; change it back, or submit a "
        "new job\n"
    )
    assert run_script(*DOCTOR, *flags, "--seed=1", SLURM_JOB_ID="8").returncode == 0


def test_an_output_dir_that_cannot_be_written_to(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError) as caught:
        note_start(tmp_path / "file" / "run", "7", CONFIG)
    assert str(caught.value) == (
        f"output_dir '{tmp_path / 'file' / 'run'}' cannot be written to (Not a directory)"
    )


def test_a_disk_that_is_full(recipe: str, tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, *DOCTOR, "--recipe", recipe, "--output_dir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000)),
    )
    assert result.returncode == 2
    assert re.fullmatch(
        rf"mmgenre: error: checkpoint {tmp_path}/\.doctor/checkpoints/step_00000003 cannot be "
        r"written \(.*File too large.*\); the checkpoints before it stand",
        result.stderr.splitlines()[-1],
    )
    assert list(tmp_path.iterdir()) == []


def test_a_signal_ends_it(recipe: str, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, *DOCTOR, "--recipe", recipe, "--output_dir", str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGUSR1)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 75, errors
    assert list(tmp_path.iterdir()) == []
