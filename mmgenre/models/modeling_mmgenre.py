"""The report's model: ResNet50 and BERT, SwiGLU projections, attention fusion (report, section 3).

Departures from the report: none in the default configuration. The report leaves open SwiGLU's
rounding and biases, attention's dropout (0.1) and the balanced form of the focal loss.
"""

from typing import Any

import torch
from torch import nn
from transformers import BertModel

from .base import GenreClassifierOutput, GenrePreTrainedModel
from .configuration_mmgenre import MMGenreConfig
from .layers import ResNetEncoder, SwiGLU, mean_of_words


class MMGenreForSequenceClassification(GenrePreTrainedModel):
    """Genres of a movie from its poster and its plot."""

    config_class = MMGenreConfig
    config: MMGenreConfig

    def __init__(self, config: MMGenreConfig) -> None:
        super().__init__(config)
        dim = config.projection_dim
        self.image_encoder: Any = None
        self.text_encoder: Any = None
        if "image" in config.modalities:
            self.image_encoder = ResNetEncoder(config.image_architecture)
            self.image_projection = SwiGLU(self.image_encoder.feature_dim, dim, config.expansion)
        if "text" in config.modalities:
            has_pooler = config.text_pooling == "pooler"
            self.text_encoder = BertModel(config.text_config, add_pooling_layer=has_pooler)
            hidden_size = self.text_encoder.config.hidden_size
            self.text_projection = SwiGLU(hidden_size, dim, config.expansion)
        self.add_placeholders(**dict.fromkeys(config.modalities, dim))

        fused_dim = dim * len(config.modalities)
        token_dim = fused_dim if config.fusion_tokens == "fused" else dim
        self.attention = nn.MultiheadAttention(
            token_dim,
            config.num_attention_heads,
            dropout=config.attention_dropout,
            batch_first=True,
        )
        self.attention_norm = nn.LayerNorm(token_dim)
        self.classifier_norm = nn.LayerNorm(fused_dim)
        self.classifier_ffn = SwiGLU(fused_dim, fused_dim // 2, config.expansion)
        self.classifier_dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(fused_dim // 2, len(config.genres))
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
            output_embedding: Also return the vector (batch, fused_dim) that the classifier sees.

        Raises:
            ValueError: A modality that the model needs is not given.
        """
        inputs = {"image": pixel_values, "text": input_ids}
        present = {"image": image_present, "text": text_present}
        modalities = self.config.modalities
        size = self.check_inputs({name: inputs[name] for name in modalities}, present)
        if input_ids is not None and attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        if self.training and self.config.modality_dropout > 0:
            present = self._drop_modalities(present, inputs)

        # One (batch, dim) vector a modality; in a grid also its (batch, n, dim) regions or words
        # with a (batch, n) mask of those that are real.
        pooled: list[torch.Tensor] = []
        parts: list[torch.Tensor] = []
        masks: list[torch.Tensor] = []
        for name in modalities:
            if inputs[name] is None:
                pooled.append(self.replace_absent(name, None, None, size))
                continue
            if name == "image":
                regions = self.image_encoder(pixel_values)
                features = self.image_encoder.pool(regions)
                tokens, mask = regions.flatten(2).transpose(1, 2), None
                project = self.image_projection
            else:
                encoded = self.text_encoder(input_ids, attention_mask=attention_mask)
                features, tokens = encoded.pooler_output, encoded.last_hidden_state
                mask, project = attention_mask, self.text_projection
                if features is None:
                    assert attention_mask is not None
                    features = mean_of_words(tokens, attention_mask)
            there = present[name]
            pooled.append(self.replace_absent(name, project(features), there, size))
            if self.config.fusion_tokens == "grid":
                parts.append(project(tokens))
                mask = torch.ones_like(tokens[..., 0]) if mask is None else mask
                masks.append(mask.bool() if there is None else mask.bool() & there[:, None])

        embedding = self._fuse(pooled, parts, masks)
        hidden = self.classifier_ffn(self.classifier_norm(embedding))
        logits = self.classifier(self.classifier_dropout(hidden))
        return GenreClassifierOutput(
            loss=None if labels is None else self.genre_loss(logits, labels),
            logits=logits,
            embedding=embedding if output_embedding else None,
        )

    def _fuse(
        self, pooled: list[torch.Tensor], parts: list[torch.Tensor], masks: list[torch.Tensor]
    ) -> torch.Tensor:
        """Attention with residual and LayerNorm (report, eq. 2), to (batch, fused_dim)."""
        if self.config.fusion_tokens == "fused":
            query = torch.cat(pooled, dim=-1).unsqueeze(1)
        else:
            query = torch.stack(pooled, dim=1)
        keys, padding = query, None
        if parts:
            keys = torch.cat([query, *parts], dim=1)
            padding = ~torch.cat([masks[0].new_ones(query.shape[:2]), *masks], dim=1)
        attended, _ = self.attention(
            query, keys, keys, key_padding_mask=padding, need_weights=False
        )
        return self.attention_norm(attended + query).flatten(1)

    def _drop_modalities(
        self, present: dict[str, torch.Tensor | None], inputs: dict[str, torch.Tensor | None]
    ) -> dict[str, torch.Tensor | None]:
        """Take one modality from a random share of the movies that have both."""
        given = inputs["image"]
        if given is None or inputs["text"] is None:
            return present  # no movie has both
        draw = torch.rand(len(given), device=given.device) / self.config.modality_dropout
        everything = torch.ones_like(draw, dtype=torch.bool)
        image, text = (everything if mask is None else mask for mask in present.values())
        return {
            "image": image & ~((draw < 0.5) & text),
            "text": text & ~((draw >= 0.5) & (draw < 1) & image),
        }
