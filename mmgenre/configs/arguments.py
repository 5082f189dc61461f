"""The arguments of the commands. A field is the flag, the YAML key and the W&B key.

Architecture, loss and preprocessing are not here but in each model's config (`model_config`).
Processes, precision and sharding are Accelerate's (`accelerate launch`, `accelerate_configs/`).
"""

from dataclasses import dataclass, field
from typing import Any, Literal

DataFormat = Literal["auto", "hub", "folder", "archive", "jsonl", "hdf5", "prepared"]
ProtocolName = Literal["report", "arevalo", "mmbt"]


def _arg(default: Any, help: str) -> Any:
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata={"help": help})
    return field(default=default, metadata={"help": help})


@dataclass
class ModelArguments:
    _argument_group_name = "model"

    model: str = _arg("mmgenre", "System to train, by its name in mmgenre/models/registry.py.")
    image_backbone: str | None = _arg(
        None,
        "Pretrained poster encoder: a torchvision weight name, a .safetensors or .pth file, a "
        "folder or a Hub name. Left out: random weights.",
    )
    text_backbone: str | None = _arg(
        None,
        "Pretrained BERT plot encoder: a folder, a Hub name or a run, whose best checkpoint's is "
        "taken; gives the tokenizer as well. "
        "Left out: random weights.",
    )
    graph_backbone: str | None = _arg(
        None,
        "Trained gat, for mm_gatbt: a run, whose best checkpoint is taken, or a saved model. Gives "
        "the config's graph fields as well. Left out: random weights.",
    )
    tokenizer: str | None = _arg(
        None,
        "Tokenizer's folder or Hub name where it is not text_backbone's; 'train' makes one from "
        "the training plots.",
    )
    model_config: dict[str, Any] = _arg(
        {}, "Fields of the model's config, e.g. fusion_tokens=grid loss=bce; values are YAML."
    )


@dataclass
class MoviesArguments:
    """Which movies, in which splits, with which labels."""

    _argument_group_name = "data"

    dataset: str | None = _arg(
        None, "Folder, HDF5 file, Hub name, or 'demo' for movies that are drawn on the spot."
    )
    data_format: DataFormat = _arg("auto", "Format of the data set; auto finds it from the path.")
    prepared_dir: str | None = _arg(
        None,
        "Folder that the data set is prepared into on first use, and read from; see "
        "`mmgenre prepare`.",
    )
    content_hash: str | None = _arg(
        None, "Prepared data must have this content hash; a run notes the one that it began with."
    )
    protocol: ProtocolName | None = _arg(
        None,
        "Published choice of movies, labels and splits of MM-IMDb. Left out: all movies, in the "
        "data set's own splits.",
    )
    validation_fraction: float = _arg(
        0.15, "Share of the training movies held out where the data set names no validation split."
    )
    split_method: Literal["random", "stratified"] = _arg(
        "random",
        "Choice of these movies: at random, or with rare genres in both parts in proportion.",
    )
    genres: list[str] = _arg(
        [],
        "Label names, or a .txt file with one a line. Left out: all genres of the training movies, "
        "sorted.",
    )
    unknown_genres: Literal["error", "drop"] = _arg(
        "error",
        "A held-out movie with a genre that is not among the labels: stop, or drop the genre.",
    )


@dataclass
class DataArguments(MoviesArguments):
    broken_posters: Literal["count", "error"] = _arg(
        "count", "A poster that cannot be decoded: count, name and treat as missing, or stop."
    )
    augmentation: Literal["report", "none"] = _arg(
        "report", "Training posters: the report's crops, flips, colours and rotations, or none."
    )
    augmentation_device: Literal["host", "accelerator"] = _arg(
        "host",
        "Where posters are augmented: one at a time by the loader processes, as in the report, or "
        "a batch at once on the accelerator.",
    )
    graph: str | None = _arg(
        None,
        "For gat and mm_gatbt: folder that `mmgenre graph` wrote. Left out: made from the credits.",
    )
    graph_setting: Literal["transductive", "inductive"] = _arg(
        "transductive",
        "Movies that the graph holds in training: of all splits, without their labels, or the "
        "training movies alone, to which an evaluated split is added later.",
    )
    graph_neighbors: list[int] = _arg(
        [],
        "Neighbours drawn of each movie in each hop, e.g. 10 10 10 10, for graphs that do not fit "
        "into memory. Left out: the whole graph in every batch.",
    )
    dataloader_num_workers: int = _arg(2, "Loader processes a training process.")
    scratch_dir: str | None = _arg(
        None,
        "Folder on a node's own disk that prepared data is copied to, once a node, and read from.",
    )


