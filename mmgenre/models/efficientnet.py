"""EfficientNet (Tan & Le 2019, arXiv 1905.11946) over the poster alone, with a linear classifier.

Departures from what the table's row reports (Seo et al. 2022): which settings gave 0.395 / 0.314 is
not published. As in their code the poster is a crop of 224 pixels, not B4's own 380, normalised
with the mean and deviation of MM-IMDb's posters, and pooled features go into a linear layer.
"""

from functools import partial
from typing import Any, ClassVar

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from torchvision.models import get_model
from torchvision.models.efficientnet import EfficientNet, MBConvConfig

from .base import GenreClassifierOutput, GenreConfig, GenrePreTrainedModel
from .mmbt import IMAGE_MEAN, IMAGE_STD


def _tiny() -> EfficientNet:
    """A small sibling for training from scratch; torchvision has no weights for it."""
    stages = [MBConvConfig(1, 3, 2, 16, 16, 1), MBConvConfig(4, 3, 2, 16, 32, 1)]
    return EfficientNet(stages, dropout=0.0, stochastic_depth_prob=0.1, last_channel=64)


EFFICIENTNETS: dict[str, Any] = {
    "efficientnet_tiny": _tiny,
    **{
        name: partial(get_model, name, weights=None)
        for name in (f"efficientnet_b{size}" for size in range(8))
    },
}


@strict
class EfficientNetGenreConfig(GenreConfig):
    r"""Config of the poster-only system.

    Args:
        image_architecture: `efficientnet_b0` to `efficientnet_b7`, by torchvision's name, or
            `efficientnet_tiny`.
        classifier_dropout: Dropout before the classifier.
    """

    model_type = "mmgenre-efficientnet"
    modalities: ClassVar[tuple[str, ...]] = ("image",)

    image_architecture: str = "efficientnet_b4"
    classifier_dropout: float = 0.0
    image_resize: int | None = 256
    image_mean: list[float] | tuple[float, ...] = IMAGE_MEAN
    image_std: list[float] | tuple[float, ...] = IMAGE_STD

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.image_architecture not in EFFICIENTNETS:
            raise ValueError(
                f"image_architecture is {self.image_architecture!r}; it can be "
                f"{', '.join(EFFICIENTNETS)}"
            )


class EfficientNetEncoder(nn.Module):
    """A torchvision EfficientNet without its classifier, under torchvision's own parameter names.

    Maps posters (batch, 3, height, width) to (batch, feature_dim), what torchvision's `classifier`
    sees.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        network = EFFICIENTNETS[name]()
        self.features = network.features
        self.avgpool = network.avgpool
        self.feature_dim: int = network.classifier[-1].in_features

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.avgpool(self.features(x)).flatten(1)


class EfficientNetGenreForSequenceClassification(GenrePreTrainedModel):
    """Genres of a movie from its poster."""

    config_class = EfficientNetGenreConfig
    config: EfficientNetGenreConfig
    supports_gradient_checkpointing = False
    _image_head_keys: ClassVar[str] = r"classifier\."

    def __init__(self, config: EfficientNetGenreConfig) -> None:
        super().__init__(config)
        self.image_encoder = EfficientNetEncoder(config.image_architecture)
        dim = self.image_encoder.feature_dim
        self.add_placeholders(image=dim)
        self.classifier_dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(dim, len(config.genres))
        self.post_init()
        self.freeze()

    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        image_present: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        output_embedding: bool = False,
    ) -> GenreClassifierOutput:
        """Logits, and the loss where labels are given.

        Args:
            pixel_values: (batch, 3, image_size, image_size).
            image_present: (batch,) booleans; only under `missing_modality="learned"`. None is all.
            labels: (batch, num_labels), 0 or 1.
            output_embedding: Also return the pooled features (batch, feature_dim).

        Raises:
            ValueError: No poster is given.
        """
        size = self.check_inputs({"image": pixel_values}, {"image": image_present})
        features = self.image_encoder(pixel_values)
        embedding = self.replace_absent("image", features, image_present, size)
        logits = self.classifier(self.classifier_dropout(embedding))
        return GenreClassifierOutput(
            loss=None if labels is None else self.genre_loss(logits, labels),
            logits=logits,
            embedding=embedding if output_embedding else None,
        )
