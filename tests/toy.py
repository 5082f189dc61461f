"""A linear model on random numbers, to test the training loop with something that is no system.

As a script it trains one run after the other: `toy.py '[["FOLDER", {"batch_size": 2}]]'`.
"""

import json
import os
import resource
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import save_file
from torch import distributed as dist
from torch import nn
from torch.utils.data import DataLoader, Dataset, default_collate

from mmgenre.configs.arguments import TrackingArguments
from mmgenre.data.loaders import GlobalBatchSampler, create_train_loader
from mmgenre.data.records import MovieRecord
from mmgenre.evaluation.evaluator import Evaluator
from mmgenre.training.accelerator import create_accelerator
from mmgenre.training.agreement import Agreement
from mmgenre.training.checkpointing import Checkpointer
from mmgenre.training.early_stopping import EarlyStopping
from mmgenre.training.memory import find_batch_size
from mmgenre.training.optimization import LateEncoders
from mmgenre.training.output_dir import History
from mmgenre.training.preemption import Preemption
from mmgenre.training.schedulers import LearningRateSchedule, warmup_by_epoch
from mmgenre.training.tracking import Tracker
from mmgenre.training.trainer import Trainer
from mmgenre.utils.errors import Preempted, exit_on_user_error
from mmgenre.utils.logging import set_up_logging

NUM_FEATURES, NUM_LABELS = 6, 3


