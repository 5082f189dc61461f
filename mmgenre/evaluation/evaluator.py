"""THE evaluation loop: `train.py` and `evaluate.py` call the same."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader

from mmgenre.evaluation.hf_metric import GenreMetrics
from mmgenre.evaluation.thresholds import DEFAULT_THRESHOLD
from mmgenre.utils.errors import UserError


@dataclass(frozen=True)
class Evaluation:
    """What one pass over a split gives; equal on all processes.

    Attributes:
        loss: Mean over labels and movies, on hard targets.
        metrics: As `metrics.compute_metrics`.
        probabilities: (movies, genres), in the data set's order.
        labels: (movies, genres), 0 or 1.
    """

    loss: float
    metrics: dict[str, float]
    probabilities: np.ndarray
    labels: np.ndarray


class Evaluator:
    """Runs a model over all movies of a loader.

    Args:
        loader: Over all movies in order; batches hold `index`. It is prepared here.
        genres: Label names in label order.
        thresholds: One a genre; None is 0.5.
    """

    def __init__(
        self,
        accelerator: Accelerator,
        loader: DataLoader[Any],
        genres: Sequence[str],
        thresholds: Sequence[float] | None = None,
    ) -> None:
        self.accelerator = accelerator
        self.dataset: Any = loader.dataset
        self.loader = accelerator.prepare_data_loader(loader)
        self.metrics = GenreMetrics(list(genres))
        self.thresholds = DEFAULT_THRESHOLD if thresholds is None else list(thresholds)

    @torch.no_grad()
    def evaluate(
        self, model: nn.Module, before_batch: Callable[[], None] = lambda: None
    ) -> Evaluation:
        """Evaluate a prepared model. Called by all processes.

        Args:
            before_batch: Called before each batch; what it raises ends the evaluation.

        Raises:
            UserError: The model gives outputs that are not finite.
        """
        model.eval()
        parts = []
        for batch in self.loader:
            before_batch()
            index, labels = batch.pop("index"), batch["labels"]
            logits = model(**{k: v for k, v in batch.items() if k != "labels"}).logits
            # Without the movies that fill up the last batch; in order; never in bf16 to numpy.
            gathered = self.accelerator.gather_for_metrics((logits.float(), labels, index))
            parts.append([tensor.cpu() for tensor in gathered])
        logits, labels, index = (torch.cat(column) for column in zip(*parts, strict=True))
        if not torch.equal(index, torch.arange(len(self.dataset))):
            raise AssertionError("evaluation did not see every movie exactly once, in order")
        if not torch.isfinite(logits).all():
            raise UserError("the model's outputs are not finite; lower learning_rate")
        loss = self.accelerator.unwrap_model(model).genre_loss(logits, labels).item()
        probabilities = torch.sigmoid(logits.double()).numpy()
        references = labels.to(torch.int8).numpy()
        metrics = self.metrics.compute(
            predictions=probabilities, references=references, thresholds=self.thresholds
        )
        return Evaluation(loss, metrics, probabilities, references)
