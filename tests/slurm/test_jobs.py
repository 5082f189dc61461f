"""Jobs on a real Slurm: `python -m pytest -m slurm`."""

import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from checkout import Checkout
from processes import num_lines, read_lines

pytestmark = pytest.mark.slurm

MAX_SECONDS_TO_REQUEUE = 15
NUM_STEPS_OF_EPOCH = 5
TWO_NODES = ["--per_device_train_batch_size=4", "--gradient_accumulation_steps=1"]


def start(checkout: Checkout, recipe: str, *flags: Any, job: str = "train") -> tuple[str, Path]:
    """A job that trains, and its run."""
    run = checkout.folder / "runs" / "run"
    (job_id,) = checkout.submit(job, run, "--recipe", recipe, *flags)
    return job_id, run


def pause(checkout: Checkout, job: str, run: Path) -> list[int]:
    """Stop a job's training in the middle, which gives Slurm time to act; its processes.

    Slurm lets it go on with the signals that it sends by itself.
    """
    facts = checkout.wait(job, lambda _: num_lines(run / "history.jsonl") >= 2)
    processes = checkout.cluster.trainings_of(facts["JobId"])
    for process in processes:
        os.kill(process, signal.SIGSTOP)
    return processes


def send_signal(checkout: Checkout, job: str, name: str) -> None:
    """To a training that is paused, and let it go on."""
    for each in (name, "CONT"):
        checkout.cluster.run("scancel", f"--signal={each}", job)


def wait_for_requeue(checkout: Checkout, job: str) -> float:
    """Seconds until the job is in the queue again."""
    started = time.monotonic()
    checkout.wait(job, lambda facts: facts["Restarts"] == "1")
    seconds = time.monotonic() - started
    print(f"requeued after {seconds:.1f} s")
    return seconds


def history(run: Path) -> list[Any]:
    return read_lines(run / "history.jsonl")


def assert_alike(run: Path, straight: list[Any]) -> None:
    """Equal but for rounding, which can flip ranks, and with them average precision and F1."""
    for line, expected in zip(history(run), straight, strict=True):
        for key in ("step", "learning_rate", "train/loss", "validation/loss"):
            assert line[key] == pytest.approx(expected[key], abs=1e-5)


def test_prepare_train_and_evaluate(checkout, demo_dir, text_recipe, straight) -> None:
    """Each job waits for the one before; training reads a copy on the node's own disk."""
    scratch, data, run = (checkout.folder / name for name in ("scratch", "data", "run"))
    checkout.set_site(SCRATCH=str(scratch))
    (first,) = checkout.submit("prepare", demo_dir, data)
    after = f"--dependency=afterok:{first}"
    (job,) = checkout.submit(after, "train", run, "--recipe", text_recipe, "--dataset", data)
    (report,) = checkout.submit(f"--dependency=afterok:{job}", "evaluate", run, "--split", "test")
    for each in (first, job):
        checkout.wait_for_state(each, "COMPLETED")
    facts = checkout.wait_for_state(report, "COMPLETED")
    assert history(run) == straight
    assert len(list(scratch.glob("*/prepared.json"))) == 1
    log = checkout.log(facts)
    assert f"== job {job}, start 1, on node1" in log
    assert (run / "reports" / "test" / "report.md").read_text() in log
    assert (run / "slurm.log").samefile(facts["StdOut"])


