"""GAT with EfficientNet (Seo et al. 2022, the first half of MM-GATBT): attention over movies.

A node is a movie, its features are the 1000 ImageNet logits of its poster, and neighbours share a
person in their credits. The layer is Velickovic et al. 2018 (arXiv 1710.10903), eq. 1 to 6, with
self-loops, by torch-geometric.

Departures from the paper and its code (sbseo/mm-gatbt):
- The loss acts on logits; the code puts a sigmoid before a loss that applies one again.
- The best epoch is chosen on validation; the code chooses it on the test set.
- The validation movies are nodes too; the code leaves them out.
- The threshold is the config's, 0.5 by default; the code's is 0.25, under its double sigmoid.
- Node features are standardised with the training movies' mean and deviation, so that any poster
  encoder can be taken; the code takes the logits as they are.
- A poster that is missing is a zero tensor, or a learned vector in the place of its logits.
"""

import warnings
from typing import Any, ClassVar

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from torchvision.models.resnet import ResNet

from .base import GenreClassifierOutput, GenreConfig, GenrePreTrainedModel
from .efficientnet import EFFICIENTNETS
from .layers import RESNETS
from .mmbt import IMAGE_MEAN, IMAGE_STD

NODE_FEATURE_DIM = 1000  # ImageNet's classes


@strict
class GatConfig(GenreConfig):
    r"""Config of the graph system; also the graph part of MM-GATBT's.

    Args:
        image_architecture: A torchvision EfficientNet or ResNet, whose logits are node features.
            It is fixed.
        graph_roles: People in these roles make edges: `sparse`, `medium`, `dense` (Seo et al. 2022)
            or roles by name; none leaves nothing but self-loops, the graph-free twin.
        graph_max_movies: People with more movies make no edges; None is no cap.
        num_gat_layers: Layers before the output layer.
        gat_hidden_size: Units of a head.
        num_gat_heads: Heads of each of those layers, which are concatenated.
        num_output_heads: Heads of the output layer, which are averaged.
        gat_dropout: Dropout of each layer's input.
        gat_attention_dropout: Dropout of attention weights.
        gat_negative_slope: Of the LeakyReLU in the attention scores.
    """

    model_type = "mmgenre-gat"
    modalities: ClassVar[tuple[str, ...]] = ("image",)

    image_architecture: str = "efficientnet_b4"
    image_resize: int | None = 256
    image_mean: list[float] | tuple[float, ...] = IMAGE_MEAN
    image_std: list[float] | tuple[float, ...] = IMAGE_STD
    trainable_image_layers: list[str] | tuple[str, ...] = ()
    graph_roles: list[str] | tuple[str, ...] = ("medium",)
    graph_max_movies: int | None = None
    num_gat_layers: int = 3
    gat_hidden_size: int = 32
    num_gat_heads: int = 8
    num_output_heads: int = 3
    gat_dropout: float = 0.1
    gat_attention_dropout: float = 0.1
    gat_negative_slope: float = 0.1

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.image_architecture not in EFFICIENTNETS and self.image_architecture not in RESNETS:
            raise ValueError(
                f"image_architecture is {self.image_architecture!r}; it can be "
                f"{', '.join((*EFFICIENTNETS, *RESNETS))}"
            )
        if self.trainable_image_layers:
            raise ValueError(
                f"trainable_image_layers is {list(self.trainable_image_layers)}; node features are "
                "computed once, so the poster encoder cannot learn"
            )

    @property
    def node_embedding_dim(self) -> int:
        """Size of a node's vector before the output layer."""
        return self.gat_hidden_size * self.num_gat_heads


class GatTrunk(nn.Module):
    """The layers before the output layer, with a residual connection from the second on.

    Maps node features (nodes, 1000) and edges to node vectors (nodes, node_embedding_dim).
    """

    def __init__(self, config: GatConfig) -> None:
        super().__init__()
        dim = config.node_embedding_dim
        self.dropout = nn.Dropout(config.gat_dropout)
        self.layers = nn.ModuleList(
            gat_layer(config, dim if i else NODE_FEATURE_DIM, config.gat_hidden_size)
            for i in range(config.num_gat_layers)
        )

    def forward(self, x: torch.Tensor, edge_index: torch.Tensor) -> torch.Tensor:
        for i, layer in enumerate(self.layers):
            updated = layer(self.dropout(x), edge_index)
            x = nn.functional.elu(updated + x if i else updated)
        return x


