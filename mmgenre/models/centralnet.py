"""CentralNet (Vielzeuf et al. 2018, arXiv 1808.07275): a network a modality and one between them.

    h_C(i+1) = f(a_C(i) h_C(i) + sum_m a_m(i) h_m(i))        loss = loss_C + sum_m b_m loss_m

A reconstruction, since the paper says little about MM-IMDb. Departures from the paper:
- Hidden sizes, optimiser and schedule are not published. Modality networks are batch norm and two
  levels of linear, ReLU and dropout; f is linear, ReLU and dropout; all of one width.
- The weights a start at 1 for the central network and 1/2 for each modality.
- Co-authors' later code predicts a genre above probability 0.3; here thresholds are the model's.
- End to end, from a ResNet and BERT, is this project's addition.
"""

from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import initialization as init

from .layers import MovieBatchNorm
from .vectors import Fused, VectorsConfig, VectorsPreTrainedModel


@strict
class CentralNetConfig(VectorsConfig):
    r"""Config of CentralNet.

    Args:
        hidden_size: Width of all layers.
        num_levels: Hidden layers of a modality's network, each with its fusion.
        image_loss_weight: b of the poster's own classification.
        text_loss_weight: b of the plot's own classification.
    """

    model_type = "mmgenre-centralnet"

    hidden_size: int = 512
    num_levels: int = 2
    dropout: float = 0.5
    image_loss_weight: float = 1.0
    text_loss_weight: float = 1.0

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.num_levels < 1:
            raise ValueError(f"num_levels is {self.num_levels}; it must be 1 or more")


class CentralLevel(nn.Module):
    """A layer of each modality's network, and the central layer over their weighted sum.

    Args:
        has_central: False at the first level, before which there is no central layer.
    """

    def __init__(
        self, image_dim: int, text_dim: int, size: int, dropout: float, has_central: bool
    ) -> None:
        super().__init__()
        self.image = _layer(image_dim, size, dropout)
        self.text = _layer(text_dim, size, dropout)
        self.weights = nn.Parameter(torch.empty(3 if has_central else 2))  # image, text, central
        self.central = _layer(size, size, dropout)

    def forward(
        self, image: torch.Tensor, text: torch.Tensor, central: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The next level's image, text and central vectors, each (batch, size)."""
        image, text = self.image(image), self.text(text)
        fused = self.weights[0] * image + self.weights[1] * text
        if central is not None:
            fused = fused + self.weights[2] * central
        return image, text, self.central(fused)


def _layer(in_features: int, out_features: int, dropout: float) -> nn.Module:
    return nn.Sequential(nn.Linear(in_features, out_features), nn.ReLU(), nn.Dropout(dropout))


class CentralNetForSequenceClassification(VectorsPreTrainedModel):
    """Genres of a movie from two vectors; the modality networks' own genres count in training."""

    config_class = CentralNetConfig
    config: CentralNetConfig

    def __init__(self, config: CentralNetConfig) -> None:
        super().__init__(config)
        size, num_labels = config.hidden_size, len(config.genres)
        image_dim, text_dim = self.vector_dims["image"], self.vector_dims["text"]
        self.image_norm, self.text_norm = MovieBatchNorm(image_dim), MovieBatchNorm(text_dim)
        self.levels = nn.ModuleList(
            CentralLevel(
                size if level else image_dim,
                size if level else text_dim,
                size,
                config.dropout,
                has_central=level > 0,
            )
            for level in range(config.num_levels)
        )
        self.image_classifier = nn.Linear(size, num_labels)
        self.text_classifier = nn.Linear(size, num_labels)
        self.classifier = nn.Linear(size, num_labels)
        self.post_init()
        self.freeze()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, CentralLevel):
            init.copy_(module.weights, torch.tensor([0.5, 0.5, 1.0])[: len(module.weights)])

    def fuse(self, image: torch.Tensor, text: torch.Tensor) -> Fused:
        image, text, central = self.image_norm(image), self.text_norm(text), None
        for level in self.levels:
            image, text, central = level(image, text, central)
        assert central is not None
        auxiliary = (self.image_classifier(image), self.text_classifier(text))
        return Fused(central, self.classifier(central), auxiliary)

    def loss(self, fused: Fused, labels: torch.Tensor) -> torch.Tensor:
        weights = (self.config.image_loss_weight, self.config.text_loss_weight)
        return super().loss(fused, labels) + sum(
            weight * self.genre_loss(logits, labels)
            for weight, logits in zip(weights, fused.auxiliary, strict=True)
        )
