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


class CentralFusion(nn.Module):
    """a_C h_C + a_image h_image + a_text h_text, with learned scalars a. All (batch, size).

    Args:
        has_central: False at the first level, before which there is no central layer.
    """

    def __init__(self, has_central: bool) -> None:
        super().__init__()
        self.weights = nn.Parameter(torch.empty(3 if has_central else 2))  # image, text, central

    def forward(
        self, central: torch.Tensor | None, image: torch.Tensor, text: torch.Tensor
    ) -> torch.Tensor:
        fused = self.weights[0] * image + self.weights[1] * text
        return fused if central is None else fused + self.weights[2] * central


class CentralNetForSequenceClassification(VectorsPreTrainedModel):
    """Genres of a movie from two vectors; the modality networks' own genres count in training."""

    config_class = CentralNetConfig
    config: CentralNetConfig

    def __init__(self, config: CentralNetConfig) -> None:
        super().__init__(config)
        size, levels = config.hidden_size, config.num_levels

        def layer(in_features: int) -> nn.Module:
            return nn.Sequential(
                nn.Linear(in_features, size), nn.ReLU(), nn.Dropout(config.dropout)
            )

        self.norms = nn.ModuleDict({n: MovieBatchNorm(d) for n, d in self.vector_dims.items()})
        self.modality_layers = nn.ModuleDict(
            {
                name: nn.ModuleList(layer(size if i else dim) for i in range(levels))
                for name, dim in self.vector_dims.items()
            }
        )
        self.fusions = nn.ModuleList(CentralFusion(has_central=i > 0) for i in range(levels))
        self.central_layers = nn.ModuleList(layer(size) for _ in range(levels))
        self.classifiers = nn.ModuleDict(
            {n: nn.Linear(size, len(config.genres)) for n in ("central", *self.vector_dims)}
        )
        self.post_init()
        self.freeze()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, CentralFusion):
            init.copy_(module.weights, torch.tensor([0.5, 0.5, 1.0])[: len(module.weights)])

    def fuse(self, image: torch.Tensor, text: torch.Tensor) -> Fused:
        image, text = self.norms["image"](image), self.norms["text"](text)
        central = None
        for image_layer, text_layer, fusion, central_layer in zip(
            self.modality_layers["image"],
            self.modality_layers["text"],
            self.fusions,
            self.central_layers,
            strict=True,
        ):
            image, text = image_layer(image), text_layer(text)
            central = central_layer(fusion(central, image, text))
        assert central is not None
        return Fused(
            central,
            self.classifiers["central"](central),
            (self.classifiers["image"](image), self.classifiers["text"](text)),
        )

    def loss(self, fused: Fused, labels: torch.Tensor) -> torch.Tensor:
        weights = (self.config.image_loss_weight, self.config.text_loss_weight)
        return super().loss(fused, labels) + sum(
            weight * self.genre_loss(logits, labels)
            for weight, logits in zip(weights, fused.auxiliary, strict=True)
        )