@dataclass
class OptimizationArguments:
    _argument_group_name = "optimization"

    learning_rate: float = _arg(1e-4, "AdamW's learning rate after warm-up.")
    backbone_learning_rate: float | None = _arg(
        None, "The encoders' own learning rate after warm-up. Left out: learning_rate."
    )
    weight_decay: float = _arg(1e-5, "AdamW's weight decay.")
    decay_bias_and_norm: bool = _arg(
        True, "Weight decay acts on biases and normalisation layers as well, as in the report."
    )
    frozen_image_epochs: int = _arg(0, "First epochs in which the poster encoder does not learn.")
    frozen_text_epochs: int = _arg(0, "First epochs in which the plot encoder does not learn.")
    positive_weight_power: float | None = _arg(
        None,
        "With model_config loss=bce: a genre that n of N training movies have weighs (N/n) to this "
        "power; 1 is MMBT's. Left out: all weigh 1.",
    )
    max_grad_norm: float | None = _arg(
        None, "Clip the gradient to this norm. Left out: no clipping."
    )
    lr_scheduler_type: Literal["plateau", "linear", "cosine"] = _arg(
        "plateau",
        "After warm-up: learning_rate until a plateau of the metric, as in the report, or a decay "
        "to 0 by optimizer step.",
    )
    warmup_epochs: int = _arg(
        3,
        "Epochs of linear warm-up: from a hundredth of learning_rate and by epoch under plateau, "
        "from 0 and by step under linear and cosine.",
    )
    warmup_ratio: float | None = _arg(
        None, "Under linear and cosine: share of all steps that warm up, in place of warmup_epochs."
    )
    plateau_factor: float | None = _arg(
        None,
        "Learning rate is multiplied by this on a plateau, also under linear and cosine. Left out: "
        "0.2 under plateau, never under the others.",
    )
    plateau_patience: int = _arg(2, "Epochs without a better metric that are still no plateau.")
    early_stopping_patience: int = _arg(
        5, "Stop after so many epochs in a row without improvement."
    )
    early_stopping_min_delta: float = _arg(0.001, "A smaller gain is no improvement.")


@dataclass
class TrainingArguments:
    _argument_group_name = "training"

    recipe: str | None = _arg(
        None, "Name in mmgenre/configs/recipes or a YAML file: defaults for all other flags."
    )
    output_dir: str = _arg("runs/train", "Folder that the run is written to.")
    overwrite_output_dir: bool = _arg(
        False, "Delete the run that output_dir holds, and start anew."
    )
    resume_from_checkpoint: str | None = _arg(
        None,
        "Continue the run in output_dir with its own configuration: 'auto' is the newest whole "
        "checkpoint, or a new start where there is none; or 'last', 'best' or a name.",
    )
    seed: int = _arg(42, "Seed of split, weights, order, augmentation and dropout.")
    num_train_epochs: int = _arg(20, "Epochs at most.")
    per_device_train_batch_size: int = _arg(16, "Movies a process sees at once in training.")
    group_by_length: bool = _arg(
        False, "Steps of movies with plots of similar length, which need less padding."
    )
    per_device_eval_batch_size: int = _arg(32, "Movies a process sees at once in evaluation.")
    auto_find_batch_size: bool = _arg(
        False,
        "Before training, halve per_device_train_batch_size until it fits the device's memory; "
        "gradient_accumulation_steps rises as much.",
    )
    gradient_accumulation_steps: int = _arg(1, "Batches that make up one optimizer step.")
    channels_last: bool = _arg(
        False, "Keep pictures and convolutions channel by channel in memory."
    )
    torch_compile: bool = _arg(False, "Compile the model; the first steps take minutes.")
    gradient_checkpointing: bool = _arg(
        False, "Compute the plot encoder's activations again in the backward pass: less memory."
    )
    tf32: bool = _arg(False, "TensorFloat-32 in place of fp32 products, on GPUs.")
    sync_bn: bool = _arg(False, "Batch normalisation over all processes' movies, on GPUs.")
    metric_for_best_model: Literal[
        "f1_macro", "f1_micro", "f1_weighted", "f1_samples", "map_macro", "map_micro"
    ] = _arg(
        "f1_macro", "Validation metric that drives plateau, early stopping and best checkpoint."
    )
    save_steps: int | None = _arg(
        None, "Optimizer steps between two checkpoints within an epoch. Left out: one an epoch."
    )
    save_total_limit: int = _arg(2, "Checkpoints kept; best and last are never deleted.")
    logging_steps: int = _arg(50, "Optimizer steps between two lines of the log.")
    max_nonfinite_steps: int = _arg(
        10, "Steps in a row that are skipped because their gradient is not finite; then stop."
    )
    ddp_timeout: float = _arg(
        1800.0, "Seconds until a process that does not answer counts as lost."
    )


