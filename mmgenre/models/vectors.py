"""Base of systems over one vector a modality, ready-made or from a trainable encoder."""

from typing import Any, NamedTuple

import torch
from huggingface_hub.dataclasses import strict
from transformers import BertModel

from .base import GenreClassifierOutput, GenrePreTrainedModel, ImageTextGenreConfig
from .layers import ResNetEncoder


@strict
class VectorsConfig(ImageTextGenreConfig):
    r"""Config of a system over two vectors.

    Args:
        modalities: `[features]`, vectors that the data set holds, or `[image, text]`, those that
            a ResNet makes of the poster (its pooled regions) and BERT of the plot (its pooled
            output).
        image_feature_dim: Size of a ready-made poster vector; the default is VGG16's.
        text_feature_dim: Size of a ready-made plot vector; the default is word2vec's.
    """

    modalities: list[str] | tuple[str, ...] = ("features",)
    image_feature_dim: int = 4096
    text_feature_dim: int = 300

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if set(self.modalities) not in ({"features"}, {"image", "text"}):
            raise ValueError(
                f"modalities is {list(self.modalities)}; it can be [features] or [image, text]"
            )

    @property
    def feature_dims(self) -> dict[str, int]:
        if "features" not in self.modalities:
            return {}
        return {
            "image_features": self.image_feature_dim,
            "text_features": self.text_feature_dim,
        }


class Fused(NamedTuple):
    """What a system makes of the two vectors.

    Attributes:
        embedding: (batch, embedding_dim), what the classifier sees.
        logits: (batch, num_labels).
        auxiliary: Logits that count in training only, each (batch, num_labels).
    """

    embedding: torch.Tensor
    logits: torch.Tensor
    auxiliary: tuple[torch.Tensor, ...] = ()


class VectorsPreTrainedModel(GenrePreTrainedModel):
    """A subclass says in `fuse` what it makes of the vectors, of sizes `vector_dims`."""

    config: VectorsConfig

    def __init__(self, config: VectorsConfig) -> None:
        super().__init__(config)
        self.vector_dims = {"image": config.image_feature_dim, "text": config.text_feature_dim}
        if "features" not in config.modalities:
            self.image_encoder = ResNetEncoder(config.image_architecture)
            self.text_encoder = BertModel(config.text_config)
            self.vector_dims = {
                "image": self.image_encoder.feature_dim,
                "text": config.text_config.hidden_size,
            }
        self.add_placeholders(**self.vector_dims)

    def fuse(self, image: torch.Tensor, text: torch.Tensor) -> Fused:
        """From (batch, vector_dims["image"]) and (batch, vector_dims["text"]) to genres."""
        raise NotImplementedError

    def loss(self, fused: Fused, labels: torch.Tensor) -> torch.Tensor:
        return self.genre_loss(fused.logits, labels)

    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        image_features: torch.Tensor | None = None,
        text_features: torch.Tensor | None = None,
        image_present: torch.Tensor | None = None,
        text_present: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        output_embedding: bool = False,
    ) -> GenreClassifierOutput:
        """Logits, and the loss where labels are given.

        Args:
            pixel_values: (batch, 3, image_size, image_size).
            input_ids: (batch, length).
            attention_mask: (batch, length), 1 for a token and 0 for padding; None is all ones.
            image_features: (batch, image_feature_dim), in the place of `pixel_values`.
            text_features: (batch, text_feature_dim), in the place of `input_ids`.
            image_present: (batch,) booleans; only under `missing_modality="learned"`. None is all.
            text_present: The same for plots.
            labels: (batch, num_labels), 0 or 1.
            output_embedding: Also return the vector that the classifier sees.

        Raises:
            ValueError: A modality that the model needs is not given.
        """
        takes_features = "features" in self.config.modalities
        inputs = {
            "image": image_features if takes_features else pixel_values,
            "text": text_features if takes_features else input_ids,
        }
        present = {"image": image_present, "text": text_present}
        size = self.check_inputs(inputs, present)
        vectors = dict(inputs)
        if not takes_features and pixel_values is not None:
            vectors["image"] = self.image_encoder.pool(self.image_encoder(pixel_values))
        if not takes_features and input_ids is not None:
            encoded = self.text_encoder(input_ids, attention_mask=attention_mask)
            vectors["text"] = encoded.pooler_output
        fused = self.fuse(
            *(self.replace_absent(n, vectors[n], present[n], size) for n in ("image", "text"))
        )
        return GenreClassifierOutput(
            loss=None if labels is None else self.loss(fused, labels),
            logits=fused.logits,
            embedding=fused.embedding if output_embedding else None,
        )
