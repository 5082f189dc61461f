"""Tiny configs, models, batches and pictures for the model tests."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import BertTokenizer

from mmgenre.data.tokenizer import train_tokenizer
from mmgenre.models.configuration_mmgenre import MMGenreConfig
from mmgenre.models.modeling_mmgenre import MMGenreForSequenceClassification

TINY_BERT = {
    "vocab_size": 100,
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 32,
}
TINY = {
    "id2label": {0: "drama", 1: "comedy", 2: "war", 3: "sci-fi"},
    "image_architecture": "resnet10",
    "image_size": 64,
    "max_length": 16,
    "projection_dim": 16,
    "num_attention_heads": 2,
}
PLOTS = ["a war on the moon.", "two dogs run a bar", "No plot found."]


@pytest.fixture(scope="session")
def tiny_config() -> Callable[..., MMGenreConfig]:
    """A config of the smallest sizes, with changes; `text_config` is a mapping of changes too."""

    def create(text_config: dict[str, Any] | None = None, **changes: Any) -> MMGenreConfig:
        return MMGenreConfig(
            **{**TINY, "text_config": {**TINY_BERT, **(text_config or {})}} | changes
        )

    return create


@pytest.fixture(scope="session")
def tiny_model(
    tiny_config: Callable[..., MMGenreConfig],
) -> Callable[..., MMGenreForSequenceClassification]:
    """A model of `tiny_config`, in eval mode."""

    def create(**changes: Any) -> MMGenreForSequenceClassification:
        torch.manual_seed(0)
        return MMGenreForSequenceClassification(tiny_config(**changes)).eval()

    return create


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    """Three movies; the second and third plots are padded."""
    generator = torch.Generator().manual_seed(0)
    attention_mask = torch.ones(3, 9, dtype=torch.long)
    attention_mask[1, 6:] = attention_mask[2, 3:] = 0
    return {
        "pixel_values": torch.randn(3, 3, 64, 64, generator=generator),
        "input_ids": torch.randint(5, 100, (3, 9), generator=generator) * attention_mask,
        "attention_mask": attention_mask,
    }


@pytest.fixture
def labels() -> torch.Tensor:
    return torch.tensor([[1, 0, 0, 1], [0, 1, 0, 0], [1, 1, 0, 0]])


@pytest.fixture(scope="session")
def tokenizer() -> BertTokenizer:
    return train_tokenizer(PLOTS, vocab_size=60)


@pytest.fixture
def picture() -> Image.Image:
    """Noise, 90 wide and 120 high."""
    pixels = np.random.default_rng(0).integers(0, 256, (120, 90, 3), dtype=np.uint8)
    return Image.fromarray(pixels)
