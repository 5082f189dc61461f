"""`accelerate launch`, as a user types it."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from tiny import ROOT

CONFIGS = ROOT / "accelerate_configs"


def start(config: str, *arguments: Any, **env: str) -> subprocess.Popen[str]:
    """Start a script with a file of `accelerate_configs/`; flags of the launcher come first."""
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    command += ["--config_file", str(CONFIGS / f"{config}.yaml"), *map(str, arguments)]
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, **env},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    """Exit status and output."""
    try:
        output, _ = process.communicate(timeout=300)
    except subprocess.TimeoutExpired:
        process.kill()
        raise
    return process.returncode, output


def launch(config: str, *arguments: Any, **env: str) -> None:
    """Run to a good end."""
    status, output = finish(start(config, *arguments, **env))
    assert status == 0, output


def launch_two(*arguments: Path | str) -> None:
    """Two processes of a script that talk over gloo."""
    port = ["--main_process_port", "0"]
    launch("cpu_2proc", *port, *arguments, ACCELERATE_USE_CPU="true")
