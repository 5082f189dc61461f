"""ReFNet (Sankaran et al. 2021, arXiv 2104.03435; 2022, arXiv 2201.00872): a fusion network and a
refiner, which asks of the fused embedding that each modality can be recovered from it.

Of the hidden states of BERT's last layer but one, the mean over all tokens is the fused embedding g
and the mean over a modality's tokens its own u_m. A decoder a modality gives v_m = D_m(g), and

    loss = classification + sum_m w_r (1 - cos(v_m, u_m)) + w_s multi-similarity(g)

The refiner counts in training only: without labels no decoder runs, and `remove_refiner` leaves the
decoders out of what is saved.

Departures from the paper and its code (facebookresearch/mmf), which in its MM-IMDb configuration
sets the refiner's weights to 0 and does not register the decoders:
- Which fusion network gave 0.680 / 0.587 is not published; here it is MMBT's with one image token,
  as the code's transformer over text and one pooled ResNet vector.
- Weights are the code's for hateful memes, 0.1 each. u_m passes gradients on, as in the code.
- Multi-similarity's two scales are those of its own paper; how several genres make a pair is in
  `losses.multi_similarity_loss`.
- A modality that a movie does not have is not reconstructed.
"""

from typing import Any

import torch
from huggingface_hub.dataclasses import strict
from torch import nn

from .base import GenreClassifierOutput
from .losses import multi_similarity_loss
from .mmbt import MmbtConfig, MmbtForSequenceClassification, lay_out_tokens


@strict
class RefNetConfig(MmbtConfig):
    r"""Config of ReFNet.

    Args:
        refiner: False builds the model without decoders.
        refiner_dropout: Dropout of a decoder's output.
        reconstruction_weight: w_r.
        similarity_weight: w_s.
        min_overlap: Genres that a positive pair of movies shares at least; see `genre_overlap`.
    """

    model_type = "mmgenre-refnet"

    num_image_tokens: int = 1
    image_mean: list[float] | tuple[float, ...] = (0.485, 0.456, 0.406)
    image_std: list[float] | tuple[float, ...] = (0.229, 0.224, 0.225)
    max_length: int = 256
    refiner: bool = True
    refiner_dropout: float = 0.1
    reconstruction_weight: float = 0.1
    similarity_weight: float = 0.1
    min_overlap: float = 0.5


class RefNetForSequenceClassification(MmbtForSequenceClassification):
    """MMBT with decoders from the fused embedding to each modality's own."""

    config_class = RefNetConfig
    config: RefNetConfig

    def __init__(self, config: RefNetConfig) -> None:
        super().__init__(config)
        self.decoders: Any = None
        if config.refiner:
            size = config.text_config.hidden_size
            # Initial weights are torch's, as `_init_weights` has them.
            self.decoders = nn.ModuleDict(
                {
                    name: nn.Sequential(
                        nn.Linear(size, size),
                        nn.ReLU(),
                        nn.LayerNorm(size),
                        nn.Dropout(config.refiner_dropout),
                    )
                    for name in config.modalities
                }
            )

    def remove_refiner(self) -> None:
        """Leave the decoders out, for a model that only predicts."""
        self.config.refiner = False
        self.decoders = None

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
        """As MMBT's; the loss includes the refiner's."""
        tokens = self.image_tokens(pixel_values, input_ids, image_present, text_present)
        sequence = lay_out_tokens(self.text_encoder, tokens, input_ids, attention_mask)
        refines = labels is not None and self.config.refiner
        encoded = self.text_encoder(**sequence, output_hidden_states=refines)
        logits = self.classifier(encoded.pooler_output)
        loss = None
        if labels is not None:
            loss = self.genre_loss(logits, labels)
            if refines:
                is_image = torch.zeros_like(sequence["attention_mask"])
                is_image[:, 1 : tokens.shape[1] + 1] = 1
                if image_present is not None:
                    is_image = is_image * image_present[:, None]
                is_word = sequence["attention_mask"] * sequence["token_type_ids"]
                fused = _masked_mean(encoded.hidden_states[-2], sequence["attention_mask"])
                loss = loss + self.config.similarity_weight * multi_similarity_loss(
                    fused, labels, min_overlap=self.config.min_overlap
                )
                for name, mask in (("image", is_image), ("text", is_word)):
                    loss = loss + self.config.reconstruction_weight * _reconstruction_loss(
                        self.decoders[name](fused), encoded.hidden_states[-2], mask
                    )
        return GenreClassifierOutput(
            loss=loss,
            logits=logits,
            embedding=encoded.pooler_output if output_embedding else None,
        )


def _masked_mean(hidden: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """(batch, dim), mean of (batch, length, dim) over the tokens of a mask; 0 where it has none."""
    weights = mask[..., None].to(hidden)
    return (hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1)


def _reconstruction_loss(
    decoded: torch.Tensor, hidden: torch.Tensor, mask: torch.Tensor
) -> torch.Tensor:
    """1 - cos of `decoded` (batch, dim) and the modality's mean, over movies that have it."""
    target = _masked_mean(hidden, mask)
    distance = 1 - nn.functional.cosine_similarity(decoded.float(), target.float())
    there = mask.any(dim=1).float()
    return (distance * there).sum() / there.sum().clamp(min=1)
