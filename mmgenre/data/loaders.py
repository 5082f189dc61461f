"""Which movies each process sees in which step, and the loaders that bring them."""

import atexit
import logging
import math
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from mmgenre.data.dataset import MovieDataset
from mmgenre.data.records import MovieRecord
from mmgenre.utils.errors import PREEMPTION_SIGNALS, UserError

logger = logging.getLogger(__name__)

# Steps among which movies are sorted by length: enough for close lengths, few enough for chance.
STEPS_IN_A_POOL = 50


class GlobalBatchSampler(Sampler[list[int]]):
    """Micro-batches of one process, cut from global batches that do not depend on the layout.

    Step s of an epoch takes the s-th piece of a permutation that is a function of (seed, epoch)
    alone. The piece is dealt out to accumulation rounds and, within a round, to processes; any
    layout therefore trains on the same movies in the same steps.

    Args:
        size: Movies in the data set.
        global_batch_size: Movies in a step, over all processes.
        batch_size: Movies in a micro-batch at most.
        drop_last: Leave out an epoch's last step where it is smaller than the others, as the
            report does; an epoch smaller than one step is never left out.
        lengths: One a movie, to make steps of movies of similar length; None is no grouping.
    """

    def __init__(
        self,
        size: int,
        *,
        global_batch_size: int,
        batch_size: int,
        num_processes: int = 1,
        process_index: int = 0,
        seed: int = 0,
        drop_last: bool = True,
        lengths: Sequence[int] | None = None,
    ) -> None:
        self.size = size
        self.global_batch_size = global_batch_size
        self.batch_size = batch_size
        self.num_processes = num_processes
        self.process_index = process_index
        self.seed = seed
        self.drop_last = drop_last
        self.lengths = None if lengths is None else np.asarray(lengths)
        self.set_epoch(0)

    @property
    def num_steps(self) -> int:
        """Optimizer steps in an epoch."""
        whole, rest = divmod(self.size, self.global_batch_size)
        return whole if whole and (self.drop_last or not rest) else whole + 1

    def set_epoch(self, epoch: int, start_step: int = 0) -> None:
        """Choose the epoch's order; its first `start_step` steps are over already."""
        self.start_step = start_step
        generator = np.random.default_rng([self.seed, epoch])
        self._order = generator.permutation(self.size)
        if self.lengths is not None:
            self._order = group_by_length(
                self._order, self.lengths, self.global_batch_size, generator
            )

    def step_movies(self, step: int) -> np.ndarray:
        """Indices of all movies of a step, over all processes."""
        return self._order[step * self.global_batch_size : (step + 1) * self.global_batch_size]

    def micro_batches(self, step: int) -> list[list[int]]:
        """This process's micro-batches of a step; one can be empty in an epoch's last step."""
        movies = self.step_movies(step)
        rounds = math.ceil(len(movies) / (self.batch_size * self.num_processes))
        parts = np.array_split(movies, rounds * self.num_processes)
        return [part.tolist() for part in parts[self.process_index :: self.num_processes]]

    def __iter__(self) -> Iterator[list[int]]:
        for step in range(self.start_step, self.num_steps):
            for part in self.micro_batches(step):
                # All processes must run each round; an empty part runs a movie that counts nothing.
                yield part or [int(self.step_movies(step)[0])]

    def state_dict(self) -> dict[str, int]:
        names = ("size", "seed", "global_batch_size", "batch_size", "num_processes")
        return {name: getattr(self, name) for name in names}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Keep the saved global batch, so that the epoch's rest and the schedule stay.

        Raises:
            UserError: The movies or the seed are others, and with them the order.
        """
        for name, what in (("size", "training movies"), ("seed", "the seed")):
            if getattr(self, name) != state[name]:
                raise UserError(
                    f"the checkpoint belongs to an order of movies that is gone: {what} were "
                    f"{state[name]} and are {getattr(self, name)} now"
                )
        now = self.state_dict()
        self.global_batch_size = state["global_batch_size"]
        if now != state:
            logger.info(
                "steps stay at %d movies, as before; they are now laid out over %d processes with "
                "at most %d movies at once (before: %d with %d)",
                self.global_batch_size,
                self.num_processes,
                self.batch_size,
                state["num_processes"],
                state["batch_size"],
            )


def group_by_length(
    order: np.ndarray, lengths: np.ndarray, step_size: int, generator: np.random.Generator
) -> np.ndarray:
    """Reorder a permutation so that the movies of a step are of similar length.

    Pools of `STEPS_IN_A_POOL` steps are sorted, cut into steps, and these are shuffled: a movie is
    in any step of its pool with equal chance, and lengths have no trend over an epoch. A smaller
    last step stays as it is, so that it is no choice of the longest or shortest movies.
    """
    whole = len(order) - len(order) % step_size
    parts = []
    for start in range(0, whole, STEPS_IN_A_POOL * step_size):
        pool = order[start : min(whole, start + STEPS_IN_A_POOL * step_size)]
        pool = pool[np.argsort(lengths[pool], kind="stable")]
        parts.append(generator.permutation(pool.reshape(-1, step_size)).reshape(-1))
    return np.concatenate([*parts, order[whole:]])


def text_lengths(records: Sequence[MovieRecord]) -> list[int]:
    """Tokens of each plot where they are stored, otherwise its words, which stand for them."""
    return [
        len((record.plot or "").split()) if record.tokens is None else len(record.tokens.read())
        for record in records
    ]


def create_train_loader(
    dataset: MovieDataset,
    sampler: GlobalBatchSampler,
    collate: Callable[..., dict[str, torch.Tensor]],
    num_workers: int,
) -> DataLoader[Any]:
    """Loader over this process's micro-batches; `accelerator.prepare` would cut them again."""
    atexit.register(_kill_workers)
    return DataLoader(
        dataset,
        batch_sampler=sampler,
        collate_fn=collate,
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_start_worker,
    )


def create_eval_loader(
    dataset: MovieDataset,
    batch_size: int,
    collate: Callable[..., dict[str, torch.Tensor]],
    num_workers: int,
) -> DataLoader[Any]:
    """Loader over all movies in order, for `accelerator.prepare`."""
    return DataLoader(
        dataset,
        batch_size=batch_size,
        collate_fn=collate,
        num_workers=num_workers,
        pin_memory=torch.cuda.is_available(),
        worker_init_fn=_start_worker,
    )


def _kill_workers() -> None:
    # A crash leaves them to multiprocessing, which would wait for ever: they ignore its SIGTERM.
    for worker in multiprocessing.active_children():
        worker.kill()


def _start_worker(worker: int) -> None:
    # These go to the whole process group; a worker that dies of one breaks the main process's
    # orderly end with an error of its own.
    for number in PREEMPTION_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    torch.set_num_threads(1)
