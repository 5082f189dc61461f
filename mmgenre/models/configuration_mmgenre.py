"""Configuration of the report's model."""

from typing import Any, Literal

from huggingface_hub.dataclasses import strict

from .base import ImageTextGenreConfig


@strict
class MMGenreConfig(ImageTextGenreConfig):
    r"""The report's ResNet50 + BERT with SwiGLU projections and attention fusion (section 3).

    The defaults are the report's: 173,575,512 parameters, of which 94,153,496 are trained.

    Args:
        modalities: Which of `image` and `text` the model has.
        projection_dim: Width that both modalities are projected to.
        expansion: SwiGLU's hidden size as a multiple of its input.
        fusion_tokens: What attention runs over. `fused`: the concatenated vector as one token, as
            in the report; attention over one token is a linear map, so its query and key
            projections get no gradient. `modality`: image and text as two tokens. `grid`: the same
            two tokens attending to every region of the poster and every word of the plot as well.
        text_pooling: The plot's vector: BERT's pooled output, as in the report, or the mean of its
            words' vectors, for which sentence encoders are trained.
        modality_dropout: In training, the share of movies that lose one modality, image or text
            with equal chance; needs `missing_modality="learned"`.
    """

    model_type = "mmgenre"
    modalities: list[str] | tuple[str, ...] = ("image", "text")
    projection_dim: int = 512
    expansion: float = 8 / 3
    num_attention_heads: int = 8
    attention_dropout: float = 0.1
    classifier_dropout: float = 0.3
    fusion_tokens: Literal["fused", "modality", "grid"] = "fused"
    text_pooling: Literal["pooler", "mean"] = "pooler"
    modality_dropout: float = 0.0

    loss: Literal["focal", "bce", "asymmetric"] = "focal"
    label_smoothing: float = 0.1
    max_length: int = 128
    trainable_image_layers: list[str] | tuple[str, ...] = ("layer4",)
    trainable_text_layers: list[str] | tuple[str, ...] = (
        "embeddings",
        "encoder.layer.-2",
        "encoder.layer.-1",
        "pooler",
    )

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if not self.modalities or not set(self.modalities) <= {"image", "text"}:
            raise ValueError(
                f"modalities is {list(self.modalities)}; it can be [image, text], [image] or [text]"
            )
        if self.modality_dropout and (
            self.missing_modality != "learned" or len(self.modalities) < 2
        ):
            raise ValueError(
                "modality_dropout needs missing_modality 'learned' and both modalities"
            )
        if not 0 <= self.modality_dropout <= 1:
            raise ValueError(f"modality_dropout is {self.modality_dropout}; it can be 0 to 1")