class GraphPreTrainedModel(GenrePreTrainedModel):
    """Base of the systems with a movie graph: the fixed poster encoder and the trunk."""

    config: Any
    feature_mean: torch.Tensor
    feature_std: torch.Tensor
    supports_gradient_checkpointing = False
    _image_head_keys: ClassVar[str] = r"(?!)"  # none: the head makes the logits

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        name = config.image_architecture
        self.image_encoder = (
            EFFICIENTNETS[name]() if name in EFFICIENTNETS else ResNet(*RESNETS[name])
        )
        self.trunk = GatTrunk(config)
        self.add_placeholders(image=NODE_FEATURE_DIM)
        self.register_buffer("feature_mean", torch.zeros(NODE_FEATURE_DIM))
        self.register_buffer("feature_std", torch.ones(NODE_FEATURE_DIM))

    @torch.no_grad()
    def encode_posters(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Node features (batch, 1000) of posters (batch, 3, image_size, image_size).

        In eval mode always: neither dropout nor a batch's other posters change them.
        """
        self.image_encoder.eval()
        return self.image_encoder(pixel_values)

    def encode_nodes(
        self,
        node_features: Any,
        edge_index: torch.Tensor,
        image_present: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Node vectors (nodes, node_embedding_dim); the arguments are `forward`'s of GAT."""
        scaled = (node_features - self.feature_mean) / self.feature_std
        features = self.replace_absent("image", scaled, image_present, len(node_features))
        return self.trunk(features, edge_index)

    def set_scale(self, features: torch.Tensor) -> None:
        """Standardise node features with the mean and deviation of these (movies, 1000)."""
        deviation, mean = torch.std_mean(features, dim=0)
        self.feature_mean.copy_(mean)
        self.feature_std.copy_(deviation.clamp(min=1e-6))


class GatForSequenceClassification(GraphPreTrainedModel):
    """Genres of movies from their posters and those of the movies that they share people with."""

    config_class = GatConfig
    config: GatConfig

    def __init__(self, config: GatConfig) -> None:
        super().__init__(config)
        self.classifier = gat_layer(
            config,
            config.node_embedding_dim,
            len(config.genres),
            heads=config.num_output_heads,
            concat=False,
            residual=True,
        )
        self.post_init()
        self.freeze()

    def forward(
        self,
        pixel_values: torch.Tensor | None = None,
        node_features: torch.Tensor | None = None,
        edge_index: torch.Tensor | None = None,
        target_nodes: torch.Tensor | None = None,
        image_present: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        output_embedding: bool = False,
    ) -> GenreClassifierOutput:
        """Logits, and the loss where labels are given.

        Args:
            pixel_values: (nodes, 3, image_size, image_size), in the place of `node_features`.
            node_features: (nodes, 1000), from `encode_posters`.
            edge_index: (2, edges): a column (i, j) lets node j attend to node i. Self-loops are
                added, so they are not needed. None is no edges: movies that share nobody.
            target_nodes: (batch,) nodes of the movies that are asked for; None is all.
            image_present: (nodes,) booleans; only under `missing_modality="learned"`. None is all.
            labels: (batch, num_labels), 0 or 1.
            output_embedding: Also return the movies' node vectors (batch, node_embedding_dim).

        Raises:
            ValueError: Neither posters nor node features are given.
        """
        given = pixel_values if node_features is None else node_features
        self.check_inputs({"image": given}, {"image": image_present})
        if node_features is None and pixel_values is not None:
            node_features = self.encode_posters(pixel_values)
        if edge_index is None:
            edge_index = torch.empty(2, 0, dtype=torch.long, device=self.device)
        vectors = self.encode_nodes(node_features, edge_index, image_present)
        logits = self.classifier(self.trunk.dropout(vectors), edge_index)
        if target_nodes is not None:
            vectors, logits = vectors[target_nodes], logits[target_nodes]
        return GenreClassifierOutput(
            loss=None if labels is None else self.genre_loss(logits, labels),
            logits=logits,
            embedding=vectors if output_embedding else None,
        )


def gat_layer(
    config: GatConfig,
    in_features: int,
    out_features: int,
    heads: int | None = None,
    **options: Any,
) -> nn.Module:
    """One layer of torch-geometric's.

    Raises:
        ValueError: torch-geometric is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch.jit, on import
            from torch_geometric.nn import GATConv
    except ImportError as error:
        raise ValueError(
            "the systems gat and mm_gatbt need torch-geometric, which is not installed; "
            "pip install 'mmgenre[graph]'"
        ) from error
    return GATConv(
        in_features,
        out_features,
        heads=heads or config.num_gat_heads,
        negative_slope=config.gat_negative_slope,
        dropout=config.gat_attention_dropout,
        **options,
    )
