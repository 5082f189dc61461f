"""Evaluate known logits, as a script in each of some processes: `gathered.py FOLDER`.

Of 14 movies in batches of 2 the last round of 2 or 3 processes is not full.
"""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from mmgenre.evaluation.evaluator import Evaluator
from mmgenre.training.accelerator import create_accelerator

GENRES = ["random", "empty", "all_positive", "none_predicted", "all_predicted", "tied"]
THRESHOLDS = [0.5, 0.5, 0.4, 0.5, 0.5, 0.3]
NUM_MOVIES = 14


def known_data(num_movies: int = NUM_MOVIES) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and labels, (num_movies, 6); every column degenerate in its own way but the first."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(num_movies, 6, generator=generator)
    labels = (torch.rand(num_movies, 6, generator=generator) < 0.4).float()
    labels[:, 1], labels[:, 2] = 0, 1
    logits[:, 3], logits[:, 4] = -9, 9
    logits[:, 5] = logits[:, 5].round()
    return logits, labels


class Identity(nn.Module):
    """Its logits are what it is given."""

    def forward(self, logits: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=logits)

    def genre_loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return nn.functional.binary_cross_entropy_with_logits(logits, labels)


def evaluate(num_movies: int = NUM_MOVIES) -> dict[str, float]:
    logits, labels = known_data(num_movies)
    movies: Any = [
        {"logits": row, "labels": label, "index": index}
        for index, (row, label) in enumerate(zip(logits, labels, strict=True))
    ]
    loader: DataLoader[Any] = DataLoader(movies, batch_size=2)
    evaluator = Evaluator(create_accelerator(), loader, GENRES, THRESHOLDS)
    return evaluator.evaluate(Identity()).metrics


if __name__ == "__main__":
    metrics = evaluate()
    folder, rank = Path(sys.argv[1]), torch.distributed.get_rank()
    (folder / f"{rank}_of_{torch.distributed.get_world_size()}.json").write_text(
        json.dumps(metrics)
    )
