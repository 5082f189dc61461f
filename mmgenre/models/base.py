"""What every system shares: the config's common part, weight initialisation, freezing, the door for
pretrained backbones, the loss and the output class."""

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from huggingface_hub import hf_hub_download
from huggingface_hub.dataclasses import strict
from safetensors.torch import load_file
from torch import nn
from torchvision.models import get_model_weights
from transformers import AutoConfig, BertConfig, BertModel, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from .losses import genre_loss

# The report's vocabulary (section 4.1), in its order.
REPORT_GENRES = (
    "action adventure animation biography comedy crime documentary drama family fantasy film-noir "
    "history horror music musical mystery news reality-tv romance sci-fi short sport talk-show "
    "thriller war western"
).split()

ALL_LAYERS = "all"


@strict
class GenreConfig(PreTrainedConfig):
    r"""Fields that every system's config has: labels, loss, preprocessing and what is trainable.

    Args:
        thresholds: A genre is predicted where its probability is above its threshold, in label
            order; None is 0.5 for all.
        loss: `focal`, `bce` (with `pos_weight` where given) or `asymmetric`; see `losses.py`.
        focal_balanced: True weighs targets by alpha and the rest by 1 - alpha, as
            `torchvision.ops.sigmoid_focal_loss` does; False is the form that the report prints.
        pos_weight: Weight of each genre's positives in `bce`, in label order.
        label_smoothing: Targets are y(1 - e) + (1 - y)e in training; hard in evaluation.
        image_size: Side of the square that posters are resized to, in pixels.
        max_length: Plots are cut to so many tokens, special tokens included.
        padding: `longest` pads to the longest plot of a batch, `max_length` to `max_length`.
        missing_modality: `fill` gives the encoders what the report does, a zero tensor for an
            absent poster and `missing_plot` for an absent plot; `learned` replaces the absent
            modality's features by a learned vector.
        missing_plot: The text in place of an absent plot under `fill`.
        trainable_image_layers: Names of the image encoder's sub-modules that are trained, or
            `all`. A negative number counts from the end (`encoder.layer.-1`).
        trainable_text_layers: The same for the text encoder.
        freeze_batch_norm: Batch normalisation whose weights are frozen stays in eval mode, so that
            its statistics do not move.
    """

    thresholds: list[float] | None = None

    loss: Literal["focal", "bce", "asymmetric"] = "focal"
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0
    focal_balanced: bool = True
    pos_weight: list[float] | None = None
    asymmetric_gamma_negative: float = 4.0
    asymmetric_gamma_positive: float = 1.0
    asymmetric_clip: float = 0.05
    label_smoothing: float = 0.1

    image_size: int = 224
    image_mean: list[float] | tuple[float, ...] = (0.485, 0.456, 0.406)
    image_std: list[float] | tuple[float, ...] = (0.229, 0.224, 0.225)
    max_length: int = 128
    padding: Literal["longest", "max_length"] = "longest"
    missing_modality: Literal["fill", "learned"] = "fill"
    missing_plot: str = "No plot found."

    trainable_image_layers: list[str] | tuple[str, ...] = (ALL_LAYERS,)
    trainable_text_layers: list[str] | tuple[str, ...] = (ALL_LAYERS,)
    freeze_batch_norm: bool = True

    def __post_init__(self, **kwargs: Any) -> None:
        if self.id2label is None and "num_labels" not in kwargs:
            self.id2label = dict(enumerate(REPORT_GENRES))
        if self.id2label is not None and self.label2id is None:
            self.label2id = {name: int(index) for index, name in self.id2label.items()}
        self.problem_type = "multi_label_classification"
        super().__post_init__(**kwargs)
        for name in ("thresholds", "pos_weight"):
            values = getattr(self, name)
            if values is not None and len(values) != self.num_labels:
                raise ValueError(
                    f"{name} has {len(values)} values; it needs one for each of the "
                    f"{self.num_labels} genres"
                )

    @property
    def genres(self) -> list[str]:
        """Label names in label order."""
        return [name for _, name in sorted((self.id2label or {}).items())]


@dataclass
class GenreClassifierOutput(ModelOutput):
    """What every system returns.

    Attributes:
        loss: Scalar, where labels were given.
        logits: (batch, num_labels).
        embedding: (batch, embedding_dim), what the classifier sees; only on request.
    """

    loss: torch.Tensor | None = None
    logits: torch.Tensor | None = None
    embedding: torch.Tensor | None = None


