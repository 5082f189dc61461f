"""Plots and those of the movies around them: the project's own best.

A movie's plot is encoded by a fixed BERT, fine-tuned before on the plots alone, as the mean of its
words' vectors. Beside it stands, for each relation (such as a shared director or actor), the mean
vector of the movies that it joins to this one. Nothing between the encoder and these means learns,
so they are computed once, and a step of training is that of a small network over a few vectors:
SIGN (Frasca et al. 2020, arXiv 2004.11198, eq. 3) with one hop and one operator a relation.

Departures from the paper: SwiGLU in the place of its linear maps, LayerNorm before the classifier.
"""

from typing import Any, ClassVar

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import BertModel

from .base import GenreClassifierOutput, GenrePreTrainedModel, TextGenreConfig
from .layers import SwiGLU, mean_of_words


@strict
class SignConfig(TextGenreConfig):
    r"""Config of the system over plots and their neighbours.

    Args:
        graph_relations: For each relation the roles whose people make its edges, as in
            `GatConfig.graph_roles`; none is the graph-free twin.
        graph_max_movies: People with more movies make no edges; None is no cap.
        projection_dim: Width that each vector is projected to.
        expansion: SwiGLU's hidden size as a multiple of its input.
        classifier_dropout: Dropout before the classifier.
    """

    model_type = "mmgenre-sign"
    modalities: ClassVar[tuple[str, ...]] = ("text",)

    graph_relations: list[list[str]] | tuple[tuple[str, ...], ...] = (("sparse",),)
    graph_max_movies: int | None = None
    projection_dim: int = 256
    expansion: float = 1.0
    classifier_dropout: float = 0.5
    trainable_text_layers: list[str] | tuple[str, ...] = ()

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.trainable_text_layers:
            raise ValueError(
                f"trainable_text_layers is {list(self.trainable_text_layers)}; plots are encoded "
                "once, so the plot encoder cannot learn"
            )


class SignForSequenceClassification(GenrePreTrainedModel):
    """Genres of a movie from its plot and the plots of movies that it shares people with."""

    config_class = SignConfig
    config: SignConfig
    vector_mean: torch.Tensor
    vector_std: torch.Tensor

    def __init__(self, config: SignConfig) -> None:
        super().__init__(config)
        self.text_encoder = BertModel(config.text_config, add_pooling_layer=False)
        size, dim = config.text_config.hidden_size, config.projection_dim
        self.add_placeholders(text=size)
        self.register_buffer("vector_mean", torch.zeros(size))
        self.register_buffer("vector_std", torch.ones(size))
        num_parts = 1 + len(config.graph_relations)
        self.projections = nn.ModuleList(
            SwiGLU(size, dim, config.expansion) for _ in range(num_parts)
        )
        self.classifier_norm = nn.LayerNorm(num_parts * dim)
        self.classifier_ffn = SwiGLU(num_parts * dim, dim, config.expansion)
        self.classifier_dropout = nn.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(dim, len(config.genres))
        self.post_init()
        self.freeze()

    @torch.no_grad()
    def encode_plots(
        self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Vectors (batch, hidden_size) of plots, in eval mode always.

        The arguments are `BertGenreForSequenceClassification.forward`'s.
        """
        self.text_encoder.eval()
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        words = self.text_encoder(input_ids, attention_mask=mask).last_hidden_state
        return mean_of_words(words.float(), mask)

    def set_scale(self, vectors: torch.Tensor) -> None:
        """Standardise with the mean and deviation of these (movies, hidden_size)."""
        deviation, mean = torch.std_mean(vectors, dim=0)
        self.vector_mean.copy_(mean)
        self.vector_std.copy_(deviation.clamp(min=1e-6))

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        node_vectors: Any = None,
        text_present: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        output_embedding: bool = False,
    ) -> GenreClassifierOutput:
        """Logits, and the loss where labels are given.

        Args:
            input_ids, attention_mask: As `encode_plots` takes them, in the place of
                `node_vectors`: movies that share nobody.
            node_vectors: (batch, 1 + relations, hidden_size), a plot's vector, then the mean of its
                neighbours' in each relation; where it has none, its own again.
            text_present: (batch,) booleans; only under `missing_modality="learned"`. None is all.
            labels: (batch, num_labels), 0 or 1.
            output_embedding: Also return what the classifier's network sees
                (batch, (1 + relations) * projection_dim).

        Raises:
            ValueError: Neither plots nor vectors are given.
        """
        given = input_ids if node_vectors is None else node_vectors
        size = self.check_inputs({"text": given}, {"text": text_present})
        if node_vectors is None and input_ids is not None:
            node_vectors = self.encode_plots(input_ids, attention_mask)[:, None]
        own, *around = ((node_vectors - self.vector_mean) / self.vector_std).unbind(dim=1)
        own = self.replace_absent("text", own, text_present, size)
        parts = [own, *(around or [own] * (len(self.projections) - 1))]
        projected = [project(part) for project, part in zip(self.projections, parts, strict=True)]
        embedding = self.classifier_norm(torch.cat(projected, dim=-1))
        hidden = self.classifier_dropout(self.classifier_ffn(embedding))
        logits = self.classifier(hidden)
        return GenreClassifierOutput(
            loss=None if labels is None else self.genre_loss(logits, labels),
            logits=logits,
            embedding=embedding if output_embedding else None,
        )
