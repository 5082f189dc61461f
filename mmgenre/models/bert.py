"""BERT (Devlin et al. 2019, arXiv 1810.04805) over the plot alone, with a linear classifier.

Departures from what the table's row reports (Seo et al. 2022): none that is known. The classifier
starts as BERT's own linear layers do, as in MMBT's code.
"""

from typing import ClassVar

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import BertModel
from transformers import initialization as init

from .base import GenreClassifierOutput, GenrePreTrainedModel, TextGenreConfig


@strict
class BertGenreConfig(TextGenreConfig):
    r"""Config of the plot-only system.

    Args:
        classifier_dropout: Dropout before the classifier.
    """

    model_type = "mmgenre-bert"
    modalities: ClassVar[tuple[str, ...]] = ("text",)

    classifier_dropout: float = 0.0


class BertGenreForSequenceClassification(GenrePreTrainedModel):
    """Genres of a movie from its plot."""

    config_class = BertGenreConfig
    config: BertGenreConfig

    def __init__(self, config: BertGenreConfig) -> None:
        super().__init__(config)
        self.text_encoder = BertModel(config.text_config)
        hidden_size = config.text_config.hidden_size
        self.add_placeholders(text=hidden_size)
        self.classifier_dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(hidden_size, len(config.genres))
        self.post_init()
        self.freeze()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is self.classifier:
            init.normal_(module.weight, std=self.config.text_config.initializer_range)
            init.zeros_(module.bias)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        text_present: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        output_embedding: bool = False,
    ) -> GenreClassifierOutput:
        """Logits, and the loss where labels are given.

        Args:
            input_ids: (batch, length).
            attention_mask: (batch, length), 1 for a token and 0 for padding; None is all ones.
            text_present: (batch,) booleans; only under `missing_modality="learned"`. None is all.
            labels: (batch, num_labels), 0 or 1.
            output_embedding: Also return BERT's pooled output (batch, hidden_size).

        Raises:
            ValueError: No plot is given.
        """
        size = self.check_inputs({"text": input_ids}, {"text": text_present})
        pooled = self.text_encoder(input_ids, attention_mask=attention_mask).pooler_output
        embedding = self.replace_absent("text", pooled, text_present, size)
        logits = self.classifier(self.classifier_dropout(embedding))
        return GenreClassifierOutput(
            loss=None if labels is None else self.genre_loss(logits, labels),
            logits=logits,
            embedding=embedding if output_embedding else None,
        )
