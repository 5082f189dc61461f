"""Finds how many movies fit on a device at once."""

import logging

import torch

from mmgenre.training.trainer import Trainer
from mmgenre.utils.errors import UserError

logger = logging.getLogger(__name__)


def find_batch_size(trainer: Trainer) -> None:
    """Halve the micro-batch until a forward and backward pass fits on every device.

    A step's movies stay as they are: the sampler deals them out over more rounds. Nothing of the
    training changes by this. Called by all processes.

    Raises:
        UserError: Not even a single movie fits.
    """
    sampler = trainer.sampler
    while trainer.agreement.any(not _fits(trainer)):
        if sampler.batch_size == 1:
            raise UserError("out of memory with a single movie at once; the model is too large")
        sampler.batch_size //= 2
        logger.info(
            "out of memory; trying %d movies at once, of %d in a step",
            sampler.batch_size,
            sampler.global_batch_size,
        )


def _fits(trainer: Trainer) -> bool:
    # Without DistributedDataParallel, whose collectives the other processes might not reach.
    module = trainer.accelerator.unwrap_model(trainer.model).train()
    buffers = [(buffer, buffer.clone()) for buffer in module.buffers()]
    trained = [p for p in module.parameters() if p.requires_grad]
    indices = range(min(trainer.sampler.batch_size, len(trainer.dataset)))
    try:
        # What AdamW will hold from the first step on.
        reserved = [torch.empty_like(p) for p in trained for _ in range(2)]
        batch = trainer.loader.collate_fn([trainer.dataset[i] for i in indices])
        loss = module(**trainer.to_device(batch)).loss
        # Leaves no gradient behind, and calls none of DistributedDataParallel's hooks.
        torch.autograd.grad(loss, trained, allow_unused=True)
        del reserved
    except torch.OutOfMemoryError:
        return False
    finally:
        with torch.no_grad():
            for buffer, value in buffers:  # BatchNorm's statistics
                buffer.copy_(value)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    return True
