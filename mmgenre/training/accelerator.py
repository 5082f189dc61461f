"""The only place where Accelerate is configured and its configuration meets our arguments."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from accelerate import Accelerator
from accelerate.utils import (
    DistributedDataParallelKwargs,
    DistributedType,
    GradientAccumulationPlugin,
    InitProcessGroupKwargs,
    ProjectConfiguration,
)
from torch import nn
from transformers.utils import enable_tf32

from mmgenre.configs.arguments import TrainingArguments
from mmgenre.models.base import GenrePreTrainedModel
from mmgenre.utils.errors import UserError

# What would take part of the training loop's work over, by the variable that asks for it.
_REFUSED = {
    "ACCELERATE_USE_DEEPSPEED": "DeepSpeed",
    "ACCELERATE_USE_MEGATRON_LM": "Megatron-LM",
    "ACCELERATE_USE_PARALLELISM_CONFIG": "parallelism_config",
}


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
        UserError: The launcher's configuration contradicts ours, or the hardware.
    """
    _check_launcher(gradient_accumulation_steps)
    accelerator = Accelerator(
        gradient_accumulation_plugin=GradientAccumulationPlugin(
            num_steps=1, sync_with_dataloader=False
        ),
        log_with=log_with,
        project_config=ProjectConfiguration(project_dir=project_dir, logging_dir=project_dir),
        kwargs_handlers=[
            DistributedDataParallelKwargs(
                find_unused_parameters=False,
                gradient_as_bucket_view=True,  # gradients are in memory once
            ),
            InitProcessGroupKwargs(timeout=timedelta(seconds=ddp_timeout)),
        ],
    )
    if _is_set("ACCELERATE_USE_FSDP") and accelerator.distributed_type != DistributedType.FSDP:
        raise UserError(
            "FSDP is in Accelerate's configuration, but Accelerate shards over GPUs only, and over "
            "two processes or more; use another configuration"
        )
    return accelerator


def configure_model(
    model: GenrePreTrainedModel, args: TrainingArguments, accelerator: Accelerator
) -> None:
    """Change a model in place to what options and sharding need, before `accelerator.prepare`.

    Raises:
        UserError: An option does not fit the model or the hardware.
    """
    for option in ("tf32", "sync_bn"):
        if getattr(args, option) and accelerator.device.type != "cuda":
            raise UserError(f"{option} is for GPUs, and this runs on {accelerator.device.type}")
    is_fsdp = accelerator.distributed_type == DistributedType.FSDP
    for option in ("sync_bn", "auto_find_batch_size"):
        if getattr(args, option) and is_fsdp:
            raise UserError(
                f"{option} does not go with FSDP; use accelerate_configs/multi_gpu.yaml"
            )
    if args.group_by_length and getattr(model.config, "padding", None) != "longest":
        raise UserError(
            "group_by_length saves padding, and model_config padding is "
            f"{model.config.padding!r}; it must be longest"
        )
    if is_fsdp:
        model.register_forward_pre_hook(_share_buffers)
    if args.tf32:
        enable_tf32(True)
    if args.gradient_checkpointing:
        if getattr(model, "text_encoder", None) is None:
            raise UserError("gradient_checkpointing is for a plot encoder, and the model has none")
        model.gradient_checkpointing_enable()
    if args.channels_last:
        nn.Module.to(model, memory_format=torch.channels_last)
    if args.sync_bn:
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
    if args.torch_compile:
        model.compile()  # not torch.compile, which changes the names of saved weights


def _share_buffers(model: nn.Module, inputs: object) -> None:
    """Evaluate with rank 0's batch statistics, as DistributedDataParallel does; FSDP does not."""
    if not model.training:
        for buffer in model.buffers():
            torch.distributed.broadcast(buffer, src=0)


def _check_launcher(gradient_accumulation_steps: int) -> None:
    """What Accelerate's configuration, which comes as variables, must not say."""
    for variable, name in _REFUSED.items():
        if _is_set(variable):
            raise UserError(
                f"{name} is in Accelerate's configuration; this training does not support it, use "
                "accelerate_configs/multi_gpu.yaml or fsdp.yaml"
            )
    launched = os.environ.get("ACCELERATE_GRADIENT_ACCUMULATION_STEPS", "1")
    if launched.isdecimal() and int(launched) not in (1, gradient_accumulation_steps):
        raise UserError(
            f"gradient_accumulation_steps is {launched} in Accelerate's configuration and "
            f"{gradient_accumulation_steps} here; leave it out of Accelerate's"
        )
    backend = os.environ.get("ACCELERATE_DYNAMO_BACKEND", "no")
    if backend.lower() != "no":
        raise UserError(
            f"dynamo_backend is {backend} in Accelerate's configuration, which would change the "
            "names of saved weights; leave it out there and give --torch_compile"
        )
    if _is_set("ACCELERATE_USE_FSDP") and os.environ.get("FSDP_VERSION", "1") != "2":
        raise UserError("fsdp_version is 1 in Accelerate's configuration; it must be 2")
    precision = os.environ.get("ACCELERATE_MIXED_PRECISION", "no").lower()
    has_gpu = torch.cuda.is_available() and not _is_set("ACCELERATE_USE_CPU")
    if precision == "fp8" or (precision == "fp16" and not has_gpu):
        raise UserError(
            f"mixed_precision is {precision} in Accelerate's configuration, which "
            f"{'this training does not support' if precision == 'fp8' else 'needs a GPU'}; "
            "it can be bf16 or no"
        )
    if precision == "bf16" and has_gpu and not torch.cuda.is_bf16_supported(False):
        raise UserError(
            "mixed_precision is bf16 in Accelerate's configuration, which this GPU does not have; "
            "it can be fp16 or no"
        )


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "false").lower() in ("true", "1", "yes")


@contextmanager
def main_process_first(accelerator: Accelerator) -> Iterator[None]:
    """Run the block in the main process and then in the others. Called by all processes.

    Unlike Accelerate's own it may take longer than `ddp_timeout`, and all leave together.

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
