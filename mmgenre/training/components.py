"""Builds what `train.py` and `evaluate.py` put together, from the resolved configuration."""

import logging
from collections.abc import Callable, Sequence
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from PIL import Image
from torch import nn

from mmgenre.configs.arguments import DataArguments, TrainConfig
from mmgenre.constants import CHECKPOINTS_DIR, DEMO_DATA_DIR, HISTORY_FILE
from mmgenre.data.collator import GenreCollator
from mmgenre.data.credits import expand_roles
from mmgenre.data.dataset import MovieDataset, drop_broken_posters
from mmgenre.data.demo import write_demo_movies
from mmgenre.data.labels import GenreVocabulary
from mmgenre.data.loaders import (
    GlobalBatchSampler,
    create_eval_loader,
    create_train_loader,
    text_lengths,
)
from mmgenre.data.movies import Movies
from mmgenre.data.neighborhoods import NodeCollator, NodeDataset
from mmgenre.data.prepare import PrepareOptions, prepare_movies
from mmgenre.data.readers.prepared import is_complete
from mmgenre.data.records import VALIDATION, MovieRecord, RejectedPoster
from mmgenre.data.tokenizer import are_tokens_usable
from mmgenre.data.transforms import (
    CropForDevice,
    DeviceAugmentation,
    HostAugmentation,
    pad_posters,
)
from mmgenre.evaluation.evaluator import Evaluator
from mmgenre.models.base import GenreConfig, GenrePreTrainedModel
from mmgenre.models.floors import FloorConfig
from mmgenre.models.gat import GatConfig, GatForSequenceClassification
from mmgenre.models.mm_gatbt import MmGatbtForSequenceClassification
from mmgenre.models.pictures import open_poster
from mmgenre.models.sign import SignForSequenceClassification
from mmgenre.training.accelerator import configure_model
from mmgenre.training.agreement import Agreement
from mmgenre.training.checkpointing import Checkpointer
from mmgenre.training.early_stopping import EarlyStopping
from mmgenre.training.fitting import FittingTrainer
from mmgenre.training.graph_nodes import (
    GraphNodes,
    add_node_embeddings,
    create_node_dataset,
    create_nodes,
)
from mmgenre.training.new_model import check_features, check_modalities, create_model
from mmgenre.training.optimization import LateEncoders, create_optimizer
from mmgenre.training.output_dir import History
from mmgenre.training.preemption import Preemption
from mmgenre.training.schedulers import create_schedule
from mmgenre.training.tracking import Tracker
from mmgenre.training.trainer import Trainer
from mmgenre.utils.errors import UserError

logger = logging.getLogger(__name__)

# A movie is to them no more than its node.
NODE_SYSTEMS = (GatForSequenceClassification, SignForSequenceClassification)


def provide_data(config: TrainConfig, output_dir: Path) -> None:
    """Draw the demo movies into `output_dir`, and prepare the data set into `prepared_dir`.

    Neither is done again where it is complete already.

    Raises:
        UserError: As `prepare_movies`, or the folder was prepared from another data set.
    """
    data = config.data
    if data.dataset == "demo":
        data.dataset = str(write_demo_movies(output_dir / DEMO_DATA_DIR))
    if data.prepared_dir is None:
        return
    folder = Path(data.prepared_dir)
    if is_complete(folder, data.dataset):
        return
    if data.dataset is None:
        raise UserError(f"dataset is missing; prepared_dir {folder} is to be made from it")
    tokenizer = config.model.tokenizer or config.model.text_backbone
    prepare_movies(
        data.dataset,
        folder,
        open_poster,
        PrepareOptions(tokenizer=None if tokenizer == "train" else tokenizer),
        data_format=data.data_format,
        broken_posters=data.broken_posters,
    )