# TERM goes to W&B's own process as well, which ends of it.
@pytest.mark.parametrize(("name", "tracker"), [("USR1", "none"), ("TERM", "wandb")])
def test_a_signal_saves_and_requeues(
    checkout, text_recipe, straight, name: str, tracker: str
) -> None:
    job, run = start(checkout, text_recipe, "--report_to", tracker)
    pause(checkout, job, run)
    send_signal(checkout, job, name)
    assert wait_for_requeue(checkout, job) <= MAX_SECONDS_TO_REQUEUE
    requeued = time.monotonic()
    checkout.wait_for_state(job, "RUNNING")
    print(f"running again {time.monotonic() - requeued:.1f} s later")
    log = checkout.log(checkout.wait_for_state(job, "COMPLETED"))
    assert history(run) == straight
    # The first start's lines are still there, and no step was lost.
    (stopped,) = re.findall(r"after step (\d+), as asked", log)
    (resumed,) = re.findall(r"resumed from .*, after epoch (\d+) and (\d+) steps", log)
    assert int(stopped) == NUM_STEPS_OF_EPOCH * int(resumed[0]) + int(resumed[1])
    assert json.loads((run / "slurm_job.json").read_text())["starts_without_progress"] == 0
    if tracker == "wandb":
        names = [path.name for path in (run / "wandb").glob("offline-run-*")]
        assert len(names) == 2
        assert len({name.rpartition("-")[2] for name in names}) == 1  # one run of W&B


def test_the_time_limit_saves_and_requeues(checkout, text_recipe, straight) -> None:
    # Whenever the limit is set to the next full minute but one, the signal is due.
    checkout.set_site(SIGNAL_SECONDS="120")
    job, run = start(checkout, text_recipe)
    pause(checkout, job, run)
    minutes = int(checkout.facts(job)["RunTime"].split(":")[-2])
    checkout.cluster.run("scontrol", "update", f"jobid={job}", f"timelimit={minutes + 2}")
    wait_for_requeue(checkout, job)
    checkout.cluster.run("scontrol", "update", f"jobid={job}", "timelimit=10")
    checkout.wait_for_state(job, "COMPLETED")
    assert history(run) == straight


def test_preemption_saves_and_requeues(checkout, text_recipe, straight) -> None:
    job, run = start(checkout, text_recipe)
    pause(checkout, job, run)
    options = ["--partition=urgent", "--nodes=2", "--ntasks-per-node=2", "--output=/dev/null"]
    other = checkout.cluster.run("sbatch", "--parsable", *options, "--wrap=true")
    wait_for_requeue(checkout, job)
    checkout.wait_for_state(other, "COMPLETED")
    log = checkout.log(checkout.wait_for_state(job, "COMPLETED"))
    assert "as asked" in log
    assert history(run) == straight


def test_a_node_that_goes_down(checkout, text_recipe, straight) -> None:
    job, run = start(checkout, text_recipe, "--save_steps=2")
    pause(checkout, job, run)
    node = checkout.facts(job)["BatchHost"]
    checkout.cluster.crash(node)
    try:
        facts = checkout.wait_for_state(job, "COMPLETED")
    finally:
        checkout.cluster.start_node(node)
    assert facts["BatchHost"] != node
    assert history(run) == straight


def test_a_process_that_is_killed(checkout, text_recipe, straight) -> None:
    job, run = start(checkout, text_recipe, "--save_steps=2")
    for process in pause(checkout, job, run):
        os.kill(process, signal.SIGKILL)
    wait_for_requeue(checkout, job)
    log = checkout.log(checkout.wait_for_state(job, "COMPLETED"))
    assert "== a process was killed: requeued" in log
    assert history(run) == straight


def test_two_nodes_by_accelerate_launch(checkout, text_recipe, straight) -> None:
    checkout.set_site(LAUNCHER="accelerate")
    job, run = start(checkout, text_recipe, *TWO_NODES, job="train_multi_node")
    pause(checkout, job, run)
    send_signal(checkout, job, "USR1")
    wait_for_requeue(checkout, job)
    log = checkout.log(checkout.wait_for_state(job, "COMPLETED"))
    assert log.count("as asked") == 1
    assert_alike(run, straight)