class ToyDataset(Dataset):
    def __init__(self, num_movies: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.features = torch.randn(num_movies, NUM_FEATURES, generator=generator)
        rule = torch.randn(NUM_FEATURES, NUM_LABELS, generator=torch.Generator().manual_seed(0))
        self.labels = (self.features @ rule > 0.5).float()
        self.records = [MovieRecord(f"toy{i}", None, (), None) for i in range(num_movies)]
        self.epoch = 0
        self.seen: dict[int, list[int]] = {}  # epoch to movies, in the order they were asked for

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.seen.setdefault(self.epoch, []).append(index)
        return {"x": self.features[index], "labels": self.labels[index], "index": index}


class ToyModel(nn.Module):
    """No batch normalisation: its gradient is a mean over movies."""

    def __init__(self, hidden: int, dropout: float, max_movies: int | None) -> None:
        super().__init__()
        self.max_movies = max_movies
        self.layers = nn.Sequential(
            nn.Linear(NUM_FEATURES, hidden),
            nn.Tanh(),
            nn.Dropout(dropout),
            nn.Linear(hidden, NUM_LABELS),
        )

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> SimpleNamespace:
        if self.max_movies is not None and self.training and len(x) > self.max_movies:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB.\nMore.")
        logits = self.layers(x)
        loss = None if labels is None else self.genre_loss(logits, labels)
        return SimpleNamespace(logits=logits, loss=loss)

    def genre_loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return nn.functional.binary_cross_entropy_with_logits(logits, labels)

    def save_pretrained(self, folder: Path, state_dict: dict[str, torch.Tensor]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        save_file(state_dict, folder / "model.safetensors")


class ToyProcessor:
    def save_pretrained(self, folder: Path) -> None:
        (folder / "processor.json").write_text("{}", encoding="utf-8")


class ToyTrainer(Trainer):
    """Writes down which movies each process's steps really got, as `[step, movies]`.

    Args:
        stop_after: Step after which the run is asked to stop, as by a signal.
        hang_at: Step that never ends; files say that it began and that a signal came.
    """

    def __init__(
        self, *, folder: Path, stop_after: int | None, hang_at: int | None, **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self.folder = folder
        self.movies: list[int] = []
        self.hang_at = hang_at
        self.stop_after = stop_after
        rank = self.accelerator.process_index
        self.consumed = (folder / f"consumed{rank}.jsonl").open("a", buffering=1)

    def train_step(self, batches: Iterator[Any], step: int) -> None:
        if self.state.step == self.hang_at:
            self._hang()
        self.movies = []
        self.size = len(sum(self.sampler.micro_batches(step), []))
        super().train_step(batches, step)
        # without the movie that stands in where a process has none
        line = [self.state.step, self.movies[: self.size]]
        self.consumed.write(json.dumps(line) + "\n")
        if self.state.step == self.stop_after:
            self.preemption = Preemption()  # of this run alone, where several share a process
            self.preemption.signal = signal.SIGTERM

    def _hang(self) -> None:
        (self.folder / "hangs").touch()
        while True:
            time.sleep(0.01)
            if self.preemption.is_requested:
                (self.folder / "interrupted").touch()

    def to_device(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        self.movies += batch["index"].tolist()
        return super().to_device(batch)


def create_trainer(
    folder: Path,
    *,
    batch_size: int = 8,
    accumulation: int = 1,
    num_movies: int = 40,
    drop_last: bool = False,
    num_train_epochs: int = 2,
    patience: int = 100,
    learning_rate: float = 1.0,
    warmup_epochs: int = 0,
    max_grad_norm: float | None = None,
    optimizer: str = "SGD",
    save_total_limit: int = 2,
    hidden: int = 5,
    dropout: float = 0.0,
    max_movies: int | None = None,
    poisoned: Sequence[int] = (),
    file_size_limit: int | None = None,
    save_steps: int | None = None,
    max_nonfinite_steps: int = 10,
    num_workers: int = 0,
    ddp_timeout: float = 60,
    preemption: Preemption | None = None,
    stop_after: int | None = None,
    hang_at: int | None = None,
    report_to: str | None = None,
) -> ToyTrainer:
    """A `Trainer` of the toy. With SGD a wrong factor on the gradient shows; with AdamW not.

    Args:
        max_movies: More at once are out of memory.
        poisoned: Movies whose loss is not a number.
        file_size_limit: Bytes that a file can have in this process, as on a full disk.
    """
    folder.mkdir(parents=True, exist_ok=True)
    accelerator = create_accelerator(
        log_with=report_to, project_dir=str(folder), ddp_timeout=ddp_timeout
    )
    torch.manual_seed(0)
    model = ToyModel(hidden, dropout, max_movies)
    groups = [{"name": "all", "params": list(model.parameters())}]
    created = getattr(torch.optim, optimizer)(groups, lr=learning_rate)
    dataset, validation = ToyDataset(num_movies, seed=1), ToyDataset(13, seed=2)
    dataset.features[list(poisoned)] = torch.nan
    if file_size_limit is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size_limit, file_size_limit))
    sampler = GlobalBatchSampler(
        num_movies,
        global_batch_size=batch_size * accumulation * accelerator.num_processes,
        batch_size=batch_size,
        num_processes=accelerator.num_processes,
        process_index=accelerator.process_index,
        drop_last=drop_last,
    )
    agreement = Agreement(accelerator, timedelta(seconds=ddp_timeout))
    prepared_model, prepared_optimizer = accelerator.prepare(model, created)
    evaluator = Evaluator(
        accelerator, DataLoader(validation, batch_size=4), [f"g{i}" for i in range(NUM_LABELS)]
    )
    return ToyTrainer(
        folder=folder,
        stop_after=stop_after,
        hang_at=hang_at,
        accelerator=accelerator,
        model=prepared_model,
        processor=ToyProcessor(),
        optimizer=prepared_optimizer,
        schedule=LearningRateSchedule(
            created, warmup_by_epoch(warmup_epochs), plateau_factor=0.2, plateau_patience=2
        ),
        late_encoders=LateEncoders(model, {}),
        early_stopping=EarlyStopping(patience, 0.001),
        dataset=dataset,
        sampler=sampler,
        loader=create_train_loader(dataset, sampler, default_collate, num_workers),
        batch_transform=nn.Identity(),
        evaluator=evaluator,
        checkpointer=Checkpointer(accelerator, agreement, folder / "checkpoints", save_total_limit),
        history=History(folder / "history.jsonl"),
        tracker=Tracker(accelerator, agreement, TrackingArguments(), folder, evaluator),
        num_train_epochs=num_train_epochs,
        metric_for_best_model="f1_macro",
        agreement=agreement,
        preemption=preemption or Preemption(),
        max_grad_norm=max_grad_norm,
        logging_steps=1 if report_to else 50,
        save_steps=save_steps,
        max_nonfinite_steps=max_nonfinite_steps,
    )


def fit(
    folder: Path, *, resume: str | None = None, **kwargs: Any
) -> tuple[torch.Tensor, list[dict[str, float]]]:
    """Train; all parameters as one vector, and the history."""
    trainer = create_trainer(folder, **kwargs)
    trainer.resume(resume)
    if trainer.accelerator.unwrap_model(trainer.model).max_movies is not None:
        find_batch_size(trainer)
    with (
        suppress(Preempted) if trainer.stop_after else nullcontext(),
        trainer.tracker.track({}, trainer.state, trainer.history),
    ):
        trainer.fit()
    parameters = torch.cat(
        [parameter.detach().flatten() for parameter in trainer.model.parameters()]
    )
    rank = trainer.accelerator.process_index
    save_file({"parameters": parameters}, folder / f"rank{rank}.safetensors")
    return parameters, [json.loads(line) for line in (folder / "history.jsonl").open()]


def main(jobs: list[tuple[str, dict[str, Any]]]) -> None:
    with exit_on_user_error("toy.py"):
        preemption = Preemption()
        preemption.listen()
        set_up_logging()
        for folder, kwargs in jobs:
            fit(Path(folder), preemption=preemption, **kwargs)
        if dist.is_initialized():  # or a thread of gloo can abort Python's orderly end
            dist.destroy_process_group()


def main_of_rank(env: dict[str, str], log: Path, jobs: list[tuple[str, dict[str, Any]]]) -> None:
    """In a process that multiprocessing has made."""
    os.environ.update(env)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, sys.stdout.fileno())
    os.dup2(descriptor, sys.stderr.fileno())
    main(jobs)


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
