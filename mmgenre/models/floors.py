"""The floor under every table: TF-IDF with logistic regression, and two systems that look at
nothing.

None is trained by steps; `mmgenre.training.fitting` computes their weights from all training movies
at once. TF-IDF is scikit-learn's `TfidfVectorizer` and a `LogisticRegression` for each genre, in
the form that every other system has.
"""

from typing import Any, ClassVar, Literal

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from torch.nn import functional as F

from .base import GenreClassifierOutput, GenreConfig, GenrePreTrainedModel


@strict
class FloorConfig(GenreConfig):
    r"""Config of a system that takes plots as words.

    Args:
        vocab_size: Words and special tokens of the tokenizer that is made of the training plots.
        min_df: A word is one that so many training plots have at least.
        credit_roles: Roles whose people's names follow the plot as a word each; as in the movie
            graph, `sparse`, `medium`, `dense` or roles by name.
    """

    modalities: ClassVar[tuple[str, ...]] = ("text",)

    vocab_size: int = 2
    min_df: int = 2
    credit_roles: list[str] | tuple[str, ...] = ()
    # A plot is never cut, and an absent one is a plot without words.
    max_length: int = 1_000_000
    missing_plot: str = ""

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.min_df < 1:
            raise ValueError(f"min_df is {self.min_df}; it must be 1 or more")


@strict
class TfidfConfig(FloorConfig):
    r"""Config of TF-IDF with logistic regression.

    Args:
        sublinear_tf: A word that a plot has n times counts 1 + ln n in place of n.
        C: Inverse strength of the L2 penalty on each genre's weights.
        class_weight: `balanced` lets movies with and without a genre weigh the same in sum.
    """

    model_type = "mmgenre-tfidf"

    sublinear_tf: bool = False
    C: float = 1.0
    class_weight: Literal["balanced"] | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.C <= 0:
            raise ValueError(f"C is {self.C}; it must be above 0")


@strict
class MajorityConfig(FloorConfig):
    """Config of the most frequent genre."""

    model_type = "mmgenre-majority"


@strict
class LabelFrequencyConfig(FloorConfig):
    """Config of the label frequencies."""

    model_type = "mmgenre-label_frequency"


class _FloorPreTrainedModel(GenrePreTrainedModel):
    """Logits of a movie from the vector that a system makes of its words."""

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
            attention_mask: Not needed, as padding is no word.
            text_present: (batch,) booleans; only under `missing_modality="learned"`. None is all.
            labels: (batch, num_labels), 0 or 1.
            output_embedding: Also return the vector that the logits are a linear map of.

        Raises:
            ValueError: No plot is given.
        """
        self.check_inputs({"text": input_ids}, {"text": text_present})
        assert input_ids is not None  # or `check_inputs` had raised
        if text_present is not None:
            input_ids = input_ids * text_present[:, None]  # token 0 is padding
        embedding = self.embed(input_ids)
        logits = self.classify(embedding)
        return GenreClassifierOutput(
            loss=None if labels is None else self.genre_loss(logits, labels),
            logits=logits,
            embedding=embedding if output_embedding else None,
        )

    def embed(self, input_ids: torch.Tensor) -> torch.Tensor:
        """(batch, dim) of token ids (batch, length)."""
        raise NotImplementedError

    def classify(self, embedding: torch.Tensor) -> torch.Tensor:
        """(batch, num_labels) of (batch, dim)."""
        raise NotImplementedError


class TfidfForSequenceClassification(_FloorPreTrainedModel):
    """Genres of a movie from the words of its plot, whatever their order."""

    config_class = TfidfConfig
    config: TfidfConfig
    idf: torch.Tensor

    def __init__(self, config: TfidfConfig) -> None:
        super().__init__(config)
        # 0 for what is no word: the special tokens, which come first
        self.register_buffer("idf", torch.ones(config.vocab_size))
        self.classifier = nn.Linear(config.vocab_size, len(config.genres))
        self.post_init()

    def embed(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Counts, weighted by inverse document frequency, of length 1."""
        counts = self.idf.new_zeros(input_ids.shape[0], self.config.vocab_size)
        counts.scatter_add_(1, input_ids, self.idf.new_ones(input_ids.shape))
        if self.config.sublinear_tf:
            counts = torch.where(counts > 0, 1 + counts.clamp(min=1).log(), counts)
        return F.normalize(counts * self.idf)

    def classify(self, embedding: torch.Tensor) -> torch.Tensor:
        return self.classifier(embedding)


class _ConstantForSequenceClassification(_FloorPreTrainedModel):
    """The same logits for every movie."""

    def __init__(self, config: FloorConfig) -> None:
        super().__init__(config)
        self.classifier_bias = nn.Parameter(torch.zeros(len(config.genres)))
        self.post_init()

    def embed(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.classifier_bias.new_zeros(input_ids.shape[0], 0)

    def classify(self, embedding: torch.Tensor) -> torch.Tensor:
        return self.classifier_bias.repeat(embedding.shape[0], 1)


class MajorityForSequenceClassification(_ConstantForSequenceClassification):
    """Every movie has the genre that most training movies have, and no other.

    Genres that are equally frequent are all predicted. Logits are 1 and -1.
    """

    config_class = MajorityConfig


class LabelFrequencyForSequenceClassification(_ConstantForSequenceClassification):
    """A genre's probability is the share of training movies that have it.

    Under fitted thresholds a genre is therefore predicted for all movies or for none.
    """

    config_class = LabelFrequencyConfig
