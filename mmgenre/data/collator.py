"""Samples to a batch of model inputs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class GenreCollator:
    """Runs a model's processor over samples of `MovieDataset`.

    The batch holds what the processor makes, `labels` (batch, num_labels) and `index` (batch,), the
    movies' places in the data set, which is not a model input.
    """

    processor: Callable[..., Any]

    def __call__(self, samples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = dict(
            self.processor(
                images=[sample["image"] for sample in samples],
                text=[sample["plot"] for sample in samples],
            )
        )
        batch["labels"] = torch.stack([sample["labels"] for sample in samples])
        batch["index"] = torch.tensor([sample["index"] for sample in samples])
        return batch