@dataclass
class TrackingArguments:
    _argument_group_name = "tracking"

    report_to: Literal["auto", "wandb", "tensorboard", "none"] = _arg(
        "auto", "auto is W&B where somebody is logged in and otherwise nothing."
    )
    project_name: str = _arg("mmgenre", "Project that the run is filed under.")
    run_name: str | None = _arg(None, "The run's name. Left out: output_dir's last part.")
    run_group: str | None = _arg(None, "W&B's group of the run, such as a sweep's or all seeds'.")
    run_tags: list[str] = _arg([], "W&B's tags of the run.")
    num_examples: int = _arg(
        16,
        "Validation movies in the table of posters, plots, true and predicted genres that W&B "
        "gets; 0 leaves it out.",
    )
    log_model: bool = _arg(False, "Keep the best model as an artifact of W&B.")


@dataclass
class EvaluationArguments:
    _argument_group_name = "evaluation"

    checkpoint: str = _arg("best", "Checkpoint of a run: best, last or a name such as epoch_0003.")
    split: Literal["train", "validation", "test"] = _arg("validation", "Movies to evaluate on.")
    dataset: str | None = _arg(None, "Other data set than the run's own; needed for a bare model.")
    data_format: DataFormat = _arg("auto", "Format of that data set; auto finds it from the path.")
    protocol: ProtocolName | None = _arg(
        None,
        "Protocol that chooses the movies. Left out: as in training, or none with a dataset named.",
    )
    unknown_genres: Literal["error", "drop"] | None = _arg(
        None, "A genre that the model does not know: stop, or drop it. Left out: as in training."
    )
    fit_thresholds: Literal["0.5", "global", "per_genre"] | None = _arg(
        None,
        "Fit decision thresholds on the validation split and store them in the model: one for all "
        "genres, one a genre, or back to 0.5. Left out: use those that the model has.",
    )
    ablations: bool = _arg(
        False,
        "Also evaluate with posters, then plots, missing from a quarter to all of the movies, and "
        "shuffled between movies.",
    )
    report_dir: str | None = _arg(
        None,
        "Folder for the figures. Left out: reports/SPLIT in the run, or beside you for a model.",
    )
    per_device_eval_batch_size: int | None = _arg(
        None, "Movies a process sees at once. Left out: as in training."
    )
    dataloader_num_workers: int | None = _arg(None, "Loader processes. Left out: as in training.")


@dataclass
class StatsArguments:
    _argument_group_name = "statistics"

    seed: int = _arg(TrainingArguments.seed, "Seed of the split, as in training.")
    tokenizer: str | None = _arg(
        None, "Tokenizer's folder or Hub name, to count a plot's tokens. Left out: its words."
    )
    max_length: int = _arg(128, "Tokens of a plot that the model sees; the rest is cut off.")
    output: str = _arg("runs/stats", "Folder that stats.json and stats.png are written to.")


@dataclass
class DoctorArguments:
    _argument_group_name = "job"

    time_left: str | None = _arg(
        None, "Time until the job's end, as Slurm writes it: 1-12:00:00, 30:00. Left out: no end."
    )
    signal_seconds: float = _arg(
        120.0, "So long before that end the job is asked to stop, and saves."
    )


@dataclass
class TrainConfig:
    """The resolved configuration of a training run."""

    training: TrainingArguments
    data: DataArguments
    model: ModelArguments
    optimization: OptimizationArguments
    tracking: TrackingArguments
