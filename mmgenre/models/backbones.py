"""Reads pretrained weights for the encoders: all keys fit, or none is taken."""

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import hf_hub_download
from safetensors.torch import load_file
from torch import nn
from torchvision.models import get_model_weights
from transformers import AutoConfig, BertConfig, BertModel


def read_text_config(text_backbone: str) -> BertConfig:
    """The config of a pretrained text encoder.

    Raises:
        ValueError: There is none at `text_backbone`, or it is not a BERT model.
    """
    try:
        config = AutoConfig.from_pretrained(text_backbone)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"text_backbone {text_backbone!r} is neither a folder with a config.json nor a model "
            f"that can be had from the Hub ({_first_line(error)})"
        ) from error
    if not isinstance(config, BertConfig):
        raise ValueError(
            f"text_backbone {text_backbone!r} is a {config.model_type} model; bert is needed"
        )
    config.name_or_path = ""  # it can be a path, which would be saved with every model
    return config


def load_exactly(module: nn.Module, state: Mapping[str, torch.Tensor], source: str) -> None:
    """Put `state` into `module`, bit for bit.

    Args:
        source: What to call it in an error.

    Raises:
        ValueError: A key is missing, unknown or of another size; the message lists them.
    """
    own = module.state_dict()
    # torch's own old checkpoints lack this counter, which plays no part in the statistics' values
    missing = [k for k in own if k not in state and not k.endswith("num_batches_tracked")]
    unexpected = [k for k in state if k not in own]
    wrong = [
        f"{k} {tuple(state[k].shape)} in place of {tuple(own[k].shape)}"
        for k in own
        if k in state and state[k].shape != own[k].shape
    ]
    if missing or unexpected or wrong:
        problems = [
            f"{title}: {_some(keys)}"
            for title, keys in (("missing", missing), ("unknown", unexpected), ("size", wrong))
            if keys
        ]
        raise ValueError(
            f"{source} does not fit the config's {type(module).__name__} ({'; '.join(problems)})"
        )
    module.load_state_dict(state, strict=False)


def load_image_state(source: str, architecture: str) -> dict[str, torch.Tensor]:
    """Weights of a poster encoder, its classifier's included.

    Args:
        source: torchvision weight name, file, folder or Hub name.
        architecture: torchvision's name of the encoder.

    Raises:
        ValueError: The source does not exist or is no weight file.
    """
    path = Path(source)
    if path.is_dir():
        found = [
            path / n for n in ("model.safetensors", "pytorch_model.bin") if (path / n).is_file()
        ]
        if not found:
            raise ValueError(f"image_backbone folder {source!r} holds no model.safetensors")
        path = found[0]
    if path.is_file():
        return _read_state(path)
    if path.suffix or source.startswith((".", os.sep)):
        raise ValueError(f"image_backbone {source!r} does not exist")
    if "/" in source:
        try:
            return _read_state(Path(hf_hub_download(source, "model.safetensors")))
        except OSError as error:
            raise ValueError(
                f"image_backbone {source!r} cannot be had from the Hub ({_first_line(error)})"
            ) from error
    try:
        weights = get_model_weights(architecture)
    except ValueError:
        weights = None
    names = [] if weights is None else list(weights.__members__)
    name = source.rpartition(".")[2]
    if weights is None or name not in names:
        raise ValueError(
            f"image_backbone {source!r} is neither a file or folder nor one of torchvision's "
            f"weights for {architecture}: {', '.join(names) or 'it has none'}"
        )
    try:
        return dict(weights[name].get_state_dict(progress=False, check_hash=True))
    except OSError as error:
        raise ValueError(
            f"image_backbone {source!r} cannot be downloaded ({_first_line(error)}); name a file"
        ) from error


def _read_state(path: Path) -> dict[str, torch.Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # safetensors, zipfile and pickle each raise kinds of their own
        raise ValueError(f"{str(path)!r} is not a weight file ({_first_line(error)})") from error
    if not isinstance(state, dict) or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise ValueError(f"{str(path)!r} does not hold a plain mapping of names to tensors")
    return state


def load_text_state(source: str, config: BertConfig, head_keys: str) -> dict[str, torch.Tensor]:
    """Weights of a BERT encoder, without the keys that match `head_keys`.

    Raises:
        ValueError: The source does not exist, or does not fit `config`; the message lists the keys.
    """
    own = read_text_config(source)
    shape = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
    differing = [f"{n} {getattr(own, n)}" for n in shape if getattr(own, n) != getattr(config, n)]
    if differing:
        raise ValueError(
            f"text_backbone {source!r} has {', '.join(differing)}, which the config's text_config "
            "does not; take text_config from the backbone"
        )
    try:
        loaded: Any = BertModel.from_pretrained(
            source,
            config=config,
            dtype=torch.float32,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # refused below, where their names are known
        )
        model, info = loaded
    except Exception as error:  # as in `_read_state`
        raise ValueError(
            f"text_backbone {source!r} cannot be loaded ({_first_line(error)})"
        ) from error
    unknown = [k for k in info["unexpected_keys"] if not re.match(head_keys, k)]
    wrong = [key for key, *_ in info["mismatched_keys"]]
    problems = [
        f"{title}: {_some(sorted(keys))}"
        for title, keys in (
            ("missing", info["missing_keys"]),
            ("unknown", unknown),
            ("size", wrong),
        )
        if keys
    ]
    if problems:
        raise ValueError(
            f"text_backbone {source!r} does not fit the config's text_config "
            f"({'; '.join(problems)})"
        )
    return model.state_dict()


def _some(keys: Sequence[str], limit: int = 8) -> str:
    more = f" and {len(keys) - limit} more" if len(keys) > limit else ""
    return ", ".join(keys[:limit]) + more


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
