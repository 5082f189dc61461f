"""Real processes of one run, started as `srun` would: without a launcher of their own."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tiny import ROOT

TOY = ROOT / "tests" / "toy.py"


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def rank_environments(num_processes: int) -> list[dict[str, str]]:
    """What torch reads; nothing for one process."""
    if num_processes == 1:
        return [{}]
    common = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(free_port()),
        "WORLD_SIZE": str(num_processes),
        "ACCELERATE_USE_CPU": "true",
    }
    return [{**common, "RANK": str(i), "LOCAL_RANK": str(i)} for i in range(num_processes)]


def start(
    num_processes: int,
    script: Path,
    *arguments: Any,
    stderr: int = subprocess.PIPE,
    start_new_session: bool = False,
    **env: str,
) -> list[subprocess.Popen]:
    return [
        subprocess.Popen(
            [sys.executable, str(script), *map(str, arguments)],
            cwd=ROOT,
            env={**os.environ, **env, **rank},
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            start_new_session=start_new_session,
        )
        for rank in rank_environments(num_processes)
    ]


def finish(processes: list[subprocess.Popen], timeout: float = 120) -> list[tuple[int, str]]:
    """Exit status and standard error of each."""
    results = []
    for process in processes:
        try:
            _, errors = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            for other in processes:
                other.kill()
            raise
        results.append((process.returncode, errors))
    return results


def wait_for(condition: Callable[[], Any], process: subprocess.Popen, seconds: float = 90) -> Any:
    """Until the condition is true, of a process that must live on."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    return value


def num_lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def read_lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.open()]


def run(num_processes: int, script: Path, *arguments: Any, **env: str) -> None:
    for status, errors in finish(start(num_processes, script, *arguments, **env)):
        assert status == 0, errors