def test_two_jobs_on_the_same_two_nodes(checkout, text_recipe, straight) -> None:
    """Each gives the history of one process, also the one that gets a signal on the way."""
    runs = [checkout.folder / "runs" / name for name in ("a", "b")]
    arguments = ["--recipe", text_recipe, *TWO_NODES]
    jobs = [checkout.submit("train_multi_node", run, *arguments)[0] for run in runs]
    for job in jobs:
        checkout.wait_for_state(job, "RUNNING")
    both = [checkout.facts(job) for job in jobs]
    assert both[0]["NodeList"] == both[1]["NodeList"] == "node[1-2]"
    pause(checkout, jobs[1], runs[1])
    send_signal(checkout, jobs[1], "USR1")
    wait_for_requeue(checkout, jobs[1])
    for job, run in zip(jobs, runs, strict=True):
        log = checkout.log(checkout.wait_for_state(job, "COMPLETED"))
        assert re.search(r"devices +2 x CPU", log)
        assert re.search(r"interconnect +adding up", log)
        assert_alike(run, straight)
    assert log.count("as asked") == 1


def test_a_sweep_and_its_table(checkout, text_recipe) -> None:
    """Of two tasks the one that gets a signal is requeued, and no other."""
    folder = checkout.folder / "runs" / "sweep"
    array, table = checkout.submit("sweep", folder, text_recipe, "1 2")
    pause(checkout, f"{array}_1", folder / "text_seed2")
    send_signal(checkout, f"{array}_1", "USR1")
    wait_for_requeue(checkout, f"{array}_1")
    checkout.wait_for_state(table, "COMPLETED")
    for task, name in enumerate(("text_seed1", "text_seed2")):
        config = yaml.safe_load((folder / name / "config.yaml").read_text())
        assert config["seed"] == task + 1
        log = (folder / f"slurm_{task}.log").read_text()
        assert re.findall(r"== job (\S+), start (\d)", log) == [
            (f"{array}_{task}", str(number + 1)) for number in range(task + 1)
        ]
    row = next(line for line in (folder / "table.md").read_text().splitlines() if "±" in line)
    assert "| 2 |" in row


PLACES = {
    "prepare": "1 processors on nodes node1",
    "train": "2 processors on nodes node1",
    "train_multi_node": "4 processors on nodes node[1-2]",
    "evaluate": "1 processors on nodes node1",
    "sweep": "2 processors on nodes node1",
    "table": "1 processors on nodes node1",
}


@pytest.mark.parametrize("job", PLACES)
def test_when_a_job_would_start(checkout, job: str) -> None:
    checkout.set_site(GPUS_PER_NODE="2")
    result = checkout.try_submit("--test-only", job, "runs/a", "report", "1 2")
    assert (result.returncode, result.stdout) == (0, "")
    assert re.search(rf"to start at .* using {re.escape(PLACES[job])} in partition", result.stderr)


def test_gpus_that_are_not_there(checkout, text_recipe) -> None:
    """More than any node claims is refused at once; what is claimed and not there, by the job."""
    run = checkout.folder / "runs" / "run"
    checkout.set_site(GPUS_PER_NODE="4")
    result = checkout.try_submit("train", run, "--recipe", text_recipe)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == (
        "slurm/submit: error: GPUS_PER_NODE is 4 in slurm/site.sh, and no node of partition main "
        "has more than 2 of these GPUs\n"
    )
    checkout.set_site(GPUS_PER_NODE="1")
    job, _ = start(checkout, text_recipe)
    facts = checkout.wait_for_end(job)
    assert (facts["JobState"], facts["ExitCode"]) == ("FAILED", "2:0")
    assert "Slurm gave 1 GPUs of" in checkout.log(facts)


def test_what_is_not_requeued(checkout, text_recipe) -> None:
    """A mistake, and a job that its owner cancels."""
    wrong, run = start(checkout, text_recipe, "--learning_rate=-1")
    facts = checkout.wait_for_end(wrong)
    assert (facts["JobState"], facts["ExitCode"], facts["Restarts"]) == ("FAILED", "2:0", "0")
    assert "mmgenre: error: learning_rate is -1.0; it must be above 0" in checkout.log(facts)
    assert not (run / "history.jsonl").exists()

    cancelled, run = start(checkout, text_recipe)
    pause(checkout, cancelled, run)
    checkout.cluster.run("scancel", cancelled)
    facts = checkout.wait_for_end(cancelled)
    assert (facts["JobState"], facts["Restarts"]) == ("CANCELLED", "0")
