"""The training loop. It knows no model, no data format and no schedule."""

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from torch.distributed.tensor import DTensor
from torch.utils.data import DataLoader
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from mmgenre.checkpoints import epoch_checkpoint, step_checkpoint
from mmgenre.data.dataset import MovieDataset
from mmgenre.data.loaders import GlobalBatchSampler
from mmgenre.evaluation.evaluator import Evaluation, Evaluator
from mmgenre.training.agreement import Agreement
from mmgenre.training.checkpointing import Checkpointer
from mmgenre.training.early_stopping import EarlyStopping
from mmgenre.training.faults import SkippedSteps, explain_faults
from mmgenre.training.optimization import LateEncoders
from mmgenre.training.output_dir import History
from mmgenre.training.preemption import Preemption
from mmgenre.training.resources import Throughput, memory_use
from mmgenre.training.schedulers import LearningRateSchedule
from mmgenre.training.state import TrainingState
from mmgenre.training.tracking import Tracker
from mmgenre.utils.errors import Preempted, UserError
from mmgenre.utils.logging import show_progress

logger = logging.getLogger(__name__)

NUM_NAMED_MOVIES = 5  # of a batch that is at fault


class Trainer:
    """Trains a model until its epochs are over or its metric no longer rises.

    Args:
        model: As `accelerator.prepare` returned it; its `forward` takes a batch's tensors and
            returns an output with `loss`, the mean over the batch's movies.
        optimizer: Likewise prepared.
        loader: Yields the micro-batches of `sampler`, in its order.
        batch_transform: Makes the model's inputs of a micro-batch that is on the device.
        metric_for_best_model: Key of `Evaluation.metrics`.
        save_steps: Optimizer steps between two checkpoints within an epoch.
        max_nonfinite_steps: Steps in a row that may be left out for their gradient.
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
        tracker: Tracker,
        num_train_epochs: int,
        metric_for_best_model: str,
        agreement: Agreement,
        preemption: Preemption,
        max_grad_norm: float | None = None,
        logging_steps: int = 50,
        save_steps: int | None = None,
        max_nonfinite_steps: int = 10,
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
        self.tracker = tracker
        self.num_train_epochs = num_train_epochs
        self.metric_for_best_model = metric_for_best_model
        self.agreement = agreement
        self.preemption = preemption
        self.max_grad_norm = max_grad_norm
        self.logging_steps = logging_steps
        self.save_steps = save_steps
        self.skipped_steps = SkippedSteps(max_nonfinite_steps)
        self.throughput = Throughput()
        self.state = TrainingState()
        self.saved: str | None = None  # name of the checkpoint of where the run stands, if any

    def resume(self, name: str | None) -> None:
        """Continue from a checkpoint. Called by all processes.

        Args:
            name: `last`, `best`, a checkpoint's own name, `auto` for the newest whole one if there
                is any, or None to start anew.

        Raises:
            UserError: There is no such checkpoint, it is not whole, or not of this run.
        """
        if name is None:
            return
        checkpoint = self.checkpointer.find(name)
        if checkpoint is not None:
            state = self.checkpointer.load(checkpoint, self.model, self.optimizer)
            try:
                self.load_state_dict(state)
            except KeyError as error:
                raise UserError(
                    f"checkpoint {checkpoint} has no {error}; another version of mmgenre wrote it"
                ) from error
            if self.state.step_in_epoch:
                # What is recorded where the epoch has no step left to set them.
                self.schedule.apply(self.state.epoch, self.state.step - 1)
            logger.info(
                "resumed from %s, after epoch %d and %d steps of the next",
                checkpoint,
                self.state.epoch,
                self.state.step_in_epoch,
            )
        if self.accelerator.is_main_process:
            self.history.truncate(self.state.epoch)

    def fit(self) -> TrainingState:
        """Train from the current state on. Called by all processes.

        Returns:
            The state at the end.

        Raises:
            Preempted: The run was asked to stop; a checkpoint is written.
            UserError: The run cannot go on as it is configured.
            RunError: A process was lost.
        """
        self.preemption.defer()
        with explain_faults(self._where), self._progress() as self.progress:
            while self.state.epoch < self.num_train_epochs and not self.early_stopping.should_stop:
                started = time.perf_counter()
                self.start_epoch()
                train_loss = self.train_epoch()
                evaluation = self.evaluator.evaluate(self.model, self.stop_if_asked)
                self.note_metric(evaluation)
                self.record(train_loss, evaluation, time.perf_counter() - started)
                self.save()
        if self.early_stopping.should_stop:
            logger.info("stopped early after epoch %d", self.state.epoch)
        return self.state

    def start_epoch(self) -> None:
        epoch = self.state.epoch
        self.sampler.set_epoch(epoch, self.state.step_in_epoch)
        self.dataset.epoch = epoch

    def train_epoch(self) -> float:
        """What is left of an epoch; the mean loss of a movie over all processes and the epoch."""
        self.model.train()
        self.late_encoders.hold_statistics(self.state.epoch)
        batches = iter(self.loader)
        self.loss_sum = self._own_loss_sum()
        self.throughput.start(self.state.num_samples)
        for step in range(self.state.step_in_epoch, self.sampler.num_steps):
            self.stop_if_asked()
            self.train_step(batches, step)
            if self.save_steps is not None and self.state.step % self.save_steps == 0:
                self.save()
        total = self.accelerator.reduce(self.loss_sum, "sum").item()
        mean = total / self.state.loss_samples if self.state.loss_samples else math.nan
        if not math.isfinite(mean):
            raise UserError(
                f"the training loss of epoch {self.state.epoch + 1} is {mean}; "
                "lower learning_rate or set max_grad_norm"
            )
        return mean

    def train_step(self, batches: Iterator[Any], step: int) -> None:
        """One optimizer step, on the movies of an epoch's step.

        Each micro-batch's mean loss is weighted by its share of the global batch, so that the
        gradient is that of the mean over all movies of the step, however they are laid out.
        """
        micro_batches, movies = self.sampler.micro_batches(step), self.sampler.step_movies(step)
        loss = torch.zeros((), device=self.accelerator.device)  # this process's part of the mean
        for i, part in enumerate(micro_batches):
            is_last = i == len(micro_batches) - 1
            self._seed_micro_batch(i)
            with nullcontext() if is_last else self.accelerator.no_sync(self.model):
                batch = self.to_device(self.throughput.wait_for(batches))
                share = self.model(**batch).loss * (len(part) / len(movies))
                # DistributedDataParallel averages over processes where a sum is meant.
                self.accelerator.backward(share * self.accelerator.num_processes)
            loss += share.detach()
        if self.update_parameters(movies):
            self.loss_sum += loss * len(movies)
            self.state.loss_samples += len(movies)
        self.state.step += 1
        self.state.step_in_epoch += 1
        self.state.num_samples += len(movies)
        self._log_step(loss)

    def update_parameters(self, movies: np.ndarray) -> bool:
        """Step the optimizer unless the gradient is not finite, which all processes see alike.

        Returns:
            Whether it stepped.
        """
        self.late_encoders.drop_gradients(self.state.epoch)
        scaler = self.accelerator.scaler
        self.accelerator.unscale_gradients()
        parameters = list(self.model.parameters())
        norm = nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        self.grad_norm = norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        if self.max_grad_norm is not None:
            nn.utils.clip_grads_with_norm_(parameters, self.max_grad_norm, norm)
        is_finite = bool(norm.isfinite())
        if is_finite or scaler is not None:  # which leaves the step out by itself
            self.schedule.apply(self.state.epoch, self.state.step)
            self.optimizer.step()
        self.optimizer.zero_grad()
        # A scaler finds its scale by skipping; only below 1 the gradient itself is at fault.
        if scaler is None or is_finite or scaler.get_scale() < 1:
            first = [self.dataset.records[i].id for i in movies[:NUM_NAMED_MOVIES]]
            self.skipped_steps.note(self.state.step + 1, is_finite, first)
        return is_finite

    def note_metric(self, evaluation: Evaluation) -> None:
        """Tell schedule, early stopping and state of the finished epoch.

        The metric is computed from all processes' movies, so that all decide alike.
        """
        metric = evaluation.metrics[self.metric_for_best_model]
        self.schedule.end_epoch(self.state.epoch, metric)
        self.early_stopping.update(metric)
        self.state.end_epoch(metric)

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
            "train/skipped_steps": self.skipped_steps.total,
            "validation/loss": evaluation.loss,
            **metrics,
        }
        if self.accelerator.is_main_process:
            self.history.append(entry)
        self.tracker.log_epoch(entry, evaluation, self.state.best_epoch == self.state.epoch)
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
        """Write a checkpoint of where the run stands, unless there is one."""
        state = self.state
        if state.step_in_epoch:
            state.loss_sums = self.accelerator.gather(self.loss_sum[None]).tolist()
        is_within_epoch = state.step_in_epoch or not state.epoch
        name = step_checkpoint(state.step) if is_within_epoch else epoch_checkpoint(state.epoch)
        if name != self.saved:
            best = epoch_checkpoint(state.best_epoch)
            self.checkpointer.save(
                name, self.model, self.processor, self.optimizer, self.state_dict(), best
            )
            self.saved = name

    def stop_if_asked(self) -> None:
        """Save and stop where a process was asked to. Called by all at the same place.

        Raises:
            Preempted: There was a signal.
        """
        if self.agreement.any(self.preemption.is_requested):
            self.save()
            raise Preempted(
                f"stopped in epoch {self.state.epoch + 1}, after step {self.state.step}, as asked; "
                "--resume_from_checkpoint auto goes on from here"
            )

    def state_dict(self) -> dict[str, Any]:
        scaler = self.accelerator.scaler
        return {
            **{name: part.state_dict() for name, part in self._stateful.items()},
            "scaler": None if scaler is None else scaler.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name, part in self._stateful.items():
            part.load_state_dict(state[name])
        if self.accelerator.scaler is not None and state["scaler"]:
            self.accelerator.scaler.load_state_dict(state["scaler"])

    @property
    def _stateful(self) -> dict[str, Any]:
        return {
            "training": self.state,
            "sampler": self.sampler,
            "schedule": self.schedule,
            "early_stopping": self.early_stopping,
            "skipped_steps": self.skipped_steps,
        }

    def to_device(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """A loader's batch as the model takes it, on the device."""
        device = self.accelerator.device
        inputs = {k: v.to(device, non_blocking=True) for k, v in batch.items() if k != "index"}
        return self.batch_transform(inputs)

    def _own_loss_sum(self) -> torch.Tensor:
        """This process's part of the epoch's loss so far."""
        sums, rank = self.state.loss_sums, self.accelerator.process_index
        if len(sums) != self.accelerator.num_processes:  # of another layout
            sums = [sum(sums), *[0.0] * (self.accelerator.num_processes - 1)]
        return torch.tensor(sums[rank], device=self.accelerator.device)

    def _seed_micro_batch(self, index: int) -> None:
        """Make dropout a function of (seed, step, place of the micro-batch in the global batch).

        So it is the same after a restart, and for any layout that cuts the same micro-batches.
        """
        place = index * self.accelerator.num_processes + self.accelerator.process_index
        sequence = np.random.SeedSequence([self.sampler.seed, self.state.step, place])
        seed = int(sequence.generate_state(1, np.uint64)[0])
        # Not torch.manual_seed, which spends 0.1 ms on devices that are not there.
        torch.default_generator.manual_seed(seed)
        if self.accelerator.device.type == "cuda":
            torch.cuda.manual_seed(seed)

    def _where(self) -> tuple[str, str]:
        """What the run is doing, and what lowers the memory that it takes."""
        state = self.state
        if state.step_in_epoch == self.sampler.num_steps:
            return f"the evaluation after step {state.step}", "per_device_eval_batch_size"
        return f"step {state.step + 1}", (
            f"per_device_train_batch_size below {self.sampler.batch_size} and raise "
            "gradient_accumulation_steps as much, or set auto_find_batch_size"
        )

    def _log_step(self, loss: torch.Tensor) -> None:
        self.progress.update()
        if self.state.step % self.logging_steps:
            return
        # One collective for both.
        sums = torch.stack([loss, loss.new_tensor(self.throughput.waited)])
        value, waited = self.accelerator.reduce(sums, "sum").tolist()
        rates = self.schedule.learning_rates
        self.tracker.log_step(
            self.state.step,
            {
                "train/step_loss": value,
                "train/grad_norm": self.grad_norm.item(),
                **{f"train/learning_rate/{name}": rate for name, rate in rates.items()},
                **self.throughput.measure(
                    self.state.num_samples, waited / self.accelerator.num_processes
                ),
                **memory_use(self.accelerator.device),
            },
        )
        self.progress.set_postfix(loss=f"{value:.4f}")
        if self.progress.disable:
            logger.info("step %d: loss %.4f", self.state.step, value)

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
