"""A linear model on random numbers, to test the training loop with something that is no system.

As a script it trains and writes parameters and history down: `toy.py FOLDER '{"batch_size": 2}'`.
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn
from torch.utils.data import DataLoader, Dataset

from mmgenre.data.loaders import GlobalBatchSampler
from mmgenre.evaluation.evaluator import Evaluator
from mmgenre.training.accelerator import create_accelerator
from mmgenre.training.checkpointing import Checkpointer
from mmgenre.training.early_stopping import EarlyStopping
from mmgenre.training.optimization import LateEncoders
from mmgenre.training.output_dir import History
from mmgenre.training.schedulers import LearningRateSchedule, warmup_by_epoch
from mmgenre.training.trainer import Trainer

NUM_FEATURES, NUM_LABELS = 6, 3


class ToyDataset(Dataset):
    def __init__(self, num_movies: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.features = torch.randn(num_movies, NUM_FEATURES, generator=generator)
        rule = torch.randn(NUM_FEATURES, NUM_LABELS, generator=torch.Generator().manual_seed(0))
        self.labels = (self.features @ rule > 0.5).float()
        self.epoch = 0
        self.seen: dict[int, list[int]] = {}  # epoch to movies, in the order they were asked for

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, index: int) -> dict[str, Any]:
        self.seen.setdefault(self.epoch, []).append(index)
        return {"x": self.features[index], "labels": self.labels[index], "index": index}


class ToyModel(nn.Module):
    """No dropout and no batch normalisation: its gradient is a mean over movies."""

    def __init__(self, hidden: int = 5) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(NUM_FEATURES, hidden), nn.Tanh(), nn.Linear(hidden, NUM_LABELS)
        )

    def forward(self, x: torch.Tensor, labels: torch.Tensor | None = None) -> SimpleNamespace:
        logits = self.layers(x)
        loss = None if labels is None else self.genre_loss(logits, labels)
        return SimpleNamespace(logits=logits, loss=loss)

    def genre_loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return nn.functional.binary_cross_entropy_with_logits(logits, labels)

    def save_pretrained(self, folder: Path, state_dict: dict[str, torch.Tensor]) -> None:
        folder.mkdir(parents=True)
        save_file(state_dict, folder / "model.safetensors")


class ToyProcessor:
    def save_pretrained(self, folder: Path) -> None:
        (folder / "processor.json").write_text("{}", encoding="utf-8")


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
) -> Trainer:
    """A `Trainer` of the toy. With SGD a wrong factor on the gradient shows; with AdamW not."""
    folder.mkdir(parents=True, exist_ok=True)
    accelerator = create_accelerator()
    torch.manual_seed(0)
    model = ToyModel(hidden)
    groups = [{"name": "all", "params": list(model.parameters())}]
    created = getattr(torch.optim, optimizer)(groups, lr=learning_rate)
    dataset, validation = ToyDataset(num_movies, seed=1), ToyDataset(13, seed=2)
    sampler = GlobalBatchSampler(
        num_movies,
        batch_size=batch_size,
        accumulation=accumulation,
        num_processes=accelerator.num_processes,
        process_index=accelerator.process_index,
        drop_last=drop_last,
    )
    prepared_model, prepared_optimizer = accelerator.prepare(model, created)
    return Trainer(
        accelerator=accelerator,
        model=prepared_model,
        processor=ToyProcessor(),
        optimizer=prepared_optimizer,
        schedule=LearningRateSchedule(
            created, warmup_by_epoch(0), plateau_factor=0.2, plateau_patience=2
        ),
        late_encoders=LateEncoders(model, {}),
        early_stopping=EarlyStopping(patience, 0.001),
        dataset=dataset,
        sampler=sampler,
        loader=DataLoader(dataset, batch_sampler=sampler),
        batch_transform=nn.Identity(),
        evaluator=Evaluator(
            accelerator, DataLoader(validation, batch_size=4), [f"g{i}" for i in range(NUM_LABELS)]
        ),
        checkpointer=Checkpointer(accelerator, folder / "checkpoints", save_total_limit),
        history=History(folder / "history.jsonl"),
        num_train_epochs=num_train_epochs,
        metric_for_best_model="f1_macro",
        max_grad_norm=max_grad_norm,
    )


def fit(folder: Path, **kwargs: Any) -> tuple[torch.Tensor, list[dict[str, float]]]:
    """Train; all parameters as one vector, and the history."""
    trainer = create_trainer(folder, **kwargs)
    trainer.fit()
    parameters = torch.cat(
        [parameter.detach().flatten() for parameter in trainer.model.parameters()]
    )
    return parameters, [json.loads(line) for line in (folder / "history.jsonl").open()]


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    parameters, _ = fit(folder, **json.loads(sys.argv[2]))
    rank = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0
    save_file({"parameters": parameters}, folder / f"rank{rank}.safetensors")
