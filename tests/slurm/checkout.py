"""A checkout of the repository from which jobs are submitted to the test's cluster."""

import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cluster import Cluster
from tiny import ROOT

SITE = {
    "ACCOUNT": "",
    "PARTITION": "main",
    "GPUS_PER_NODE": "0",
    "TIME_LIMIT": "10",
    "ACTIVATE": f"PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH",
    "SCRATCH": "",
    "CPUS_PER_GPU": "1",
    "MIXED_PRECISION": "no",
    "SIGNAL_SECONDS": "50",
    "LAUNCHER": "srun",
}
_ENDED = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT")


class Checkout:
    """The repository with a site file of its own; its jobs run on the cluster."""

    def __init__(self, folder: Path, cluster: Cluster) -> None:
        self.folder = folder
        self.cluster = cluster
        (folder / "slurm").mkdir()
        for path in (ROOT / "slurm").iterdir():
            if path.name != "site.sh":
                (folder / "slurm" / path.name).symlink_to(path)
        for name in ("train.py", "evaluate.py", "accelerate_configs"):
            (folder / name).symlink_to(ROOT / name)
        self.set_site()

    def set_site(self, **values: str) -> None:
        lines = [f"{name}={shlex.quote(value)}" for name, value in {**SITE, **values}.items()]
        (self.folder / "slurm" / "site.sh").write_text("\n".join(lines) + "\n")

    def submit(self, *arguments: Any) -> list[str]:
        """Submit; the ids of the jobs."""
        result = self.try_submit(*arguments)
        assert result.returncode == 0, result.stderr
        return re.findall(r"as job (\d+)", result.stdout)

    def try_submit(self, *arguments: Any, **env: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["slurm/submit", *map(str, arguments)],
            cwd=self.folder,
            env={**self.cluster.env, **env},
            capture_output=True,
            text=True,
            timeout=60,
        )

    def facts(self, job: str) -> dict[str, str]:
        """What Slurm says of a job: `JobState`, `Restarts`, `ExitCode`, ..."""
        text = self.cluster.run("scontrol", "show", "--oneliner", "job", job)
        return dict(field.split("=", 1) for field in text.split() if "=" in field)

    def wait(
        self, job: str, condition: Callable[[dict[str, str]], Any], seconds: float = 240
    ) -> dict[str, str]:
        """A job's facts once they fulfil the condition, at the latest when the job has ended."""
        deadline = time.monotonic() + seconds
        while not condition(facts := self.facts(job)):
            assert facts["JobState"] not in _ENDED, self.log(facts)
            assert time.monotonic() < deadline, self.log(facts)
            time.sleep(0.2)
        return facts

    def wait_for_state(self, job: str, *states: str) -> dict[str, str]:
        return self.wait(job, lambda facts: facts["JobState"] in states)

    def wait_for_end(self, job: str) -> dict[str, str]:
        """A job's facts once it has ended, whatever way."""
        return self.wait_for_state(job, *_ENDED)

    def log(self, facts: dict[str, str]) -> str:
        path = Path(facts["StdOut"])
        return f"{facts['JobState']}\n{path.read_text() if path.exists() else 'no log'}"
