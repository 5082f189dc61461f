"""What tracking a run with W&B costs of a training step, in one table.

    python benchmarks/tracking.py [--rounds 8]

The quickstart, tracked offline: the least time of its steps over some rounds, and the mean time of
the calls that track it, which are too short to be found in the difference of two runs.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from itertools import count, islice
from pathlib import Path
from typing import Any

from mmgenre.configs.parser import flatten, parse_train_arguments
from mmgenre.data.demo import write_demo_movies
from mmgenre.data.movies import load_movies
from mmgenre.training.accelerator import create_accelerator
from mmgenre.training.components import create_trainer
from mmgenre.training.preemption import Preemption
from mmgenre.training.resources import memory_use
from mmgenre.training.trainer import Trainer
from mmgenre.utils.logging import set_up_logging

NUM_STEPS = 10  # in a round


def mean_seconds(call: Callable[[], object], repeats: int) -> float:
    started = time.perf_counter()
    for _ in range(repeats):
        call()
    return (time.perf_counter() - started) / repeats


def train(trainer: Trainer, batches: list[Any]) -> None:
    """The steps of `Trainer.train_epoch`, on batches that are there already."""
    trainer.model.train()
    trainer.loss_sum = trainer._own_loss_sum()
    trainer.throughput.start(trainer.state.num_samples)
    iterator = iter(batches)
    for step in range(len(batches)):
        trainer.train_step(iterator, step)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=8)
    rounds = parser.parse_args().rounds
    os.environ |= {"WANDB_MODE": "offline", "WANDB_SILENT": "true"}
    set_up_logging()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        config = parse_train_arguments(["--recipe", "quickstart", "--output_dir", temporary])
        config.data.dataset = str(write_demo_movies(folder / "movies"))
        config.data.dataloader_num_workers = 0
        accelerator = create_accelerator(log_with="wandb", project_dir=temporary)
        movies = load_movies(config.data, config.training.seed)
        trainer = create_trainer(config, accelerator, movies, folder, Preemption())
        tracker = trainer.tracker
        numbers = count(10**6)  # above those of the steps
        with (
            trainer._progress() as trainer.progress,
            tracker.track(flatten(config), trainer.state, trainer.history),
        ):
            batches = list(islice(trainer.loader, NUM_STEPS))
            step = min(mean_seconds(lambda: train(trainer, batches), 1) for _ in range(rounds))
            step /= NUM_STEPS
            evaluation = trainer.evaluator.evaluate(trainer.model)
            entry = {f"validation/{name}": value for name, value in evaluation.metrics.items()}

            def log_step() -> None:
                row = {f"train/value_{i}": 1 / 3 for i in range(5)}
                tracker.log_step(next(numbers), row | memory_use(accelerator.device))

            def log_epoch() -> None:
                number = next(numbers)
                tracker.log_epoch({"epoch": number, "step": number, **entry}, evaluation, True)

            step_row, epoch_row = mean_seconds(log_step, 200), mean_seconds(log_epoch, 10)
    assert next(numbers) == 10**6 + 210, "something was not tracked"
    per_row, per_epoch = trainer.logging_steps, trainer.sampler.num_steps
    share = (step_row / per_row + epoch_row / per_epoch) / step
    print("| quickstart, W&B offline | measured | limit |")
    print("|---|---:|---:|")
    print(f"| a training step, its loader apart | {1e3 * step:.1f} ms | |")
    print(f"| tracking a step, one of {per_row} | {1e3 * step_row:.2f} ms | |")
    print(
        f"| tracking an epoch, of {per_epoch} steps, with examples | {1e3 * epoch_row:.1f} ms | |"
    )
    print(f"| both, of a step | {100 * share:.2f} % | < 1 % |")


if __name__ == "__main__":
    main()
