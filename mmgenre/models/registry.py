"""The systems by name: a literal table, imported only when asked for."""

import dataclasses
import difflib
import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from .base import GenreConfig, GenrePreTrainedModel


class System(NamedTuple):
    """Where a system's three classes are, as `module:Class` beside this file."""

    config: str
    model: str
    processor: str


_PROCESSOR = "processing_mmgenre:MMGenreProcessor"
# A config's `model_type` is `model_type(name)`: transformers has a bert and an efficientnet.
SYSTEMS: dict[str, System] = {
    "mmgenre": System(
        "configuration_mmgenre:MMGenreConfig",
        "modeling_mmgenre:MMGenreForSequenceClassification",
        _PROCESSOR,
    ),
    "efficientnet": System(
        "efficientnet:EfficientNetGenreConfig",
        "efficientnet:EfficientNetGenreForSequenceClassification",
        _PROCESSOR,
    ),
    "bert": System("bert:BertGenreConfig", "bert:BertGenreForSequenceClassification", _PROCESSOR),
    "gmu": System("gmu:GmuConfig", "gmu:GmuForSequenceClassification", _PROCESSOR),
    "centralnet": System(
        "centralnet:CentralNetConfig", "centralnet:CentralNetForSequenceClassification", _PROCESSOR
    ),
    "mmbt": System("mmbt:MmbtConfig", "mmbt:MmbtForSequenceClassification", _PROCESSOR),
    "mfm": System("mfm:MfmConfig", "mfm:MfmForSequenceClassification", _PROCESSOR),
    "refnet": System("refnet:RefNetConfig", "refnet:RefNetForSequenceClassification", _PROCESSOR),
    "gat": System("gat:GatConfig", "gat:GatForSequenceClassification", _PROCESSOR),
    "mm_gatbt": System(
        "mm_gatbt:MmGatbtConfig", "mm_gatbt:MmGatbtForSequenceClassification", _PROCESSOR
    ),
    "sign": System("sign:SignConfig", "sign:SignForSequenceClassification", _PROCESSOR),
    "tfidf": System("floors:TfidfConfig", "floors:TfidfForSequenceClassification", _PROCESSOR),
    "majority": System(
        "floors:MajorityConfig", "floors:MajorityForSequenceClassification", _PROCESSOR
    ),
    "label_frequency": System(
        "floors:LabelFrequencyConfig", "floors:LabelFrequencyForSequenceClassification", _PROCESSOR
    ),
}

# Of config.json, besides the config's fields.
_WRITTEN_KEYS = {
    *("_name_or_path", "architectures", "auto_map", "dtype", "model_type", "num_labels"),
    *("output_attentions", "torch_dtype", "transformers_version", "use_cache"),
}


def model_type(name: str) -> str:
    """The `model_type` in the config.json of a system."""
    return name if name == "mmgenre" else f"mmgenre-{name}"


def load_class(reference: str) -> Any:
    """The class behind `module:Class`."""
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(f".{module}", __package__), name)