def create_dataset(
    records: Sequence[MovieRecord],
    vocabulary: GenreVocabulary,
    config: GenreConfig,
    processor: Any,
    broken_posters: str,
    augment: Callable[[Image.Image, int], Any] | None = None,
    seed: int = 0,
) -> MovieDataset:
    """A split's data set, without the posters that cannot be decoded.

    Raises:
        UserError: A poster is broken and `broken_posters` is `error`; or the model takes features
            that the movies do not have, or have in another size.
    """
    uses_images = "image" in processor.modalities
    min_side = config.poster_side
    rejected: list[RejectedPoster] = []
    if uses_images:
        records, rejected = drop_broken_posters(records, open_poster, min_side, broken_posters)
    use_tokens = "text" in processor.modalities and are_tokens_usable(
        records, processor.tokenizer, config.max_length
    )
    uses_features = "features" in processor.modalities
    if uses_features:
        check_modalities(records, ["features"])
        check_features(records, processor.feature_dims)
    return MovieDataset(
        records,
        vocabulary,
        open_poster if uses_images else None,
        min_side,
        augment,
        seed,
        rejected,
        use_tokens,
        uses_features,
        expand_roles(config.credit_roles) if isinstance(config, FloorConfig) else (),
    )


def create_split(
    movies: Movies,
    split: str,
    model: GenrePreTrainedModel,
    processor: Any,
    data: DataArguments,
    nodes: GraphNodes | None = None,
    augment: Callable[[Image.Image, int], Any] | None = None,
    seed: int = 0,
) -> MovieDataset:
    """The data set of a split's movies, in the form that the model takes.

    Args:
        nodes: For a system with a movie graph.

    Raises:
        UserError: As `create_dataset`, or the split has no movies.
    """
    records = movies.split(split)
    if nodes is not None and isinstance(model, NODE_SYSTEMS):
        return create_node_dataset(nodes, split, movies, model.config, data, seed)
    if nodes is not None and isinstance(model, MmGatbtForSequenceClassification):
        records = add_node_embeddings(nodes, split, records, model, data)
    return create_dataset(
        records, movies.vocabulary, model.config, processor, data.broken_posters, augment, seed
    )


class Augmentation(NamedTuple):
    """What augments training posters, in the order in which they meet it."""

    augment: Callable[[Image.Image, int], Any] | None
    encode_images: Callable[[list[Any]], dict[str, torch.Tensor]]
    batch_transform: nn.Module


def create_augmentation(args: DataArguments, config: GenreConfig, processor: Any) -> Augmentation:
    """The augmentation of a model's training posters, in the form that the arguments name."""
    # Node features are made of every poster once, as it is.
    is_fixed = "image" not in config.modalities or isinstance(config, GatConfig)
    if args.augmentation == "none" or is_fixed:
        return Augmentation(None, processor.encode_images, nn.Identity())
    if args.augmentation_device == "host":
        augment = HostAugmentation(config.image_size)
        encode_images = partial(processor.encode_images, are_cropped=True)
        return Augmentation(augment, encode_images, nn.Identity())
    on_device = DeviceAugmentation(
        config.image_size,
        config.image_mean,
        config.image_std,
        mark_missing=config.missing_modality == "learned",
    )
    return Augmentation(CropForDevice(config.image_size), pad_posters, on_device)


def create_evaluator(
    accelerator: Accelerator,
    dataset: MovieDataset,
    config: GenreConfig,
    processor: Any,
    batch_size: int,
    num_workers: int,
) -> Evaluator:
    """The evaluation of a model on a data set."""
    loader = create_eval_loader(
        dataset, batch_size, _create_collator(dataset, processor), num_workers
    )
    return Evaluator(accelerator, loader, config.genres, config.thresholds)


