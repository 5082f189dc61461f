"""MFM, a multimodal fusion module (Braz et al. 2021, doi 10.1049/icp.2021.1456): a
re-implementation from the abstract.

The abstract says: a text branch, an image branch with class activation maps as attention, and a
fusion network module over both, on 25,959 movies. It is not MultiBench's MFM, a factorisation model
of the same letters.

Departures from the paper: everything else is unknown (encoders, sizes, losses, optimiser, threshold
and split) and chosen here.
- Encoders are a ResNet and BERT.
- Image branch: with regions F (batch, dim, h, w) and a linear classifier w_c, the class activation
  map of genre c is M_c = w_c . F (Zhou et al. 2016, arXiv 1512.04150, eq. 2), and the genre's logit
  its mean over regions plus a bias. Attention is A = sigmoid(sum_c p_c M_c), p_c the genre's
  probability, and the branch's vector the mean over regions of A F.
- Fusion: both vectors, concatenated, through linear, ReLU and dropout, twice.
- Each branch has a classifier of its own; the three losses are added.
"""

from typing import ClassVar

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import BertModel

from .base import GenreClassifierOutput, GenrePreTrainedModel, ImageTextGenreConfig
from .layers import ResNetEncoder


@strict
class MfmConfig(ImageTextGenreConfig):
    r"""Config of MFM.

    Args:
        hidden_size: Width of the fusion's two layers.
        fusion_dropout: Dropout after each.
        image_loss_weight: Weight of the image branch's own loss.
        text_loss_weight: Weight of the text branch's own loss.
    """

    model_type = "mmgenre-mfm"
    modalities: ClassVar[tuple[str, ...]] = ("image", "text")

    hidden_size: int = 512
    fusion_dropout: float = 0.3
    image_loss_weight: float = 1.0
    text_loss_weight: float = 1.0


class ActivationMapAttention(nn.Module):
    """Pools regions by what a classifier sees in them, as at the top of this file."""

    def __init__(self, dim: int, num_labels: int) -> None:
        super().__init__()
        self.classifier = nn.Linear(dim, num_labels)

    def forward(self, regions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """From (batch, dim, h, w) to a vector (batch, dim) and logits (batch, num_labels)."""
        tokens = regions.flatten(2).transpose(1, 2)
        maps = nn.functional.linear(tokens, self.classifier.weight)
        logits = maps.mean(dim=1) + self.classifier.bias
        attention = torch.sigmoid((maps * logits.sigmoid()[:, None]).sum(dim=-1, keepdim=True))
        return (attention * tokens).mean(dim=1), logits


class MfmForSequenceClassification(GenrePreTrainedModel):
    """Genres of a movie from its poster and its plot, each also on its own."""

    config_class = MfmConfig
    config: MfmConfig

    def __init__(self, config: MfmConfig) -> None:
        super().__init__(config)
        num_labels, size = len(config.genres), config.hidden_size
        self.image_encoder = ResNetEncoder(config.image_architecture)
        self.text_encoder = BertModel(config.text_config)
        dims = {
            "image": self.image_encoder.feature_dim,
            "text": config.text_config.hidden_size,
        }
        self.image_attention = ActivationMapAttention(dims["image"], num_labels)
        self.text_classifier = nn.Linear(dims["text"], num_labels)
        self.add_placeholders(**dims)
        self.fusion = nn.Sequential(
            *(nn.Linear(sum(dims.values()), size), nn.ReLU(), nn.Dropout(config.fusion_dropout)),
            *(nn.Linear(size, size), nn.ReLU(), nn.Dropout(config.fusion_dropout)),
        )
        self.classifier = nn.Linear(size, num_labels)
        self.post_init()
        self.freeze()

    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
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
            image_present: (batch,) booleans; only under `missing_modality="learned"`. None is all.
            text_present: The same for plots.
            labels: (batch, num_labels), 0 or 1.
            output_embedding: Also return the fused vector (batch, hidden_size).

        Raises:
            ValueError: A modality that the model needs is not given.
        """
        size = self.check_inputs(
            {"image": pixel_values, "text": input_ids},
            {"image": image_present, "text": text_present},
        )
        image = text = image_logits = None
        if pixel_values is not None:
            image, image_logits = self.image_attention(self.image_encoder(pixel_values))
        if input_ids is not None:
            text = self.text_encoder(input_ids, attention_mask=attention_mask).pooler_output
        image = self.replace_absent("image", image, image_present, size)
        text = self.replace_absent("text", text, text_present, size)
        embedding = self.fusion(torch.cat([image, text], dim=-1))
        logits = self.classifier(embedding)
        loss = None
        if labels is not None:
            loss = self.genre_loss(logits, labels)
            loss = loss + self.config.text_loss_weight * self.genre_loss(
                self.text_classifier(text), labels
            )
            if image_logits is not None:
                loss = loss + self.config.image_loss_weight * self.genre_loss(image_logits, labels)
        return GenreClassifierOutput(
            loss=loss, logits=logits, embedding=embedding if output_embedding else None
        )
