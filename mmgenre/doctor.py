"""`mmgenre doctor`: whether a training can run here, before it costs hours.

With nothing but the environment to look at it takes the time of importing torch; with the flags of
`train.py` it also reads the data, makes a few steps and writes a checkpoint, which it deletes.
"""

import json
import logging
import os
import platform
import shutil
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mmgenre.configs.arguments import DoctorArguments, TrainConfig
from mmgenre.configs.parser import flatten, parse_doctor_arguments
from mmgenre.constants import CHECKPOINTS_DIR, JOB_FILE, LAST_CHECKPOINT
from mmgenre.training.preemption import Preemption
from mmgenre.utils.errors import Preempted, UserError
from mmgenre.utils.io import replace_file
from mmgenre.utils.logging import is_main_process, set_up_logging

PACKAGES = ("torch", "torchvision", "transformers", "accelerate", "datasets", "mmgenre")
NUM_STEPS = 3  # the first is slower than the others
MAX_STARTS_WITHOUT_PROGRESS = 3
_PROBE_DIR = ".doctor"


def examine(argv: Sequence[str]) -> None:
    """Check the environment, and the training that the flags describe. Called by all processes.

    Raises:
        UserError: The first thing that would stop the training.
        Preempted: A signal came.
    """
    started = time.perf_counter()
    preemption = Preemption()
    preemption.listen()
    config, given, job = parse_doctor_arguments(argv)
    job_id = os.environ.get("SLURM_JOB_ID")
    if job_id is not None and is_main_process():
        note_start(Path(config.training.output_dir), job_id, flatten(given))

    # After what must not wait for torch.
    from mmgenre.training.accelerator import create_accelerator
    from mmgenre.training.output_dir import check_output_dir

    set_up_logging()
    logging.getLogger("mmgenre").setLevel(logging.ERROR)  # the training says the rest itself
    accelerator = create_accelerator(
        config.training.gradient_accumulation_steps, ddp_timeout=config.training.ddp_timeout
    )
    _say("versions", f"python {platform.python_version()}, {', '.join(_versions())}")
    _say("devices", _check_devices(accelerator))
    _say("precision", accelerator.mixed_precision)
    if config.data.dataset is None and config.data.prepared_dir is None:
        _say("training", "not looked at; give the flags of train.py, --dataset or --recipe first")
        return
    output_dir = check_output_dir(config.training)
    probe = Probe(preemption)
    trainer = _create_trainer(config, accelerator, output_dir, probe)
    start_up = time.perf_counter() - started
    if accelerator.num_processes > 1:
        _say("interconnect", _measure_interconnect(accelerator, trainer.model))
    folder = output_dir / _PROBE_DIR
    try:
        size = _measure_steps(trainer, folder)
    finally:
        if accelerator.is_main_process:
            shutil.rmtree(folder, ignore_errors=True)
    _say(
        "training",
        f"a step takes {probe.step_seconds:.2f} s (the first {probe.first_step_seconds:.2f}), an "
        f"epoch of {trainer.sampler.num_steps} steps {_duration(probe, trainer)}, a checkpoint "
        f"{probe.save_seconds:.1f} s and {size / 1e6:.1f} MB",
    )
    _say("disk", check_disk(output_dir, size, config.training.save_total_limit))
    _say("time", check_time(job, start_up, probe))


def note_start(output_dir: Path, job_id: str, config: dict[str, Any]) -> None:
    """Take note of a job's start, and refuse one that cannot be meant or leads nowhere.

    Args:
        config: What recipe and command line say, without what an earlier start saved.

    Raises:
        UserError: The job was requeued, and its configuration changed meanwhile, or its last starts
            all ended without a new checkpoint; or the folder cannot be written to.
    """
    file = output_dir / JOB_FILE
    config = json.loads(json.dumps(config))
    last = output_dir / CHECKPOINTS_DIR / LAST_CHECKPOINT
    checkpoint = last.resolve().name if last.exists() else None
    before = _read(file)
    idle = 0
    if before.get("job_id") == job_id:
        keys = sorted(config.keys() | before["config"].keys())
        differing = [
            f"{key} was {before['config'].get(key)!r} and is {config.get(key)!r}"
            for key in keys
            if before["config"].get(key) != config.get(key)
        ]
        if differing:
            raise UserError(
                f"job {job_id} was requeued, and its configuration changed meanwhile: "
                f"{'; '.join(differing)}; change it back, or submit a new job"
            )
        idle = before["starts_without_progress"] + 1 if before["checkpoint"] == checkpoint else 0
    if idle >= MAX_STARTS_WITHOUT_PROGRESS:
        raise UserError(
            f"job {job_id} started {idle} times from checkpoint {checkpoint} without writing a "
            "newer one; its log says what ended it, and a longer time limit may help"
        )
    entry = {
        "job_id": job_id,
        "checkpoint": checkpoint,
        "starts_without_progress": idle,
        "config": config,
    }
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
        replace_file(file, json.dumps(entry, indent=1).encode())
    except OSError as error:
        raise UserError(
            f"output_dir {str(output_dir)!r} cannot be written to ({error.strerror})"
        ) from error