def get_system(name: str) -> System:
    """Look a system up.

    Raises:
        ValueError: There is no such system; the message names the nearest and all.
    """
    if name not in SYSTEMS:
        near = difflib.get_close_matches(name, SYSTEMS, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        raise ValueError(f"model {name!r} is unknown; {hint}the models are {', '.join(SYSTEMS)}")
    return SYSTEMS[name]


def create_config(
    name: str,
    genres: Sequence[str],
    model_config: Mapping[str, Any],
    text_backbone: str | None = None,
) -> "GenreConfig":
    """A system's config from a recipe's `model_config`.

    Args:
        genres: Label names in label order.
        text_backbone: Where `text_config` is taken from, unless `model_config` gives it.

    Raises:
        ValueError: A key is unknown (the message names the nearest) or a value has the wrong type.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import PreTrainedConfig

    from .backbones import read_text_config

    config_class = load_class(get_system(name).config)
    inherited = {field.name for field in dataclasses.fields(PreTrainedConfig)}
    known = [f.name for f in dataclasses.fields(config_class) if f.name not in inherited]
    for key in model_config:
        if key not in known:
            near = difflib.get_close_matches(key, known, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"it has {', '.join(known)}"
            raise ValueError(f"model_config key {key!r} is unknown to model {name!r}; {hint}")
    types = {field.name: field.type for field in dataclasses.fields(config_class)}
    values = {
        key: float(value) if types[key] is float and type(value) is int else value
        for key, value in model_config.items()
    }
    if text_backbone is not None and "text_config" in known and "text_config" not in values:
        values["text_config"] = read_text_config(text_backbone)
    try:
        return config_class(
            id2label=dict(enumerate(genres)),
            label2id={genre: index for index, genre in enumerate(genres)},
            **values,
        )
    except (StrictDataclassError, TypeError) as error:
        raise ValueError(f"model_config: {' '.join(str(error).split())}") from error


def load_model(path: str) -> "GenrePreTrainedModel":
    """A saved model of any system, from a folder or by its Hub name.

    Raises:
        ValueError: There is no model at `path`, or a file of it is missing or broken.
    """
    # transformers itself would only warn, and start such weights anew
    model, info = _load(
        path,
        "model",
        output_loading_info=True,
        ignore_mismatched_sizes=True,
        use_safetensors=True,  # a pickle could hold code
    )
    mismatched = {key for key, *_ in info["mismatched_keys"]}
    wrong = sorted({*info["missing_keys"], *info["unexpected_keys"], *mismatched})
    if wrong:
        raise ValueError(
            f"{path!r} holds weights that do not fit its config.json: {len(wrong)} are missing, "
            f"unknown or of another size, such as {', '.join(wrong[:5])}"
        )
    return model


def load_processor(path: str) -> Any:
    """The processor saved beside a model.

    Raises:
        ValueError: As `load_model`.
    """
    return _load(path, "processor")


def _load(path: str, part: str, **options: Any) -> Any:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        folder = Path(path)
        file = folder / "config.json" if folder.is_dir() else hf_hub_download(path, "config.json")
        values = json.loads(Path(file).read_text(encoding="utf-8"))
        kind = str(values.get("model_type"))
        if kind not in map(model_type, SYSTEMS):
            raise ValueError(
                f"the model_type of its config.json is {kind!r}, which is no system of this "
                f"package; they are {', '.join(map(model_type, SYSTEMS))}"
            )
        system = SYSTEMS[kind.removeprefix("mmgenre-")]
        _check_config(load_class(system.config), values)
        return load_class(getattr(system, part)).from_pretrained(path, **options)
    except LocalEntryNotFoundError as error:
        raise ValueError(
            f"{path!r} is neither a folder nor a model on the Hub, as far as it can be reached"
        ) from error
    except Exception as error:  # json, safetensors and the Hub each raise kinds of their own
        if isinstance(error, FileNotFoundError) and error.filename:  # safetensors names none
            raise ValueError(
                f"{path!r} is not a saved model: {error.filename} is missing"
            ) from error
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{path!r} cannot be loaded as a model: {reason}") from error


def _check_config(config_class: Any, values: Mapping[str, Any]) -> None:
    """See that config.json says what the outputs are, and nothing that would be passed over.

    Raises:
        ValueError: It does not, or it does.
    """
    if not isinstance(values.get("id2label"), dict):
        raise ValueError(
            "its config.json has no id2label, the genres' names; add them, such as "
            '{"0": "action", "1": "adventure"}, in label order'
        )
    known = {field.name for field in dataclasses.fields(config_class)}
    unknown = sorted(values.keys() - known - _WRITTEN_KEYS)
    if unknown:
        raise ValueError(
            f"its config.json has keys that this version of mmgenre does not know "
            f"({', '.join(unknown)}); a newer version may have saved it: update mmgenre"
        )


def register_auto_classes() -> None:
    """Make transformers' Auto classes know all systems, for models and processors."""
    from transformers import AutoConfig, AutoModelForSequenceClassification, AutoProcessor

    for system in SYSTEMS.values():
        config, model, processor = (load_class(reference) for reference in system)
        AutoConfig.register(config.model_type, config, exist_ok=True)
        AutoModelForSequenceClassification.register(config, model, exist_ok=True)
        AutoProcessor.register(config, processor, exist_ok=True)
