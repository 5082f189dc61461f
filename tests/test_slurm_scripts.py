"""The scripts of slurm/ where there is no Slurm: their syntax, and mistakes before a job is queued.

On a cluster they are tested in tests/slurm/.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tiny import ROOT

FOLDER = ROOT / "slurm"
EXAMPLE = (FOLDER / "site.example.sh").read_text()
SCRIPTS = sorted(path for path in FOLDER.iterdir() if path.name not in ("README.md", "site.sh"))
PATH = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])


@pytest.mark.skipif(shutil.which("shellcheck", path=PATH) is None, reason="needs shellcheck")
@pytest.mark.parametrize("script", [*SCRIPTS, ROOT / ".ci" / "run"], ids=lambda path: path.name)
def test_shellcheck(script: Path) -> None:
    result = subprocess.run(
        ["shellcheck", "--external-sources", script],
        cwd=ROOT,
        env={**os.environ, "PATH": PATH},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout


def test_six_lines_are_to_be_filled_in() -> None:
    first, _ = EXAMPLE.split("# These can stay as they are.")
    assert sum("=" in line for line in first.splitlines() if not line.startswith("#")) == 6


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    shutil.copytree(FOLDER, tmp_path / "slurm", ignore=shutil.ignore_patterns("site.sh"))
    return tmp_path


def fill_in(checkout: Path, **values: str) -> None:
    lines = [EXAMPLE, "ACCOUNT=''", "PARTITION=gpu", "GPUS_PER_NODE=0"]
    lines += [f"{name}='{value}'" for name, value in values.items()]
    (checkout / "slurm" / "site.sh").write_text("\n".join(lines) + "\n")


def submit(checkout: Path, *arguments: str) -> tuple[int, str]:
    result = subprocess.run(
        ["slurm/submit", *arguments], cwd=checkout, capture_output=True, text=True
    )
    assert result.stdout == ""
    return result.returncode, result.stderr


def test_without_a_site_file(checkout: Path) -> None:
    assert submit(checkout, "train", "runs/a") == (
        2,
        f"slurm/submit: error: there is no slurm/site.sh in {checkout}; be in the repository's "
        "folder, copy slurm/site.example.sh to slurm/site.sh and fill it in\n",
    )


def test_a_site_file_that_is_not_filled_in(checkout: Path) -> None:
    (checkout / "slurm" / "site.sh").write_text(EXAMPLE.replace("ACCOUNT=FILL_IN", "ACCOUNT=a"))
    sentence = "slurm/submit: error: PARTITION is not filled in in slurm/site.sh\n"
    assert submit(checkout, "train", "runs/a") == (2, sentence)


SUBMISSIONS = {
    "GPUS_PER_NODE": (
        {"GPUS_PER_NODE": "four"},
        ["train", "runs/a"],
        "GPUS_PER_NODE is 'four' in slurm/site.sh; it must be a number, or a type and a number "
        "such as a100:4",
    ),
    "job": (
        {},
        ["tain", "runs/a"],
        "there is no job 'tain'; there are prepare, train, train_multi_node, evaluate and sweep",
    ),
    "arguments": (
        {},
        ["sweep", "runs/a", "report"],
        "sweep takes 3 arguments at least; slurm/sweep.sbatch has them",
    ),
    "folder": (
        {},
        ["train", "slurm/submit/run"],
        "slurm/submit/run cannot be written to; name a folder that can, on a disk that all nodes "
        "see",
    ),
}


@pytest.mark.parametrize("name", SUBMISSIONS)
def test_a_mistake_is_found_before_the_job_is_queued(checkout: Path, name: str) -> None:
    site, arguments, sentence = SUBMISSIONS[name]
    fill_in(checkout, **site)
    assert submit(checkout, *arguments) == (2, f"slurm/submit: error: {sentence}\n")


@pytest.mark.parametrize(
    ("activate", "sentence"),
    [
        (
            "true",
            "there is no command mmgenre after ACTIVATE of slurm/site.sh, which is: true",
        ),
        (
            "source missing/bin/activate 2>/dev/null",
            "ACTIVATE fails in slurm/site.sh: source missing/bin/activate 2>/dev/null",
        ),
    ],
    ids=["no mmgenre", "no environment"],
)
def test_an_environment_that_is_not_activated(checkout: Path, activate: str, sentence: str) -> None:
    fill_in(checkout, ACTIVATE=activate)
    env = {"PATH": "/usr/bin:/bin", "SLURM_JOB_NAME": "train", "SLURM_JOB_ID": "1"}
    result = subprocess.run(
        ["bash", "slurm/train.sbatch", "runs/a"],
        cwd=checkout,
        env=env,
        capture_output=True,
        text=True,
    )
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr == f"train: error: {sentence}\n"