def _read(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_bytes())
    except (OSError, ValueError):
        return {}


class Probe(Preemption):
    """Asks a training to stop after a few steps, and notes when it was asked whether to."""

    def __init__(self, signals: Preemption) -> None:
        super().__init__()
        self.signals = signals
        self.asked: list[float] = []
        self.ended = 0.0

    @property
    def is_requested(self) -> bool:
        self.asked.append(time.perf_counter())
        return len(self.asked) > NUM_STEPS or self.signals.is_requested

    def defer(self) -> None:
        self.signals.defer()

    @property
    def first_step_seconds(self) -> float:
        return self.asked[1] - self.asked[0]

    @property
    def step_seconds(self) -> float:
        return (self.asked[-1] - self.asked[1]) / (len(self.asked) - 2)

    @property
    def save_seconds(self) -> float:
        return self.ended - self.asked[-1]


def _create_trainer(config: TrainConfig, accelerator: Any, output_dir: Path, probe: Probe) -> Any:
    from mmgenre.data.movies import load_movies
    from mmgenre.training.accelerator import main_process_first
    from mmgenre.training.components import create_trainer, provide_data

    with main_process_first(accelerator):
        provide_data(config, output_dir)
    data, training = config.data, config.training
    movies = load_movies(data, training.seed, scratch_dir=data.scratch_dir)
    counts = ", ".join(f"{len(records):,} {name}" for name, records in movies.splits.items())
    _say("data", f"{counts} movies of {data.prepared_dir or data.dataset}")
    return create_trainer(config, accelerator, movies, output_dir, probe)


def _measure_steps(trainer: Any, folder: Path) -> int:
    """Train for a few steps and save; the checkpoint's bytes."""
    from mmgenre.training.output_dir import History

    if trainer.accelerator.is_main_process:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    trainer.checkpointer.folder = folder / CHECKPOINTS_DIR
    trainer.history = History(folder / "history.jsonl")
    trainer.num_train_epochs = NUM_STEPS
    with suppress(Preempted):
        trainer.fit()
    trainer.preemption.ended = time.perf_counter()
    if trainer.preemption.signals.is_requested:
        raise Preempted("stopped by a signal before training began; start it again")
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _versions() -> list[str]:
    return [f"{name} {version(name)}" for name in PACKAGES]


def _check_devices(accelerator: Any) -> str:
    """What the processes run on: as many GPUs as Slurm gave, and all alike."""
    import torch
    from accelerate.utils import gather_object

    expected, there = os.environ.get("SLURM_GPUS_ON_NODE"), torch.cuda.device_count()
    if expected is not None and int(expected) != there:
        raise UserError(
            f"Slurm gave {expected} GPUs of {platform.node()} to the job, and torch "
            f"{torch.__version__} sees {there}; `nvidia-smi` on the node and the CUDA version of "
            "torch say why"
        )
    is_gpu = accelerator.device.type == "cuda"
    name = torch.cuda.get_device_name(accelerator.device) if is_gpu else "CPU"
    facts = [{"node": platform.node(), "device": name, "versions": _versions()}]
    facts = gather_object(facts) if accelerator.num_processes > 1 else facts
    check_alike(facts)
    return f"{len(facts)} x {name}"


