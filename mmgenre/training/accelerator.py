"""The only place where Accelerate is configured."""

import os
from datetime import timedelta

from accelerate import Accelerator
from accelerate.utils import (
    DistributedDataParallelKwargs,
    GradientAccumulationPlugin,
    InitProcessGroupKwargs,
    ProjectConfiguration,
)

from mmgenre.utils.errors import UserError


def create_accelerator(
    gradient_accumulation_steps: int = 1,
    log_with: str | None = None,
    project_dir: str | None = None,
    ddp_timeout: float = 1800,
) -> Accelerator:
    """An `Accelerator` as the launcher and its YAML file describe it.

    The trainer accumulates by itself, because Accelerate's division by the number of micro-batches
    is wrong for a smaller last step; so Accelerate is told of one.

    Args:
        ddp_timeout: Seconds until a process that does not answer counts as lost.

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
            InitProcessGroupKwargs(timeout=timedelta(seconds=ddp_timeout)),
        ],
    )
