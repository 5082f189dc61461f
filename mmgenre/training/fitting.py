"""Systems whose weights are computed from all training movies at once (`models/floors.py`)."""

import logging
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from scipy import sparse
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import normalize
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict

from mmgenre.data.loaders import create_eval_loader
from mmgenre.models.floors import (
    MajorityForSequenceClassification,
    TfidfConfig,
    TfidfForSequenceClassification,
)
from mmgenre.training.trainer import Trainer
from mmgenre.utils.errors import UserError

logger = logging.getLogger(__name__)

MAX_ITERATIONS = 1000
MOVIES_AT_ONCE = 256


class FittingTrainer(Trainer):
    """A run of one epoch, whose steps are replaced by a fit in the main process.

    Optimizer and schedule have nothing to do. All the rest is `Trainer`'s.

    Raises:
        UserError: More epochs than one are asked for.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if self.num_train_epochs != 1:
            raise UserError(
                f"num_train_epochs is {self.num_train_epochs}, and this system is fitted once; "
                "it must be 1"
            )

    def train_epoch(self) -> float:
        """Fit, and put the same weights into all processes; the mean loss of a training movie."""
        weights, loss = self.agreement.main_does(self._fit)
        set_model_state_dict(self.model, weights, options=StateDictOptions(full_state_dict=True))
        self.state.num_samples += len(self.dataset)
        return loss

    def _fit(self) -> tuple[dict[str, Any], float]:
        model, labels = self.accelerator.unwrap_model(self.model).eval(), self.dataset.labels
        if isinstance(model, TfidfForSequenceClassification):
            loader = create_eval_loader(self.dataset, MOVIES_AT_ONCE, self.loader.collate_fn, 0)
            counts = count_words((batch["input_ids"] for batch in loader), model.config)
            weights, logits = fit_tfidf(counts, labels.numpy(), model.config)
        else:
            is_majority = isinstance(model, MajorityForSequenceClassification)
            bias = majority_logits(labels) if is_majority else frequency_logits(labels)
            weights, logits = {"classifier_bias": bias}, bias.expand(labels.shape)
        return weights, model.genre_loss(logits, labels).item()


def count_words(batches: Iterable[torch.Tensor], config: TfidfConfig) -> sparse.csr_array:
    """(movies, vocab_size) of token ids (batch, length): how often a movie has a word."""
    parts = []
    for input_ids in batches:
        rows = np.repeat(np.arange(len(input_ids)), input_ids.shape[1])
        ones = np.ones(len(rows))
        shape = (len(input_ids), config.vocab_size)
        parts.append(sparse.coo_array((ones, (rows, input_ids.numpy().ravel())), shape).tocsr())
    return sparse.csr_array(sparse.vstack(parts))


def fit_tfidf(
    counts: sparse.csr_array, labels: np.ndarray, config: TfidfConfig
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """scikit-learn's smoothed idf and a logistic regression for each genre.

    A genre that no training movie has, or all have, gets a constant logit (`frequency_logits`).

    Args:
        counts: (movies, vocab_size); the first two columns are no words.
        labels: (movies, num_labels), 0 or 1.

    Returns:
        The model's weights, and the logits (movies, num_labels).
    """
    num_movies = len(labels)
    document_frequency = np.bincount(counts.indices, minlength=config.vocab_size)
    idf = np.log((1 + num_movies) / (1 + document_frequency)) + 1
    idf[:2] = 0
    if config.sublinear_tf:
        counts.data = 1 + np.log(counts.data)
    inputs = normalize(counts.multiply(idf[None]).tocsr())
    weight = np.zeros((labels.shape[1], config.vocab_size))
    bias = frequency_logits(torch.from_numpy(labels)).double().numpy()
    for genre, column in enumerate(labels.T):
        if 0 < column.sum() < num_movies:
            regression = LogisticRegression(
                C=config.C, class_weight=config.class_weight, max_iter=MAX_ITERATIONS
            ).fit(inputs, column)
            weight[genre], bias[genre] = regression.coef_[0], regression.intercept_[0]
    logits = torch.from_numpy(inputs @ weight.T + bias)
    weights = {"idf": idf, "classifier.weight": weight, "classifier.bias": bias}
    return {name: torch.from_numpy(value).float() for name, value in weights.items()}, logits


def majority_logits(labels: torch.Tensor) -> torch.Tensor:
    """1 for the genres that most movies have, -1 for the others."""
    counts = labels.sum(dim=0)
    return torch.where(counts == counts.max(), 1.0, -1.0)


def frequency_logits(labels: torch.Tensor) -> torch.Tensor:
    """Of the share of movies that have a genre; half a movie where none has it, or all."""
    num_movies = len(labels)
    counts = labels.sum(dim=0).float().clamp(0.5, num_movies - 0.5)
    return torch.logit(counts / num_movies)
