"""Which movies each process sees in which step, and the loaders that bring them."""

import math
import signal
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from mmgenre.data.dataset import MovieDataset
from mmgenre.data.records import MovieRecord

# Steps among which movies are sorted by length: enough for close lengths, few enough for chance.
STEPS_IN_A_POOL = 50


class GlobalBatchSampler(Sampler[list[int]]):
    """Micro-batches of one process, cut from global batches that do not depend on the layout.

    Step s of an epoch takes the s-th piece of a permutation that is a function of (seed, epoch)
    alone. The piece is dealt out to accumulation rounds and, within a round, to processes; any
    layout with the same global batch therefore trains on the same movies in the same steps.

    Args:
        size: Movies in the data set.
        batch_size: Movies in a micro-batch.
        accumulation: Micro-batches of a process in a step.
        drop_last: Leave out an epoch's last step where it is smaller than the others, as the
            report does; an epoch smaller than one step is never left out.
        lengths: One a movie, to make steps of movies of similar length; None is no grouping.
    """

    def __init__(
        self,
        size: int,
        *,
        batch_size: int,
        accumulation: int = 1,
        num_processes: int = 1,
        process_index: int = 0,
        seed: int = 0,
        drop_last: bool = True,
        lengths: Sequence[int] | None = None,
    ) -> None:
        self.size = size
        self.batch_size = batch_size
        self.num_processes = num_processes
        self.process_index = process_index
        self.seed = seed
        self.lengths = None if lengths is None else np.asarray(lengths)
        self.global_batch_size = batch_size * accumulation * num_processes
        self.num_steps = math.ceil(size / self.global_batch_size)
        if drop_last and self.num_steps > 1 and size % self.global_batch_size:
            self.num_steps -= 1
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
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
        for step in range(self.num_steps):
            for part in self.micro_batches(step):
                # All processes must run each round; an empty part runs a movie that counts nothing.
                yield part or [int(self.step_movies(step)[0])]


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
    """Words of each plot, which stand for its tokens."""
    return [len((record.plot or "").split()) for record in records]


def create_train_loader(
    dataset: MovieDataset,
    sampler: GlobalBatchSampler,
    collate: Callable[..., dict[str, torch.Tensor]],
    num_workers: int,
) -> DataLoader[Any]:
    """Loader over this process's micro-batches; `accelerator.prepare` would cut them again."""
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


def _start_worker(worker: int) -> None:
    # Ctrl-C goes to the whole process group; a worker that dies of it breaks the main process's
    # orderly end with an error of its own.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
