"""Opens what was trained: a run's folder, or a saved model by folder or Hub name."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from mmgenre.checkpoints import find_model, store_thresholds
from mmgenre.configs.arguments import (
    DataArguments,
    EvaluationArguments,
    TrainConfig,
    TrainingArguments,
)
from mmgenre.configs.parser import load_config
from mmgenre.constants import (
    BEST_CHECKPOINT,
    CONFIG_FILE,
    HISTORY_FILE,
    REPORTS_DIR,
)
from mmgenre.data.dataset import MovieDataset
from mmgenre.evaluation.evaluator import Evaluation
from mmgenre.evaluation.plots import TrainingCurves
from mmgenre.evaluation.predictions import Predictions
from mmgenre.evaluation.slices import movie_attributes
from mmgenre.evaluation.thresholds import describe_thresholds
from mmgenre.models.base import GenrePreTrainedModel
from mmgenre.models.registry import load_model, load_processor
from mmgenre.training.components import create_evaluator
from mmgenre.training.early_stopping import EarlyStopping
from mmgenre.training.output_dir import History
from mmgenre.utils.errors import UserError


@dataclass(frozen=True)
class Saved:
    """A trained model and everything needed to evaluate it as it was evaluated in training."""

    path: str
    run_dir: Path | None
    model: GenrePreTrainedModel
    processor: Any
    data: DataArguments
    seed: int
    batch_size: int
    selection: str
    report_dir: Path
    curves: TrainingCurves | None

    def context(self, split: str, num_movies: int, precision: str) -> dict[str, str | int | float]:
        """What a figure means nothing without."""
        return {
            "model": self.path,
            "selection": self.selection,
            "dataset": str(self.data.prepared_dir or self.data.dataset),
            "split": split,
            "movies": num_movies,
            "threshold": describe_thresholds(self.model.config.thresholds),
            "precision": "fp32" if precision == "no" else precision,
        }

    def evaluate(self, accelerator: Accelerator, model: Any, dataset: MovieDataset) -> Evaluation:
        """Evaluate the prepared model as in training. Called by all processes."""
        workers = self.data.dataloader_num_workers
        evaluator = create_evaluator(
            accelerator, dataset, self.model.config, self.processor, self.batch_size, workers
        )
        return evaluator.evaluate(model)

    def predictions(self, evaluation: Evaluation, dataset: MovieDataset, split: str) -> Predictions:
        """What there is to say of each movie, for all of the model's genres."""
        return Predictions(
            ids=[record.id for record in dataset.records],
            genres=self.model.config.genres,
            probabilities=evaluation.probabilities,
            labels=evaluation.labels,
            split=split,
            thresholds=self.model.config.thresholds,
            attributes=movie_attributes(dataset.records),
        )

    def store_thresholds(self) -> None:
        """Let whoever loads the model from its folder decide by the thresholds it has now.

        Raises:
            UserError: The folder cannot be written to.
        """
        store_thresholds(Path(self.path), self.model.config.thresholds)


def open_saved(run_or_model: str, args: EvaluationArguments) -> Saved:
    """Open a run's checkpoint or a saved model.

    Raises:
        UserError: It is neither, is not whole, or is a bare model and no data set is named.
    """
    folder, run_dir, curves = Path(run_or_model), None, None
    path = find_model(run_or_model, args.checkpoint)
    if (folder / CONFIG_FILE).is_file():
        run = load_config(folder / CONFIG_FILE)
        data, training = run.data, run.training
        run_dir, reports = folder, folder / REPORTS_DIR
        curves = _read_curves(folder / HISTORY_FILE, run)
        selection = args.checkpoint
        if selection == BEST_CHECKPOINT:
            selection = f"best {training.metric_for_best_model} on validation"
    else:
        if args.dataset is None:
            what = "is a model without a run" if folder.exists() else "does not exist here"
            raise UserError(f"{run_or_model!r} {what}; a model by itself needs --dataset as well")
        data, training = DataArguments(), TrainingArguments()
        reports = Path(REPORTS_DIR) / folder.name
        selection = "as saved"
    if args.fit_thresholds is not None and not Path(path).is_dir():
        raise UserError(
            f"fit_thresholds stores thresholds in the model's folder, and {path!r} is none; save "
            "the model to a folder first"
        )
    try:
        model, processor = load_model(path), load_processor(path)
    except ValueError as error:
        raise UserError(str(error)) from error
    changes: dict[str, Any] = {}
    if args.dataset is not None:
        # The protocol of the run's data set says nothing about another one.
        changes = {"dataset": args.dataset, "data_format": args.data_format, "protocol": None}
        changes |= {"prepared_dir": None, "content_hash": None}
    for name in ("protocol", "unknown_genres", "dataloader_num_workers"):
        if getattr(args, name) is not None:
            changes[name] = getattr(args, name)
    return Saved(
        path=path,
        run_dir=run_dir,
        model=model,
        processor=processor,
        data=replace(data, **changes),
        seed=training.seed,
        batch_size=args.per_device_eval_batch_size or training.per_device_eval_batch_size,
        selection=selection,
        report_dir=Path(args.report_dir) if args.report_dir else reports / args.split,
        curves=curves,
    )


def _read_curves(path: Path, run: TrainConfig) -> TrainingCurves:
    metric = f"validation/{run.training.metric_for_best_model}"
    early_stopping = EarlyStopping(
        run.optimization.early_stopping_patience, run.optimization.early_stopping_min_delta
    )
    try:
        epochs = History(path).entries()
        for entry in epochs:
            early_stopping.update(float(entry[metric]))
            float(entry["epoch"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} cannot be read ({error}); a run's history has a line of JSON an epoch, with "
            f"epoch and {metric}"
        ) from error
    is_over = len(epochs) >= run.training.num_train_epochs
    return TrainingCurves(epochs, metric, early_stopping.should_stop and not is_over)
