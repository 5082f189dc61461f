"""Samples to a batch of model inputs."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class GenreCollator:
    """Batches samples of `MovieDataset`.

    The batch holds what the two functions make, `labels` (batch, num_labels) and `index` (batch,),
    the movies' places in the data set, which is not a model input.

    Args:
        encode_images: Of a list of posters: a processor's own, or `pad_posters` where the device
            takes the rest of its work.
        encode_text: Of a list of plots: a processor's own.
    """

    encode_images: Callable[[list[Any]], dict[str, torch.Tensor]]
    encode_text: Callable[[list[Any]], dict[str, torch.Tensor]]

    def __call__(self, samples: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = {
            **self.encode_images([sample["image"] for sample in samples]),
            **self.encode_text([sample["plot"] for sample in samples]),
        }
        batch["labels"] = torch.stack([sample["labels"] for sample in samples])
        batch["index"] = torch.tensor([sample["index"] for sample in samples])
        return batch
