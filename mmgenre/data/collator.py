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

    Args:
        processor: Has `encode_images`, `encode_text` and `encode_features`, of lists.
        encode_images: In place of the processor's own: `pad_posters` where the device takes the
            rest of its work.
    """

    processor: Any
    encode_images: Callable[[list[Any]], dict[str, torch.Tensor]] | None = None

    def __call__(self, samples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        encode_images = self.encode_images or self.processor.encode_images
        batch = {
            **encode_images([sample["image"] for sample in samples]),
            **self.processor.encode_text([sample["plot"] for sample in samples]),
            **self.processor.encode_features([sample["features"] for sample in samples]),
        }
        batch["labels"] = torch.stack([sample["labels"] for sample in samples])
        batch["index"] = torch.tensor([sample["index"] for sample in samples])
        return batch
