"""A new model with its processor, and what it asks of the data set."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from transformers import PreTrainedTokenizerBase

from mmgenre.checkpoints import find_model
from mmgenre.configs.arguments import ModelArguments
from mmgenre.data.credits import expand_roles, plot_with_credits
from mmgenre.data.labels import GenreVocabulary
from mmgenre.data.records import MovieRecord
from mmgenre.data.tokenizer import create_word_tokenizer, load_tokenizer, train_tokenizer
from mmgenre.models.base import GenreConfig, GenrePreTrainedModel
from mmgenre.models.floors import FloorConfig
from mmgenre.models.gat import GatConfig, GatForSequenceClassification
from mmgenre.models.mm_gatbt import graph_fields
from mmgenre.models.registry import create_config, get_system, load_class, load_model
from mmgenre.utils.errors import UserError


def create_model(
    args: ModelArguments,
    vocabulary: GenreVocabulary,
    train_records: Sequence[MovieRecord],
    positive_weight_power: float | None = None,
) -> tuple[GenrePreTrainedModel, Any]:
    """A new model with its backbones' weights, and its processor.

    Args:
        train_records: A tokenizer can be trained on their plots; positive weights are from them.

    Raises:
        UserError: The model, a field of its config, a backbone or the tokenizer does not exist or
            does not fit; or no movie has a modality that the model takes.
    """
    graph_model = _load_graph_backbone(args)
    if args.text_backbone is not None:
        args = replace(args, text_backbone=find_model(args.text_backbone))
    try:
        values = args.model_config
        if graph_model is not None:
            values = {**graph_fields(graph_model.config), **values}
        config = create_config(args.model, vocabulary.genres, values, args.text_backbone)
        check_modalities(train_records, _modalities_of_records(config))
        if positive_weight_power is not None:
            if config.loss != "bce":
                raise ValueError(
                    f"positive_weight_power needs model_config loss=bce, not {config.loss}"
                )
            config.pos_weight = vocabulary.positive_weights(train_records, positive_weight_power)
        system = get_system(args.model)
        tokenizer = None
        if isinstance(config, FloorConfig):
            tokenizer = _create_word_tokenizer(args, config, train_records)
            config.vocab_size = len(tokenizer)
        elif "text" in config.modalities:
            plots = [record.plot for record in train_records if record.plot]
            tokenizer = _create_tokenizer(args, config, plots)
        processor = load_class(system.processor).from_config(config, tokenizer)
        model = load_class(system.model).from_backbones(
            config, args.image_backbone, args.text_backbone
        )
        if graph_model is not None:
            model.take_graph(graph_model, f"graph_backbone {args.graph_backbone!r}")
    except ValueError as error:
        raise UserError(str(error)) from error
    return model, processor


def _modalities_of_records(config: GenreConfig) -> list[str]:
    """What the data set must have; a graph system makes its features of the posters."""
    is_graph = isinstance(config, GatConfig)
    return ["image" if is_graph and name == "features" else name for name in config.modalities]


def check_modalities(records: Sequence[MovieRecord], modalities: Sequence[str]) -> None:
    """See that one movie at least has each modality.

    Raises:
        UserError: None has one of them.
    """
    there = {
        "image": any(record.poster is not None for record in records),
        "text": any(record.plot for record in records),
        "features": any(record.features is not None for record in records),
    }
    for name in modalities:
        if not there[name]:
            found = " and ".join(name for name, is_there in there.items() if is_there)
            raise UserError(
                f"the model takes the modality {name!r}, which none of the movies has (they have "
                f"{found or 'none'}); give another data set, a --model that takes these, or "
                "--model_config modalities=[...] where the model has that option"
            )


def check_features(records: Sequence[MovieRecord], dims: Mapping[str, int]) -> None:
    """See that the first movie with features has those that the model takes, in their sizes.

    Raises:
        UserError: It lacks one, or has another size.
    """
    vectors = next(record.features for record in records if record.features is not None).read()
    for name, dim in dims.items():
        if name not in vectors:
            raise UserError(
                f"the model takes {name}, which the data set does not have; it has "
                f"{', '.join(vectors)}"
            )
        if vectors[name].shape != (dim,):
            option = f"{name.removesuffix('s')}_dim"
            raise UserError(
                f"{name} of the data set are vectors of {vectors[name].size} numbers, and the "
                f"model takes {dim}; give features of that size, or a new model with "
                f"--model_config {option}={vectors[name].size}"
            )


def _load_graph_backbone(args: ModelArguments) -> GatForSequenceClassification | None:
    """The trained gat that an mm_gatbt is built on, if one is named."""
    if args.graph_backbone is None:
        return None
    if args.model != "mm_gatbt" or args.image_backbone is not None:
        raise UserError(
            f"graph_backbone is for model 'mm_gatbt' without an image_backbone; the model is "
            f"{args.model!r} and image_backbone {args.image_backbone!r}"
        )
    path = find_model(args.graph_backbone)
    try:
        model = load_model(path)
    except ValueError as error:
        raise UserError(f"graph_backbone {error}") from error
    if not isinstance(model, GatForSequenceClassification):
        raise UserError(
            f"graph_backbone {args.graph_backbone!r} is a {model.config.model_type} model; "
            f"{GatConfig.model_type} is needed"
        )
    return model


def _create_tokenizer(
    args: ModelArguments, config: GenreConfig, plots: Sequence[str]
) -> PreTrainedTokenizerBase:
    source = args.tokenizer or args.text_backbone
    if source is None:
        raise ValueError(
            "tokenizer is missing; give --text_backbone, --tokenizer a folder or Hub name, or "
            "--tokenizer train"
        )
    if source == "train":
        return train_tokenizer(plots, config.text_config.vocab_size)
    return load_tokenizer(source)


def _create_word_tokenizer(
    args: ModelArguments, config: FloorConfig, records: Sequence[MovieRecord]
) -> PreTrainedTokenizerBase:
    if args.tokenizer not in (None, "train"):
        raise ValueError(
            f"tokenizer is {args.tokenizer!r}, and model {args.model!r} makes its own of the "
            "training plots; leave --tokenizer out"
        )
    roles = expand_roles(config.credit_roles)
    if roles and not any(record.credits.get(role) for record in records for role in roles):
        raise ValueError(
            f"no training movie has a {' or '.join(roles)}, which credit_roles asks for; leave it "
            "out or name roles that the data set has"
        )
    plots = [plot_with_credits(record, roles) or "" for record in records]
    return create_word_tokenizer(plots, config.min_df)
