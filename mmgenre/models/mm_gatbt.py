"""MM-GATBT (Seo et al. 2022): MMBT whose image tokens are one token, the movie's node in the graph.

The node's vector is that of a trained GAT without its output layer, after tanh. The GAT is fixed,
so that vectors are computed once, and only a linear layer and BERT learn.

Departures from the paper and its code (sbseo/mm-gatbt):
- The GAT does not learn on; the code trains it along with BERT and computes the graph every batch.
- As in `gat.py` and `mmbt.py`; in particular the best epoch is chosen on validation.
"""

from dataclasses import fields
from typing import Any, ClassVar

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import BertModel

from .backbones import load_exactly
from .base import GenreClassifierOutput, GenreConfig, TextGenreConfig
from .gat import GatConfig, GatForSequenceClassification, GraphPreTrainedModel
from .mmbt import lay_out_tokens

# Fields of every config that decide node features.
_OF_POSTERS = ("image_size", "image_resize", "image_mean", "image_std", "missing_modality")


@strict
class MmGatbtConfig(GatConfig, TextGenreConfig):
    r"""Config of MM-GATBT: a plot encoder's, and the fields of the GAT whose vectors it takes."""

    model_type = "mmgenre-mm_gatbt"
    modalities: ClassVar[tuple[str, ...]] = ("text", "features")

    @property
    def feature_dims(self) -> dict[str, int]:
        return {"node_embedding": self.node_embedding_dim}


def graph_fields(config: GatConfig) -> dict[str, Any]:
    """The fields that an MM-GATBT shares with the GAT whose vectors it takes."""
    shared = {field.name for field in fields(GatConfig)} - {f.name for f in fields(GenreConfig)}
    return {name: getattr(config, name) for name in (*sorted(shared), *_OF_POSTERS)}


class MmGatbtForSequenceClassification(GraphPreTrainedModel):
    """Genres of a movie from its plot and its node in the movie graph."""

    config_class = MmGatbtConfig
    config: MmGatbtConfig
    supports_gradient_checkpointing = True

    def __init__(self, config: MmGatbtConfig) -> None:
        super().__init__(config)
        hidden_size = config.text_config.hidden_size
        self.text_encoder = BertModel(config.text_config)
        self.node_projection = nn.Linear(config.node_embedding_dim, hidden_size)
        self.classifier = nn.Linear(hidden_size, len(config.genres))
        self.post_init()
        self.freeze()

    def take_graph(self, gat: GatForSequenceClassification, source: str) -> None:
        """Put a trained GAT's poster encoder and trunk here, bit for bit.

        Args:
            source: What to call it in an error.

        Raises:
            ValueError: It does not fit the config; the message lists the keys.
        """
        for name in ("image_encoder", "trunk", "placeholder"):
            if hasattr(self, name) or hasattr(gat, name):
                load_exactly(getattr(self, name), getattr(gat, name).state_dict(), source)
        self.feature_mean, self.feature_std = gat.feature_mean, gat.feature_std

    def freeze(self) -> None:
        """As in other systems; the graph's part never learns."""
        super().freeze()
        self.trunk.requires_grad_(False)
        if self.config.missing_modality == "learned":
            self.placeholder.requires_grad_(False)

    @torch.no_grad()
    def embed_nodes(
        self,
        node_features: torch.Tensor,
        edge_index: torch.Tensor,
        image_present: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """`node_embedding` of all nodes (nodes, node_embedding_dim), in [-1, 1].

        The arguments are `GatForSequenceClassification.forward`'s. In eval mode always.
        """
        self.trunk.eval()
        return self.encode_nodes(node_features, edge_index, image_present).tanh()

    def forward(
        self,
        node_embedding: torch.Tensor | None = None,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        image_present: torch.Tensor | None = None,
        text_present: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        output_embedding: bool = False,
    ) -> GenreClassifierOutput:
        """Logits, and the loss where labels are given.

        Args:
            node_embedding: (batch, node_embedding_dim), from `embed_nodes`.
            input_ids, attention_mask: As in `MmbtForSequenceClassification.forward`.
            image_present, text_present: Taken, but of no effect: a node is always there, and a
                plot without words says that it is absent.
            labels: (batch, num_labels), 0 or 1.
            output_embedding: Also return BERT's pooled output (batch, hidden_size).

        Raises:
            ValueError: A modality that the model needs is not given.
        """
        self.check_inputs(
            {"image": node_embedding, "text": input_ids},
            {"image": image_present, "text": text_present},
        )
        token = self.node_projection(node_embedding)[:, None]
        sequence = lay_out_tokens(self.text_encoder, token, input_ids, attention_mask)
        embedding = self.text_encoder(**sequence).pooler_output
        logits = self.classifier(embedding)
        return GenreClassifierOutput(
            loss=None if labels is None else self.genre_loss(logits, labels),
            logits=logits,
            embedding=embedding if output_embedding else None,
        )