class GenrePreTrainedModel(PreTrainedModel):
    """Base of all systems.

    A system that has them calls its encoders `image_encoder` and `text_encoder`; freezing and
    `from_backbones` find them by these names.
    """

    config_class = GenreConfig
    config: GenreConfig
    image_encoder: Any
    text_encoder: Any
    base_model_prefix = ""
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    # Keys of a pretrained backbone that have no place in an encoder: its own task's head.
    _image_head_keys: ClassVar[str] = r"fc\."
    _text_head_keys: ClassVar[str] = r"(cls\.|.*position_ids$)"

    def _init_weights(self, module: nn.Module) -> None:
        """torch's and torchvision's own initial distributions, which the report starts from.

        Through `transformers.initialization`, which leaves tensors alone that were loaded.
        """
        if isinstance(module, nn.Linear):
            init.kaiming_uniform_(module.weight, a=5**0.5)
            if module.bias is not None:
                bound = module.in_features**-0.5
                init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                init.zeros_(module.bias)
        else:
            super()._init_weights(module)

    def freeze(self) -> None:
        """Let exactly those layers of the encoders learn that the config names.

        Raises:
            ValueError: The config names a layer that the encoder does not have.
        """
        for kind in ("image", "text"):
            encoder = getattr(self, f"{kind}_encoder", None)
            if encoder is None:
                continue
            names = getattr(self.config, f"trainable_{kind}_layers")
            encoder.requires_grad_(ALL_LAYERS in names)
            for name in names:
                if name != ALL_LAYERS:
                    _find_layer(encoder, name, f"trainable_{kind}_layers").requires_grad_(True)

    def train(self, mode: bool = True) -> "GenrePreTrainedModel":
        super().train(mode)
        if mode and self.config.freeze_batch_norm:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm) and not any(
                    parameter.requires_grad for parameter in module.parameters(recurse=False)
                ):
                    module.eval()
        return self

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As in transformers, which undoes freezing; so what the config freezes is frozen again."""
        loaded = super().from_pretrained(*args, **kwargs)
        (loaded[0] if isinstance(loaded, tuple) else loaded).freeze()
        return loaded

    @classmethod
    def from_backbones(
        cls,
        config: GenreConfig,
        image_backbone: str | None = None,
        text_backbone: str | None = None,
    ) -> "GenrePreTrainedModel":
        """Build the model and put pretrained weights into its encoders, bit for bit.

        This is the only door for pretrained weights. A backbone that is None, or whose encoder the
        model does not have, stays at its initial weights.

        Args:
            image_backbone: A torchvision weight name (`IMAGENET1K_V2`), a `.safetensors` or `.pth`
                file, a folder that holds one, or a Hub name.
            text_backbone: A folder or a Hub name of a BERT model.

        Raises:
            ValueError: The source does not exist, or does not fit; the message lists the keys.
        """
        model = cls(config)
        if image_backbone is not None and getattr(model, "image_encoder", None) is not None:
            state = _load_image_state(image_backbone, config.image_architecture)
            state = {k: v for k, v in state.items() if not re.match(cls._image_head_keys, k)}
            _load_exactly(model.image_encoder, state, f"image_backbone {image_backbone!r}")
        if text_backbone is not None and getattr(model, "text_encoder", None) is not None:
            state = _load_text_state(text_backbone, config.text_config, cls._text_head_keys)
            if model.text_encoder.pooler is None:
                state = {k: v for k, v in state.items() if not k.startswith("pooler.")}
            _load_exactly(model.text_encoder, state, f"text_backbone {text_backbone!r}")
        return model

    def genre_loss(self, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The config's loss, mean over labels and batch; targets are smoothed in training only.

        Args:
            logits: (batch, num_labels).
            labels: (batch, num_labels), 0 or 1.
        """
        config = self.config
        return genre_loss(
            logits,
            labels,
            loss=config.loss,
            focal_alpha=config.focal_alpha,
            focal_gamma=config.focal_gamma,
            focal_balanced=config.focal_balanced,
            pos_weight=None
            if config.pos_weight is None
            else torch.tensor(config.pos_weight, device=logits.device),
            asymmetric_gamma_negative=config.asymmetric_gamma_negative,
            asymmetric_gamma_positive=config.asymmetric_gamma_positive,
            asymmetric_clip=config.asymmetric_clip,
            label_smoothing=config.label_smoothing if self.training else 0.0,
        )


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
    return config


def _find_layer(encoder: nn.Module, name: str, field: str) -> nn.Module:
    module = encoder
    for part in name.split("."):
        children = list(module.named_children())
        if re.fullmatch(r"-\d+", part) and int(part[1:]) <= len(children):
            part = children[int(part)][0]
        if part not in dict(children):
            raise ValueError(
                f"{field} names {name!r}, which {type(encoder).__name__} does not have; "
                f"at {part!r} it could be one of {', '.join(n for n, _ in children) or 'none'}"
            )
        module = module.get_submodule(part)
    return module


def _load_exactly(module: nn.Module, state: Mapping[str, torch.Tensor], source: str) -> None:
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


def _load_image_state(source: str, architecture: str) -> dict[str, torch.Tensor]:
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


def _load_text_state(source: str, config: BertConfig, head_keys: str) -> dict[str, torch.Tensor]:
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
