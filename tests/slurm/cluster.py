"""A real Slurm of two nodes on this one host, with all its state in one folder.

Needs Debian's `slurmctld slurmd slurm-client munge`. No systemd, no cgroups, no accounting; it
listens on 127.0.0.1 alone. Each node has two cores and claims two GPUs that are not there.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

NODES = ("node1", "node2")
_DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch")
_PATH = os.pathsep.join([os.environ["PATH"], "/usr/sbin", "/sbin"])

_CONFIG = """\
ClusterName=local
FirstJobId={first_job}
# The host's own name; what is bound is the address in parentheses.
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
# cred_expire, by default 120 s, is also how long a requeued job waits before it starts.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=none
SwitchType=switch/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
PriorityType=priority/basic
SlurmdParameters=config_overrides
GresTypes=gpu
JobRequeue=1
KillWait=10
# Two partitions on the same nodes, of which one takes them from the other.
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=0
MinJobAge=600
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdSpoolDir={folder}/spool.%n
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdLogFile={folder}/slurmd.%n.log
NodeName=node1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} {node}
NodeName=node2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} {node}
PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=2 PreemptMode=OFF
"""
_NODE = "CPUs=2 RealMemory=4000 Gres=gpu:2 State=UNKNOWN"


class CannotStart(Exception):
    """Slurm is not installed, or does not start here; the text says which."""


def missing() -> list[str]:
    """The programs that are not installed."""
    return [name for name in _DAEMONS if shutil.which(name, path=_PATH) is None]


class Cluster:
    """A running cluster, from `start` to `stop`; its commands are run by `run`.

    Args:
        folder: With a short path; others must not be able to write to it.
        first_job: Jobs are numbered from it. Those of two clusters on this host must differ, as
            jobs choose their ports by it.
    """

    def __init__(self, folder: Path, first_job: int) -> None:
        self.folder = folder
        self.first_job = first_job
        self.env = {**os.environ, "PATH": _PATH, "SLURM_CONF": str(folder / "slurm.conf")}
        self.daemons: dict[str, subprocess.Popen] = {}

    def start(self) -> None:
        """Start the daemons and wait for both nodes.

        Raises:
            CannotStart: With the reason in one sentence; nothing is left running.
        """
        if missing():
            raise CannotStart(f"Slurm is not installed ({', '.join(missing())} missing)")
        try:
            self._configure()
            munge = self.folder / "munge.socket"
            self._launch(
                "munged", "--foreground", f"--key-file={self.folder}/munge.key",
                f"--socket={munge}", f"--pid-file={self.folder}/munged.pid",
                f"--log-file={self.folder}/munged.log", f"--seed-file={self.folder}/munge.seed",
            )  # fmt: skip
            self._wait("munged", munge.exists)
            self._launch("slurmctld", "-D")
            self._wait("slurmctld", lambda: self._answers("scontrol", "ping"))
            for node in NODES:
                self.start_node(node)
        except (OSError, subprocess.SubprocessError) as error:
            self.stop()
            raise CannotStart(f"Slurm does not start here ({error})") from error
        except CannotStart:
            self.stop()
            raise

    def stop(self) -> None:
        """End all jobs and daemons."""
        if "slurmctld" in self.daemons:
            self.cancel_jobs()
        for node in NODES:
            self._kill_processes_of(node)
        for daemon in reversed(self.daemons.values()):
            daemon.terminate()
        for daemon in self.daemons.values():
            daemon.wait(timeout=30)
        self.daemons.clear()

    def start_node(self, node: str) -> None:
        """Start a node that is not running, and wait until it takes jobs."""
        self._launch(f"slurmd.{node}", "-D", "-N", node)
        state = ["sinfo", "--noheader", "--partition=main", f"--nodes={node}", "--format=%T"]
        self._wait(f"slurmd.{node}", lambda: self.run(*state) == "idle")

    def crash(self, node: str) -> None:
        """What a node is after a power cut, once the controller has noticed."""
        daemon = self.daemons.pop(f"slurmd.{node}")
        daemon.kill()
        daemon.wait()
        self._kill_processes_of(node)
        self.run("scontrol", "update", f"nodename={node}", "state=down", "reason=crashed")

    def cancel_jobs(self) -> None:
        subprocess.run(["scancel", "--user", str(os.getuid())], env=self.env, check=False)

    def trainings_of(self, job: str) -> list[int]:
        """The processes of a job that train."""
        return [
            process
            for process, command, environment in self._processes()
            if command[1:2] == ["train.py"] and f"SLURM_JOB_ID={job}" in environment
        ]

    def run(self, *command: str) -> str:
        """The output of a Slurm command."""
        result = subprocess.run(
            command, env=self.env, capture_output=True, text=True, timeout=60, check=False
        )
        assert result.returncode == 0, (command, result.stderr)
        return result.stdout.strip()

    def _configure(self) -> None:
        # The daemons refuse folders that others can write to.
        self.folder.chmod(0o755)
        (self.folder / "state").mkdir(mode=0o700)
        for node in NODES:
            (self.folder / f"spool.{node}").mkdir(mode=0o755)
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        text = _CONFIG.format(
            host=socket.gethostname().split(".")[0],
            user=subprocess.run(
                ["id", "-un"], capture_output=True, text=True, check=True
            ).stdout.strip(),
            ports=[_free_port() for _ in range(3)],
            folder=self.folder,
            first_job=self.first_job,
            node=_NODE,
        )
        (self.folder / "slurm.conf").write_text(text)
        # The one value that Slurm 22.05 takes where there are no cgroups to use.
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        # Two files that are on every machine stand in for the devices.
        (self.folder / "gres.conf").write_text("Name=gpu File=/dev/null,/dev/zero\n")

    def _launch(self, name: str, *arguments: str) -> None:
        with (self.folder / f"{name}.out").open("a") as log:
            self.daemons[name] = subprocess.Popen(
                [name.partition(".")[0], *arguments],
                env=self.env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _answers(self, *command: str) -> bool:
        return subprocess.run(command, env=self.env, capture_output=True).returncode == 0

    def _wait(self, name: str, condition: Callable[[], Any]) -> None:
        deadline = time.monotonic() + 30
        while not condition():
            if self.daemons[name].poll() is not None or time.monotonic() > deadline:
                lines = (self.folder / f"{name}.out").read_text().splitlines() or ["no output"]
                raise CannotStart(f"{name} does not start here: {lines[-1]}")
            time.sleep(0.1)

    def _kill_processes_of(self, node: str) -> None:
        """Of its jobs, and those that watch over them."""
        for process, command, environment in self._processes():
            is_watcher = Path(command[0]).name.startswith("slurmstepd")
            if is_watcher or f"SLURMD_NODENAME={node}" in environment:
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)

    def _processes(self) -> Iterator[tuple[int, list[str], list[str]]]:
        """Id, command and environment of what runs on this cluster and no other."""
        for process in Path("/proc").glob("[0-9]*"):
            try:
                environment = (process / "environ").read_text(errors="replace").split("\0")
                command = (process / "cmdline").read_text(errors="replace").split("\0")
            except OSError:
                continue
            if f"SLURM_CONF={self.env['SLURM_CONF']}" in environment:
                yield int(process.name), command, environment


def _free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]