def create_trainer(
    config: TrainConfig,
    accelerator: Accelerator,
    movies: Movies,
    output_dir: Path,
    preemption: Preemption,
) -> Trainer:
    """Everything that `Trainer.fit` needs, at the start of a run.

    Raises:
        UserError: As `create_model` and `create_dataset`.
    """
    training, data, optimization = config.training, config.data, config.optimization
    set_seed(training.seed)
    model, processor = create_model(
        config.model, movies.vocabulary, movies.split("train"), optimization.positive_weight_power
    )
    nodes = create_nodes(
        accelerator,
        model,
        processor,
        movies,
        data,
        training.per_device_eval_batch_size,
        output_dir,
    )
    if nodes is not None and isinstance(model, NODE_SYSTEMS):
        model.set_scale(torch.tensor(nodes.features_of("train")))
    augmentation = create_augmentation(data, model.config, processor)
    dataset = create_split(
        movies, "train", model, processor, data, nodes, augmentation.augment, training.seed
    )
    check_modalities(dataset.records, processor.modalities)  # again: posters can be broken
    _check_poster_size(movies, model.config)
    validation = create_split(movies, VALIDATION, model, processor, data, nodes)
    sampler = GlobalBatchSampler(
        len(dataset),
        global_batch_size=training.per_device_train_batch_size
        * training.gradient_accumulation_steps
        * accelerator.num_processes,
        batch_size=training.per_device_train_batch_size,
        num_processes=accelerator.num_processes,
        process_index=accelerator.process_index,
        seed=training.seed,
        lengths=text_lengths(dataset.records) if training.group_by_length else None,
    )
    late_encoders = LateEncoders(
        model,
        {"image": optimization.frozen_image_epochs, "text": optimization.frozen_text_epochs},
    )
    configure_model(model, training, accelerator)
    optimizer = create_optimizer(
        model,
        optimization.learning_rate,
        optimization.weight_decay,
        optimization.backbone_learning_rate,
        optimization.decay_bias_and_norm,
    )
    schedule = create_schedule(
        optimization, optimizer, lambda: sampler.num_steps, training.num_train_epochs
    )
    evaluator = create_evaluator(
        accelerator,
        validation,
        model.config,
        processor,
        training.per_device_eval_batch_size,
        data.dataloader_num_workers,
    )
    prepared_model, prepared_optimizer = accelerator.prepare(model, optimizer)
    agreement = Agreement(accelerator, timedelta(seconds=training.ddp_timeout))
    trainer_class = FittingTrainer if isinstance(model.config, FloorConfig) else Trainer
    return trainer_class(
        accelerator=accelerator,
        model=prepared_model,
        processor=processor,
        optimizer=prepared_optimizer,
        schedule=schedule,
        late_encoders=late_encoders,
        early_stopping=EarlyStopping(
            optimization.early_stopping_patience, optimization.early_stopping_min_delta
        ),
        dataset=dataset,
        sampler=sampler,
        loader=create_train_loader(
            dataset,
            sampler,
            _create_collator(dataset, processor, augmentation.encode_images),
            data.dataloader_num_workers,
        ),
        batch_transform=augmentation.batch_transform.to(accelerator.device),
        evaluator=evaluator,
        checkpointer=Checkpointer(
            accelerator, agreement, output_dir / CHECKPOINTS_DIR, training.save_total_limit
        ),
        history=History(output_dir / HISTORY_FILE),
        tracker=Tracker(accelerator, agreement, config.tracking, output_dir, evaluator),
        num_train_epochs=training.num_train_epochs,
        metric_for_best_model=training.metric_for_best_model,
        agreement=agreement,
        preemption=preemption,
        max_grad_norm=optimization.max_grad_norm,
        logging_steps=training.logging_steps,
        save_steps=training.save_steps,
        max_nonfinite_steps=training.max_nonfinite_steps,
    )


def _create_collator(
    dataset: MovieDataset,
    processor: Any,
    encode_images: Callable[[list[Any]], dict[str, torch.Tensor]] | None = None,
) -> Callable[..., dict[str, torch.Tensor]]:
    if isinstance(dataset, NodeDataset):
        return NodeCollator(dataset)
    return GenreCollator(processor, encode_images)


def _check_poster_size(movies: Movies, config: GenreConfig) -> None:
    if movies.manifest is None:
        return
    poster_size = movies.manifest.options["poster_size"]
    needed = config.image_resize or config.image_size
    if poster_size < needed:
        logger.warning(
            "prepared posters have %d pixels and are enlarged to the model's %d; "
            "`mmgenre prepare --poster_size %d` keeps more of them",
            poster_size,
            needed,
            needed,
        )
