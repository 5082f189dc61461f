"""The only place where Accelerate is configured."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import (
    DistributedDataParallelKwargs,
    GradientAccumulationPlugin,
    InitProcessGroupKwargs,
    ProjectConfiguration,
)

from mmgenre.utils.errors import UserError

# Longer than any single step or evaluation batch; a rank that is gone is noticed after it.
PROCESS_GROUP_TIMEOUT = timedelta(minutes=30)


def create_accelerator(
    gradient_accumulation_steps: int = 1,
    log_with: str | None = None,
    project_dir: str | None = None,
) -> Accelerator:
    """An `Accelerator` as the launcher and its YAML file describe it.

    The trainer accumulates by itself, because Accelerate's division by the number of micro-batches
    is wrong for a smaller last step; so Accelerate is told of one.

    Raises:
        UserError: The launcher's own accumulation contradicts `gradient_accumulation_steps`.
    """
    launched = os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    if launched.isdecimal() and int(launched) not in (1, gradient_accumulation_steps):
        raise UserError(
            f"gradient_accumulation_steps is {launched} in Accelerate's configuration and "
            f"{gradient_accumulation_steps} here; leave it out of Accelerate's"
        )
    return Accelerator(
        gradient_accumulation_plugin=GradientAccumulationPlugin(
            num_steps=1, sync_with_dataloader=False
        ),
        log_with=log_with,
        project_config=ProjectConfiguration(project_dir=project_dir, logging_dir=project_dir),
        kwargs_handlers=[
            DistributedDataParallelKwargs(find_unused_parameters=False),
            InitProcessGroupKwargs(timeout=PROCESS_GROUP_TIMEOUT),
        ],
    )


@contextmanager
def main_process_first(accelerator: Accelerator) -> Iterator[None]:
    """Run the block in the main process and then in the others. Called by all processes.

    Unlike Accelerate's own it may take longer than `PROCESS_GROUP_TIMEOUT`, and all leave together.

    Raises:
        UserError: Another process ended before it had run the block.
    """
    if accelerator.num_processes == 1:
        yield
        return
    # gloo notices at once when a process is gone, so that the time limit need not.
    group = dist.new_group(backend="gloo", timeout=timedelta(days=30))
    assert isinstance(group, dist.ProcessGroup)

    def wait() -> None:
        try:
            dist.barrier(group)
        except RuntimeError as error:
            raise UserError("another process ended before the data was ready") from error

    if not accelerator.is_main_process:
        wait()
    yield
    if accelerator.is_main_process:
        wait()
    wait()
    dist.destroy_process_group(group)
