"""What every system shares: the config's common part, initial weights, freezing, the door for
pretrained backbones, the loss and the output class."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from huggingface_hub.dataclasses import strict
from torch import nn
from transformers import BertConfig, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.utils import ModelOutput

from .backbones import load_exactly, load_image_state, load_text_state
from .layers import RESNETS
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

    A system's config also says, as a field or as a constant, which `modalities` it takes: of
    `image`, `text` and `features`.

    Args:
        thresholds: A genre is predicted where its probability is above its threshold, in label
            order; None is 0.5 for all.
        loss: `focal`, `bce` (with `pos_weight` where given) or `asymmetric`; see `losses.py`.
        focal_balanced: True weighs targets by alpha and the rest by 1 - alpha, as
            `torchvision.ops.sigmoid_focal_loss` does; False is the form that the report prints.
        pos_weight: Weight of each genre's positives in `bce`, in label order.
        label_smoothing: Targets are y(1 - e) + (1 - y)e in training; hard in evaluation.
        image_resize: Posters are resized to this shorter side, in pixels, keeping their aspect
            ratio, and the central square of `image_size` is taken; None resizes to that square
            without keeping the ratio.
        image_size: Side of the square that the model sees, in pixels.
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

    # Saved models carry their code, for environments without this package.
    _auto_class = "AutoConfig"

    thresholds: list[float] | None = None

    loss: Literal["focal", "bce", "asymmetric"] = "bce"
    focal_alpha: float = 0.25
    focal_gamma: float = 2.0
    focal_balanced: bool = True
    pos_weight: list[float] | None = None
    asymmetric_gamma_negative: float = 4.0
    asymmetric_gamma_positive: float = 1.0
    asymmetric_clip: float = 0.05
    label_smoothing: float = 0.0

    image_resize: int | None = None
    image_size: int = 224
    image_mean: list[float] | tuple[float, ...] = (0.485, 0.456, 0.406)
    image_std: list[float] | tuple[float, ...] = (0.229, 0.224, 0.225)
    max_length: int = 512
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

        if self.image_resize is not None and self.image_resize < self.image_size:
            raise ValueError(
                f"image_resize is {self.image_resize}; the square of image_size "
                f"{self.image_size} does not fit into that"
            )

    @property
    def genres(self) -> list[str]:
        """Label names in label order."""
        return [name for _, name in sorted((self.id2label or {}).items())]

    @property
    def poster_side(self) -> int:
        """Pixels that a poster's sides need at least when it is decoded.

        Twice the model's size leaves a crop of a quarter of the poster at full resolution.
        """
        return 2 * self.image_size

    @property
    def feature_dims(self) -> dict[str, int]:
        """The model inputs that are ready-made vectors, and their sizes."""
        return {}


@strict
class TextGenreConfig(GenreConfig):
    r"""Config of a system with a plot encoder.

    Args:
        text_config: The BERT encoder, as a `BertConfig` or a mapping; default bert-base-uncased.
    """

    sub_configs: ClassVar[dict[str, Any]] = {"text_config": BertConfig}

    # BertConfig after construction; the wider type is what a config file or a caller may give
    text_config: Any = None

    def __post_init__(self, **kwargs: Any) -> None:
        if not isinstance(self.text_config, BertConfig):
            self.text_config = BertConfig(**(self.text_config or {}))
        super().__post_init__(**kwargs)


@strict
class ImageTextGenreConfig(TextGenreConfig):
    r"""Config of a system with a plot encoder and a poster encoder.

    Args:
        image_architecture: A ResNet by torchvision's name.
    """

    image_architecture: str = "resnet50"

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if self.image_architecture not in RESNETS:
            raise ValueError(
                f"image_architecture is {self.image_architecture!r}; it can be {', '.join(RESNETS)}"
            )


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
    _auto_class = "AutoModelForSequenceClassification"
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
        elif isinstance(module, nn.ParameterDict):
            for placeholder in module.values():
                init.normal_(placeholder, std=0.02)
        else:
            super()._init_weights(module)

    def add_placeholders(self, **dims: int) -> None:
        """Under `missing_modality="learned"`, a learned vector for each modality named.

        Args:
            dims: Modality to the size of its vector.
        """
        if self.config.missing_modality == "learned":
            self.placeholder = nn.ParameterDict(
                {name: nn.Parameter(torch.empty(dim)) for name, dim in dims.items()}
            )

    def replace_absent(
        self, name: str, vectors: torch.Tensor | None, present: torch.Tensor | None, size: int
    ) -> torch.Tensor:
        """A modality's vectors, with the learned one where a movie does not have it.

        Args:
            vectors: (batch, ..., dim); None where no movie has the modality.
            present: (batch,) booleans; None is all.
            size: Movies in the batch.

        Returns:
            `vectors`, or (batch, dim) of the learned vector alone.
        """
        if vectors is None:
            return self.placeholder[name].expand(size, -1)
        if present is None:
            return vectors
        there = present.view(-1, *[1] * (vectors.ndim - 1))
        return torch.where(there, vectors, self.placeholder[name].to(vectors))

    def check_inputs(
        self,
        inputs: Mapping[str, torch.Tensor | None],
        present: Mapping[str, torch.Tensor | None],
    ) -> int:
        """See that a movie's inputs are given as far as this model needs them.

        Args:
            inputs: Modality to what is given of it.
            present: Modality to (batch,) booleans.

        Returns:
            Movies in the batch.

        Raises:
            ValueError: A modality that the model needs is not given.
        """
        given = [value for value in inputs.values() if value is not None]
        if self.config.missing_modality != "learned":
            for name, value in inputs.items():
                if value is None:
                    raise ValueError(
                        f"this model needs the modality {name!r} of every movie; only a model with "
                        "missing_modality 'learned' can do without it"
                    )
            if any(mask is not None for mask in present.values()):
                raise ValueError("image_present and text_present need missing_modality 'learned'")
        if not given:
            raise ValueError(f"give one of the modalities {', '.join(inputs)} at least")
        return given[0].shape[0]  # not len(), which torch.export takes for a constant

    def get_input_embeddings(self) -> Any:
        """Word embeddings of the text encoder, which FSDP cuts by themselves; None without one."""
        encoder = getattr(self, "text_encoder", None)
        return None if encoder is None else encoder.get_input_embeddings()

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
            state = load_image_state(image_backbone, config.image_architecture)
            state = {k: v for k, v in state.items() if not re.match(cls._image_head_keys, k)}
            load_exactly(model.image_encoder, state, f"image_backbone {image_backbone!r}")
        if text_backbone is not None and getattr(model, "text_encoder", None) is not None:
            state = load_text_state(text_backbone, config.text_config, cls._text_head_keys)
            if model.text_encoder.pooler is None:
                state = {k: v for k, v in state.items() if not k.startswith("pooler.")}
            load_exactly(model.text_encoder, state, f"text_backbone {text_backbone!r}")
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
