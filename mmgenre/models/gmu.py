"""GMU, the gated multimodal unit (Arevalo et al. 2017, arXiv 1702.01992), and its maxout head.

Departures from the paper and its code (johnarevalo/gmu-mmimdb):
- Initial weights are torch's; the code draws them uniformly from ranges that it searches over.
- No limit on the norm of weights, which the code's search switches on in every second trial.
- The published figures are of the best of 25 random trials, whose values are not published; the
  recipe has the code's default configuration.
- End to end, from a ResNet and BERT, is this project's addition.
"""

import torch
from huggingface_hub.dataclasses import strict
from torch import nn

from .layers import Maxout, MovieBatchNorm
from .vectors import Fused, VectorsConfig, VectorsPreTrainedModel


@strict
class GmuConfig(VectorsConfig):
    r"""Config of GMU.

    Args:
        hidden_size: Width of both projections, the gate and the head; the paper searches 64 to 512.
        dropout: Share of a linear map's inputs that are dropped; the paper searches 0.3 to 0.7.
    """

    model_type = "mmgenre-gmu"

    hidden_size: int = 512
    dropout: float = 0.5


class GatedMultimodalUnit(nn.Module):
    """z * tanh(x_v) + (1 - z) * tanh(x_t), with z = sigmoid(W [x_v, x_t]) (eq. 1-5 of the paper).

    The gate has a value a unit and no bias, and sees the projections before their tanh, as in the
    code. Inputs and output (batch, size).
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.gate = nn.Linear(2 * size, size, bias=False)

    def forward(self, image: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
        z = torch.sigmoid(self.gate(torch.cat([image, text], dim=-1)))
        return z * torch.tanh(image) + (1 - z) * torch.tanh(text)


class GmuForSequenceClassification(VectorsPreTrainedModel):
    """Genres of a movie from two vectors: batch norm and projection of each, the gate, maxout."""

    config_class = GmuConfig
    config: GmuConfig

    def __init__(self, config: GmuConfig) -> None:
        super().__init__(config)
        size, dropout = config.hidden_size, config.dropout
        self.image_projection, self.text_projection = (
            nn.Sequential(
                MovieBatchNorm(dim), nn.Dropout(dropout), nn.Linear(dim, size, bias=False)
            )
            for dim in (self.vector_dims["image"], self.vector_dims["text"])
        )
        self.gmu = GatedMultimodalUnit(size)
        self.head = nn.Sequential(
            *(MovieBatchNorm(size), nn.Dropout(dropout), Maxout(size, size)),
            *(MovieBatchNorm(size), nn.Dropout(dropout), Maxout(size, size)),
            *(MovieBatchNorm(size), nn.Dropout(dropout)),
        )
        self.classifier = nn.Linear(size, len(config.genres))
        self.post_init()
        self.freeze()

    def fuse(self, image: torch.Tensor, text: torch.Tensor) -> Fused:
        fused = self.gmu(self.image_projection(image), self.text_projection(text))
        return Fused(fused, self.classifier(self.head(fused)))
