"""A linear model on random numbers, to test the training loop with something that is no system.

As a script it trains one run after the other: `toy.py '[["FOLDER", {"batch_size": 2}]]'`.
"""

import json
import signal
import sys
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader, Dataset, default_collate

from mmgenre.data.loaders import GlobalBatchSampler, create_train_loader
from mmgenre.evaluation.evaluator import Evaluator
from mmgenre.training.accelerator import create_accelerator
from mmgenre.training.agreement import Agreement
from mmgenre.training.checkpointing import Checkpointer
from mmgenre.training.early_stopping import EarlyStopping
from mmgenre.training.output_dir import History
from mmgenre.training.preemption import Preemption
from mmgenre.training.schedulers import WarmupPlateauSchedule
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
        self.records = [SimpleNamespace(id=f"toy{i}") for i in range(num_movies)]
        self.epoch = 0
        self.seen: dict[int, list[int]] = {}  # epoch to movies, in the order they were asked for

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.seen.setdefault(self.epoch, []).append(index)
        return {"x": self.features[index], "labels": self.labels[index], "index": index}


class ToyModel(nn.Module):
    """No batch normalisation: its gradient is a mean over movies."""

    def __init__(self, hidden: int = 5, dropout: float = 0.0) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(NUM_FEATURES, hidden),
            nn.Tanh(),
            nn.Dropout(dropout),
            nn.Linear(hidden, NUM_LABELS),
        )

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> SimpleNamespace:
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
    """

    def __init__(self, *, folder: Path, stop_after: int | None, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.stop_after = stop_after
        rank = self.accelerator.process_index
        self.consumed = (folder / f"consumed{rank}.jsonl").open("a", buffering=1)

    def train_step(self, batches: Iterator[Any], step: int) -> None:
        self.movies: list[int] = []
        self.size = len(sum(self.sampler.micro_batches(step), []))
        super().train_step(batches, step)
        # without the movie that stands in where a process has none
        line = [self.state.step, self.movies[: self.size]]
        self.consumed.write(json.dumps(line) + "\n")
        if self.state.step == self.stop_after:
            self.preemption = Preemption()  # of this run alone, where several share a process
            self.preemption.signal = signal.SIGTERM

    def _to_device(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        self.movies += batch["index"].tolist()
        return super()._to_device(batch)


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
    max_grad_norm: float | None = None,
    optimizer: str = "SGD",
    save_total_limit: int = 2,
    hidden: int = 5,
    dropout: float = 0.0,
    save_steps: int | None = None,
    max_nonfinite_steps: int = 10,
    num_workers: int = 0,
    ddp_timeout: float = 60,
    preemption: Preemption | None = None,
    stop_after: int | None = None,
) -> ToyTrainer:
    """A `Trainer` of the toy. With SGD a wrong factor on the gradient shows; with AdamW not."""
    folder.mkdir(parents=True, exist_ok=True)
    accelerator = create_accelerator(ddp_timeout=ddp_timeout)
    torch.manual_seed(0)
    model = ToyModel(hidden, dropout)
    created = getattr(torch.optim, optimizer)(model.parameters(), lr=learning_rate)
    dataset, validation = ToyDataset(num_movies, seed=1), ToyDataset(13, seed=2)
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
    return ToyTrainer(
        folder=folder,
        stop_after=stop_after,
        accelerator=accelerator,
        model=prepared_model,
        processor=ToyProcessor(),
        optimizer=prepared_optimizer,
        schedule=WarmupPlateauSchedule(created, warmup_epochs=0, factor=0.2, patience=2),
        early_stopping=EarlyStopping(patience, 0.001),
        dataset=dataset,
        sampler=sampler,
        loader=create_train_loader(dataset, sampler, default_collate, num_workers),
        evaluator=Evaluator(
            accelerator, DataLoader(validation, batch_size=4), [f"g{i}" for i in range(NUM_LABELS)]
        ),
        checkpointer=Checkpointer(accelerator, agreement, folder / "checkpoints", save_total_limit),
        history=History(folder / "history.jsonl"),
        num_train_epochs=num_train_epochs,
        metric_for_best_model="f1_macro",
        agreement=agreement,
        preemption=preemption or Preemption(),
        max_grad_norm=max_grad_norm,
        save_steps=save_steps,
        max_nonfinite_steps=max_nonfinite_steps,
    )


def fit(
    folder: Path, *, resume: str | None = None, **kwargs: Any
) -> tuple[torch.Tensor, list[dict[str, float]]]:
    """Train; all parameters as one vector, and the history."""
    trainer = create_trainer(folder, **kwargs)
    trainer.resume(resume)
    with suppress(Preempted) if trainer.stop_after else nullcontext():
        trainer.fit()
    parameters = torch.cat(
        [parameter.detach().flatten() for parameter in trainer.model.parameters()]
    )
    rank = trainer.accelerator.process_index
    save_file({"parameters": parameters}, folder / f"rank{rank}.safetensors")
    return parameters, [json.loads(line) for line in (folder / "history.jsonl").open()]


def main() -> None:
    preemption = Preemption()
    preemption.listen()
    set_up_logging()
    for folder, kwargs in json.loads(sys.argv[1]):
        fit(Path(folder), preemption=preemption, **kwargs)


if __name__ == "__main__":
    with exit_on_user_error("toy.py"):
        main()
