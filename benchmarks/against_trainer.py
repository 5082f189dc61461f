"""Our loop against Hugging Face's `Trainer`: one table of steps a second and peak memory.

    python benchmarks/against_trainer.py [--movies 1000] [--rounds 3]

Both train the quickstart's model with the same AdamW settings, gradient clipping and data path, on
the same movies, batch and number of steps, each in a process of its own that takes turns with the
other; without evaluation, checkpoints and trackers. The best round counts. Peak memory is the
process's largest resident set on a CPU, and the allocator's peak on a GPU.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from mmgenre.configs.parser import parse_train_arguments
from mmgenre.data.demo import write_demo_movies
from mmgenre.data.movies import load_movies
from mmgenre.training.accelerator import create_accelerator
from mmgenre.training.components import create_trainer
from mmgenre.training.preemption import Preemption
from mmgenre.training.trainer import Trainer

WARM_UP = 3  # steps


def create(folder: Path) -> Trainer:
    config = parse_train_arguments(["--recipe", "quickstart", "--output_dir", str(folder)])
    config.data.dataset = str(folder)
    config.data.dataloader_num_workers = 0
    config.training.logging_steps = 10**9
    movies = load_movies(config.data, config.training.seed)
    return create_trainer(config, create_accelerator(), movies, folder, Preemption())


class Clock:
    """Seconds from the end of the warm-up on: on a CPU the process's own, which other programs
    disturb less."""

    now = staticmethod(time.perf_counter if torch.cuda.is_available() else time.process_time)

    def __init__(self) -> None:
        self.steps = 0
        self.started = 0.0

    def tick(self) -> None:
        self.steps += 1
        if self.steps == WARM_UP:
            self.started = self.now()

    def rate(self) -> float:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return (self.steps - WARM_UP) / (self.now() - self.started)


def run_ours(trainer: Trainer) -> float:
    clock = Clock()
    trainer.optimizer.optimizer.register_step_post_hook(lambda *_: clock.tick())
    with trainer._progress() as trainer.progress:
        trainer.start_epoch()
        trainer.train_epoch()
    return clock.rate()


def run_theirs(trainer: Trainer, folder: Path) -> float:
    from transformers import Trainer as HFTrainer
    from transformers import TrainerCallback, TrainingArguments

    clock = Clock()

    class Ticks(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            clock.tick()

    def collate(samples: Any) -> dict[str, torch.Tensor]:
        return trainer.to_device(trainer.loader.collate_fn(samples))

    arguments = TrainingArguments(
        output_dir=str(folder / "hf"),
        max_steps=trainer.sampler.num_steps,
        per_device_train_batch_size=trainer.sampler.batch_size,
        learning_rate=4e-4,
        weight_decay=1e-5,
        max_grad_norm=trainer.max_grad_norm,
        lr_scheduler_type="constant",
        optim="adamw_torch_fused",
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        remove_unused_columns=False,
        dataloader_num_workers=0,
        disable_tqdm=True,
    )
    theirs = HFTrainer(
        model=trainer.accelerator.unwrap_model(trainer.model),
        args=arguments,
        train_dataset=trainer.dataset,
        data_collator=collate,
        callbacks=[Ticks()],
    )
    theirs.train()
    return clock.rate()


def measure(who: str, folder: Path) -> None:
    trainer = create(folder)
    rate = run_ours(trainer) if who == "ours" else run_theirs(trainer, folder)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated() / 2**20
    print(json.dumps([rate, peak]))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--movies", type=int, default=1000, help="of which two thirds are trained")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measure", nargs=2, metavar=("WHO", "FOLDER"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.measure:
        measure(args.measure[0], Path(args.measure[1]))
        return
    rates: dict[str, list[float]] = {"ours": [], "theirs": []}
    peaks: dict[str, list[float]] = {"ours": [], "theirs": []}
    with tempfile.TemporaryDirectory() as folder:
        write_demo_movies(Path(folder), num_movies=args.movies)
        for _ in range(args.rounds):
            for who in rates:
                command = [sys.executable, __file__, "--measure", who, folder]
                result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
                rate, peak = json.loads(result.stdout.splitlines()[-1])
                rates[who].append(rate)
                peaks[who].append(peak)
    print("| quickstart, batch 16 | ours | HF Trainer | ratio | limit |")
    print("|---|---:|---:|---:|---|")
    ours, theirs = max(rates["ours"]), max(rates["theirs"])
    print(f"| steps a second | {ours:.2f} | {theirs:.2f} | {ours / theirs:.3f} | >= 1 |")
    ours, theirs = min(peaks["ours"]), min(peaks["theirs"])
    print(f"| peak memory, MiB | {ours:.0f} | {theirs:.0f} | {ours / theirs:.3f} | <= 1 |")


if __name__ == "__main__":
    main()