def check_alike(facts: Sequence[dict[str, Any]]) -> None:
    """See that the processes of a run have the same devices and packages.

    Args:
        facts: `node`, `device` and `versions` of each process.

    Raises:
        UserError: They have not; the slowest device would set the pace of all.
    """
    first = facts[0]
    for other in facts[1:]:
        for key, remedy in (
            ("device", "name one type in GPUS_PER_NODE of slurm/site.sh, such as a100:4"),
            ("versions", "the nodes must share one environment"),
        ):
            if other[key] != first[key]:
                here, there = (
                    ", ".join(fact[key]) if isinstance(fact[key], list) else fact[key]
                    for fact in (first, other)
                )
                raise UserError(
                    f"the processes are not alike: {here} on {first['node']} and {there} on "
                    f"{other['node']}; {remedy}"
                )


def _measure_interconnect(accelerator: Any, model: Any) -> str:
    """Time of adding up all gradients over the processes, as every step does."""
    import torch
    import torch.distributed as dist

    num = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    gradients = torch.zeros(num, device=accelerator.device)
    for _ in range(2):  # the first one connects
        dist.barrier()
        started = time.perf_counter()
        dist.all_reduce(gradients)
        gradients[0].item()
        seconds = time.perf_counter() - started
    size = 4 * num
    return (
        f"adding up {size / 1e6:.1f} MB of gradients takes {1e3 * seconds:.1f} ms "
        f"({size / 1e9 / seconds:.1f} GB/s)"
    )


def check_disk(output_dir: Path, size: int, save_total_limit: int) -> str:
    """See that a run's checkpoints fit on its disk: those it keeps, and one being written.

    Raises:
        UserError: They do not.
    """
    free = shutil.disk_usage(output_dir).free
    there = sum(1 for path in (output_dir / CHECKPOINTS_DIR).glob("*_*"))
    needed = size * max(1, save_total_limit + 1 - there)
    if free < needed:
        raise UserError(
            f"output_dir {str(output_dir)!r} has {free / 1e6:.1f} MB free, and checkpoints need "
            f"{needed / 1e6:.1f} MB; free some, lower save_total_limit or name another disk"
        )
    return f"{free / 1e9:.1f} GB free, checkpoints need {needed / 1e9:.2f}"


def check_time(job: DoctorArguments, start_up: float, probe: Probe) -> str:
    """See that a start of the job reaches a step, and can save it after the signal.

    Args:
        start_up: Seconds until the first step.

    Raises:
        UserError: It does not.
    """
    if job.time_left is None:
        return "no time limit given"
    ending = probe.step_seconds + probe.save_seconds
    if job.signal_seconds < ending:
        raise UserError(
            f"the job is asked to stop {job.signal_seconds:.0f} s before its time limit, and a "
            f"step and a checkpoint take {ending:.1f} s; raise SIGNAL_SECONDS in slurm/site.sh"
        )
    left = parse_time(job.time_left)
    if left is None:
        return "no time limit"
    # The training starts up once more, and this check took as long itself.
    needed = 2 * start_up + probe.first_step_seconds + probe.step_seconds + job.signal_seconds
    if left < needed:
        raise UserError(
            f"the time limit leaves {left:.0f} s, and {needed:.0f} are needed: "
            f"{2 * start_up:.0f} to start up, {job.signal_seconds:.0f} from the signal to the end, "
            "the rest for a step; raise TIME_LIMIT in slurm/site.sh"
        )
    return f"{left:.0f} s left, of which {left - needed:.0f} are for more steps"


def parse_time(text: str) -> float | None:
    """Seconds of a time as Slurm writes it; None without a limit.

    Raises:
        UserError: It is none.
    """
    if text in ("UNLIMITED", "NOT_SET", "INVALID"):
        return None
    days, _, clock = text.rpartition("-")
    try:
        parts = [int(part) for part in clock.split(":")]
        seconds = 0
        for part in [0] * (3 - len(parts)) + parts:
            seconds = 60 * seconds + part
        return seconds + 86400 * int(days or 0)
    except ValueError as error:
        raise UserError(
            f"time_left is {text!r}; it must be [DAYS-][HOURS:]MINUTES:SECONDS"
        ) from error


def _duration(probe: Probe, trainer: Any) -> str:
    seconds = probe.step_seconds * trainer.sampler.num_steps
    return f"{seconds:.0f} s" if seconds < 300 else f"{seconds / 60:.0f} min"


def _say(what: str, text: str) -> None:
    if is_main_process():
        print(f"{what:<14}{text}", flush=True)
