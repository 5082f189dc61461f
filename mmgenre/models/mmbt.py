"""MMBT (Kiela et al. 2019, arXiv 1909.02950): BERT over image tokens and the words of the plot.

Token layout, for N image tokens and T words:

    token      [CLS]  image 1 .. image N  [SEP]   word 1 .. word T
    segment      0      0          0        0       1        1
    position     0      1          N       N+1      0       T-1

Departures from the paper and its code (facebookresearch/mmbt):
- Attention masks padding with the lowest finite number in place of -10000.
- `frozen_text_epochs` holds BERT's embeddings and pooler still as well, not its layers alone.
- A plot is cut to `max_length` tokens together with [CLS] and [SEP], not to N less.
- The paper averages several seeds; its grid for MM-IMDb is not published. The recipe has the values
  of the code's example run.
"""

from typing import Any, ClassVar

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import BertModel

from .base import GenreClassifierOutput, GenrePreTrainedModel, ImageTextGenreConfig
from .layers import ResNetEncoder

# Grids that regions are pooled to, by number of image tokens (the code's table).
IMAGE_GRIDS = {
    **{n: (n, 1) for n in (1, 2, 3, 5, 7)},
    **{4: (2, 2), 6: (3, 2), 8: (4, 2), 9: (3, 3)},
}
# Of MM-IMDb's posters (the code's constants).
IMAGE_MEAN = (0.46777044, 0.44531429, 0.40661017)
IMAGE_STD = (0.12221994, 0.12145835, 0.14380469)


@strict
class MmbtConfig(ImageTextGenreConfig):
    r"""Config of MMBT.

    Args:
        num_image_tokens: Tokens that a poster's regions are pooled to; a key of `IMAGE_GRIDS`.
    """

    model_type = "mmgenre-mmbt"
    modalities: ClassVar[tuple[str, ...]] = ("image", "text")

    image_architecture: str = "resnet152"
    num_image_tokens: int = 3
    image_resize: int | None = 256
    image_mean: list[float] | tuple[float, ...] = IMAGE_MEAN
    image_std: list[float] | tuple[float, ...] = IMAGE_STD

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.num_image_tokens not in IMAGE_GRIDS:
            raise ValueError(
                f"num_image_tokens is {self.num_image_tokens}; it can be "
                f"{', '.join(map(str, sorted(IMAGE_GRIDS)))}"
            )


class MmbtForSequenceClassification(GenrePreTrainedModel):
    """Genres of a movie from its poster and its plot, fused word by word inside BERT.

    Under `missing_modality="learned"` an absent poster's tokens are the learned vector, and an
    absent plot is a sequence without words.
    """

    config_class = MmbtConfig
    config: MmbtConfig

    def __init__(self, config: MmbtConfig) -> None:
        super().__init__(config)
        self.image_encoder = ResNetEncoder(config.image_architecture)
        self.text_encoder = BertModel(config.text_config)
        hidden_size = config.text_config.hidden_size
        self.image_pool = nn.AdaptiveAvgPool2d(IMAGE_GRIDS[config.num_image_tokens])
        self.image_projection = nn.Linear(self.image_encoder.feature_dim, hidden_size)
        self.add_placeholders(image=hidden_size)
        self.classifier = nn.Linear(hidden_size, len(config.genres))
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
            input_ids: (batch, length), as BERT's tokenizer makes them: [CLS], words, [SEP],
                padding. Also of an absent plot, which has no words.
            attention_mask: (batch, length), 1 for a token and 0 for padding; None is all ones.
            image_present: (batch,) booleans; only under `missing_modality="learned"`. None is all.
            text_present: Taken, but of no effect: a plot without words says the same.
            labels: (batch, num_labels), 0 or 1.
            output_embedding: Also return BERT's pooled output (batch, hidden_size).

        Raises:
            ValueError: A modality that the model needs is not given.
        """
        tokens = self.image_tokens(pixel_values, input_ids, image_present, text_present)
        sequence = lay_out_tokens(self.text_encoder, tokens, input_ids, attention_mask)
        embedding = self.text_encoder(**sequence).pooler_output
        logits = self.classifier(embedding)
        return GenreClassifierOutput(
            loss=None if labels is None else self.genre_loss(logits, labels),
            logits=logits,
            embedding=embedding if output_embedding else None,
        )

    def image_tokens(
        self,
        pixel_values: torch.Tensor | None,
        input_ids: torch.Tensor | None,
        image_present: torch.Tensor | None,
        text_present: torch.Tensor | None,
    ) -> torch.Tensor:
        """(batch, num_image_tokens, hidden_size), after a check of all inputs as in `forward`."""
        size = self.check_inputs(
            {"image": pixel_values, "text": input_ids},
            {"image": image_present, "text": text_present},
        )
        if pixel_values is None:
            tokens = self.replace_absent("image", None, None, size)
            return tokens[:, None].expand(-1, self.config.num_image_tokens, -1)
        regions = self.image_pool(self.image_encoder(pixel_values))
        tokens = self.image_projection(regions.flatten(2).transpose(1, 2))
        return self.replace_absent("image", tokens, image_present, size)


def lay_out_tokens(
    bert: BertModel,
    tokens: torch.Tensor,
    input_ids: torch.Tensor | None,
    attention_mask: torch.Tensor | None,
) -> dict[str, torch.Tensor]:
    """Inputs of `bert.forward` for the layout at the top of this file.

    Word, position and segment embeddings and their LayerNorm are BERT's own, also for `tokens`.

    Args:
        tokens: (batch, N, hidden_size), what stands in the places of words in segment 0.
        input_ids, attention_mask: As in `MmbtForSequenceClassification.forward`.

    Returns:
        `inputs_embeds` (batch, N + length, hidden_size), and `attention_mask`, `token_type_ids`
        and `position_ids` (batch, N + length); the [CLS] and [SEP] around `tokens` are the plot's.

    Raises:
        ValueError: `input_ids` is None.
    """
    if input_ids is None:
        raise ValueError(
            "this model needs input_ids of every movie; those of an absent plot are [CLS] and [SEP]"
        )
    if attention_mask is None:
        attention_mask = torch.ones_like(input_ids)
    ends = attention_mask.sum(dim=1, keepdim=True) - 1
    # Where the next token is real too, a token after [CLS] is a word.
    words, is_word = input_ids[:, 1:-1], attention_mask[:, 2:]
    embed = bert.embeddings.word_embeddings
    inputs_embeds = torch.cat(
        [embed(input_ids[:, :1]), tokens, embed(input_ids.gather(1, ends)), embed(words)], dim=1
    )
    block = tokens.shape[1] + 2
    positions = torch.arange(max(block, words.shape[1]), device=words.device)
    segments = torch.zeros_like(inputs_embeds[..., 0], dtype=torch.long)
    segments[:, block:] = 1
    return {
        "inputs_embeds": inputs_embeds,
        "attention_mask": torch.cat([is_word.new_ones(words.shape[0], block), is_word], dim=1),
        "token_type_ids": segments,
        "position_ids": torch.cat([positions[:block], positions[: words.shape[1]]]).expand_as(
            segments
        ),
    }
