"""The training loop. It knows no model, no data format and no schedule."""

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from mmgenre.constants import LAST_CHECKPOINT
from mmgenre.data.dataset import MovieDataset
from mmgenre.data.loaders import GlobalBatchSampler
from mmgenre.evaluation.evaluator import Evaluation, Evaluator
from mmgenre.training.checkpointing import Checkpointer, find_checkpoint
from mmgenre.training.early_stopping import EarlyStopping
from mmgenre.training.optimization import LateEncoders
from mmgenre.training.output_dir import History
from mmgenre.training.schedulers import LearningRateSchedule
from mmgenre.training.state import TrainingState
from mmgenre.utils.errors import UserError
from mmgenre.utils.logging import show_progress

logger = logging.getLogger(__name__)


class Trainer:
    """Trains a model until its epochs are over or its metric no longer rises.

    Args:
        model: As `accelerator.prepare` returned it; its `forward` takes a batch's tensors and
            returns an output with `loss`, the mean over the batch's movies.
        optimizer: Likewise prepared.
        loader: Yields the micro-batches of `sampler`, in its order.
        batch_transform: Makes the model's inputs of a micro-batch that is on the device.
        metric_for_best_model: Key of `Evaluation.metrics`.
    """

    def __init__(
        self,
        *,
        accelerator: Accelerator,
        model: nn.Module,
        processor: Any,
        optimizer: torch.optim.Optimizer,
        schedule: LearningRateSchedule,
        late_encoders: LateEncoders,
        early_stopping: EarlyStopping,
        dataset: MovieDataset,
        sampler: GlobalBatchSampler,
        loader: DataLoader[Any],
        batch_transform: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]],
        evaluator: Evaluator,
        checkpointer: Checkpointer,
        history: History,
        num_train_epochs: int,
        metric_for_best_model: str,
        max_grad_norm: float | None = None,
        logging_steps: int = 50,
    ) -> None:
        self.accelerator = accelerator
        self.model = model
        self.processor = processor
        self.optimizer = optimizer
        self.schedule = schedule
        self.late_encoders = late_encoders
        self.early_stopping = early_stopping
        self.dataset = dataset
        self.sampler = sampler
        self.loader = loader
        self.batch_transform = batch_transform
        self.evaluator = evaluator
        self.checkpointer = checkpointer
        self.history = history
        self.num_train_epochs = num_train_epochs
        self.metric_for_best_model = metric_for_best_model
        self.max_grad_norm = max_grad_norm
        self.logging_steps = logging_steps
        self.state = TrainingState()

    def resume(self, name: str | None) -> None:
        """Continue from a checkpoint. Called by all processes.

        Args:
            name: `last`, `best`, a checkpoint's own name, `auto` for the last if there is any, or
                None to start anew.

        Raises:
            UserError: There is no such checkpoint, or it is not whole.
        """
        if name == "auto":
            name = LAST_CHECKPOINT if self.checkpointer.has_any() else None
        if name is None:
            return
        checkpoint = find_checkpoint(self.checkpointer.folder, name)
        self.load_state_dict(self.checkpointer.load(checkpoint, self.model))
        if self.accelerator.is_main_process:
            self.history.truncate(self.state.epoch)
        logger.info("resumed from %s, after epoch %d", checkpoint, self.state.epoch)

    def fit(self) -> TrainingState:
        """Train from the current state on. Called by all processes.

        Returns:
            The state at the end.
        """
        with self._progress() as self.progress:
            while self.state.epoch < self.num_train_epochs and not self.early_stopping.should_stop:
                started = time.perf_counter()
                self.start_epoch()
                train_loss = self.train_epoch()
                evaluation = self.evaluator.evaluate(self.model)
                self.note_metric(evaluation)
                self.record(train_loss, evaluation, time.perf_counter() - started)
                self.save()
        if self.early_stopping.should_stop:
            logger.info("stopped early after epoch %d", self.state.epoch)
        return self.state

    def start_epoch(self) -> None:
        epoch = self.state.epoch
        self.sampler.set_epoch(epoch)
        self.dataset.epoch = epoch

    def train_epoch(self) -> float:
        """One pass over the training movies; the mean loss of a movie over all processes."""
        self.model.train()
        self.late_encoders.hold_statistics(self.state.epoch)
        batches = iter(self.loader)
        total = torch.zeros((), device=self.accelerator.device)
        num_samples = 0
        for step in range(self.sampler.num_steps):
            size = len(self.sampler.step_movies(step))
            loss = self.train_step(batches, self.sampler.micro_batches(step), size)
            total += loss * size
            num_samples += size
            self.state.step += 1
            self.state.num_samples += size
            self._log_step(loss)
        mean = self.accelerator.reduce(total, "sum").item() / num_samples
        if not math.isfinite(mean):
            raise UserError(
                f"the training loss of epoch {self.state.epoch + 1} is {mean}; "
                "lower learning_rate or set max_grad_norm"
            )
        return mean

    def train_step(self, batches: Any, micro_batches: list[list[int]], size: int) -> torch.Tensor:
        """One optimizer step on a global batch of `size` movies.

        Each micro-batch's mean loss is weighted by its share of the global batch, so that the
        gradient is that of the mean over all movies of the step, however they are laid out.

        Returns:
            This process's part of that mean; the parts of all processes add up to it.
        """
        total = torch.zeros((), device=self.accelerator.device)
        for i, movies in enumerate(micro_batches):
            is_last = i == len(micro_batches) - 1
            with nullcontext() if is_last else self.accelerator.no_sync(self.model):
                batch = self.batch_transform(self._to_device(next(batches)))
                loss = self.model(**batch).loss * (len(movies) / size)
                # DistributedDataParallel averages over processes where a sum is meant.
                self.accelerator.backward(loss * self.accelerator.num_processes)
            total += loss.detach()
        self.late_encoders.drop_gradients(self.state.epoch)
        if self.max_grad_norm is not None:
            self.accelerator.clip_grad_norm_(self.model.parameters(), self.max_grad_norm)
        self.schedule.apply(self.state.epoch, self.state.step)
        self.optimizer.step()
        self.optimizer.zero_grad()
        return total

    def note_metric(self, evaluation: Evaluation) -> None:
        """Tell schedule, early stopping and state of the finished epoch.

        The metric is computed from all processes' movies, so that all decide alike.
        """
        metric = evaluation.metrics[self.metric_for_best_model]
        self.schedule.end_epoch(self.state.epoch, metric)
        self.early_stopping.update(metric)
        self.state.epoch += 1
        self.state.note_metric(metric)

    def record(self, train_loss: float, evaluation: Evaluation, seconds: float) -> None:
        metrics = {f"validation/{name}": value for name, value in evaluation.metrics.items()}
        rates = self.schedule.learning_rates
        learning_rate = next(iter(rates.values()))
        entry = {
            "epoch": self.state.epoch,
            "step": self.state.step,
            "learning_rate": learning_rate,
            **{f"learning_rate/{name}": rate for name, rate in rates.items()},
            "train/loss": train_loss,
            "validation/loss": evaluation.loss,
            **metrics,
        }
        self.accelerator.log(entry, step=self.state.step)
        if self.accelerator.is_main_process:
            self.history.append(entry)
        logger.info(
            "epoch %d/%d: train loss %.4f, validation loss %.4f, macro F1 %.4f, micro F1 %.4f, "
            "learning rate %.2e, %.1f s",
            self.state.epoch,
            self.num_train_epochs,
            train_loss,
            evaluation.loss,
            evaluation.metrics["f1_macro"],
            evaluation.metrics["f1_micro"],
            learning_rate,
            seconds,
        )

    def save(self) -> None:
        self.checkpointer.save(
            self.state.epoch,
            self.model,
            self.processor,
            self.state_dict(),
            self.state.best_epoch,
        )

    def state_dict(self) -> dict[str, Any]:
        return {
            "training": self.state.state_dict(),
            "schedule": self.schedule.state_dict(),
            "early_stopping": self.early_stopping.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.state.load_state_dict(state["training"])
        self.schedule.load_state_dict(state["schedule"])
        self.early_stopping.load_state_dict(state["early_stopping"])

    def _log_step(self, loss: torch.Tensor) -> None:
        self.progress.update()
        if self.state.step % self.logging_steps == 0:
            value = self.accelerator.reduce(loss, "sum").item()
            self.accelerator.log({"train/step_loss": value}, step=self.state.step)
            self.progress.set_postfix(loss=f"{value:.4f}")
            if self.progress.disable:
                logger.info("step %d: loss %.4f", self.state.step, value)

    def _to_device(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        device = self.accelerator.device
        return {k: v.to(device, non_blocking=True) for k, v in batch.items() if k != "index"}

    @contextmanager
    def _progress(self) -> Iterator[Any]:
        """The run's one bar, under which log lines do not tear it."""
        bar = tqdm(
            total=self.num_train_epochs * self.sampler.num_steps,
            initial=self.state.step,
            desc="training",
            unit=" steps",
            disable=not show_progress(),
        )
        with bar, nullcontext() if bar.disable else logging_redirect_tqdm():
            yield bar
