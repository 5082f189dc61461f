"""Jobs on a real Slurm: `python -m pytest -m slurm`."""

import time
from pathlib import Path

import pytest
from processes import num_lines
from test_distributed import read_lines

pytestmark = pytest.mark.slurm


def num_epochs(run: Path) -> int:
    return num_lines(run / "history.jsonl")


def test_a_job_that_gets_a_signal(checkout, text_recipe, straight) -> None:
    run = checkout.folder / "runs" / "signal"
    (job,) = checkout.submit("train", run, "--recipe", text_recipe)
    checkout.wait(job, lambda: num_epochs(run) >= 3)
    started = time.monotonic()
    checkout.cluster.run("scancel", "--signal=USR1", job)
    checkout.wait(job, lambda: checkout.facts(job)["Restarts"] == "1")
    print("requeued after", time.monotonic() - started)
    facts = checkout.wait_for_state(job, "COMPLETED")
    print(checkout.log(facts))
    assert read_lines(run / "history.jsonl") == straight
