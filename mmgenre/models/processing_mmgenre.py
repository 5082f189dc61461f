"""Posters, plots and ready-made features to model inputs."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import (
    AutoTokenizer,
    BatchEncoding,
    BatchFeature,
    BertConfig,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    TensorType,
    ViTImageProcessor,
)
from transformers.dynamic_module_utils import custom_object_save
from transformers.utils import PROCESSOR_NAME

from .base import GenreConfig, TextGenreConfig
from .pictures import open_poster, to_rgb

Poster = Image.Image | torch.Tensor | np.ndarray | str | Path
Plot = str | np.ndarray
Features = Mapping[str, np.ndarray]
# Every field here is an attribute of the processor and a field of the config, which owns its value.
_FIELDS = (
    "modalities",
    "max_length",
    "padding",
    "missing_modality",
    "missing_plot",
    "feature_dims",
)


class MMGenreProcessor(ProcessorMixin):
    """Image processor and tokenizer in one.

    Posters are resized to a square, as in the report (section 4.2), or to a shorter side whose
    central square is taken; then rescaled to [0, 1] and normalised. Plots are tokenised and cut to
    `max_length`. Ready-made features are only put together.

    Args:
        image_processor: Resizes, crops and normalises.
        tokenizer: The text encoder's own; None for a model without plots.
        modalities, max_length, padding, missing_modality, missing_plot, feature_dims: As in
            `GenreConfig`.
    """

    def __init__(
        self,
        image_processor: ViTImageProcessor,
        tokenizer: PreTrainedTokenizerBase | None,
        modalities: Sequence[str] = ("image", "text"),
        max_length: int = 128,
        padding: str = "longest",
        missing_modality: str = "fill",
        missing_plot: str = "No plot found.",
        feature_dims: Mapping[str, int] | None = None,
    ) -> None:
        super().__init__(image_processor, tokenizer)
        if tokenizer is None:
            if "text" in modalities:
                raise ValueError("a model with the modality 'text' needs a tokenizer")
        # what transformers makes, without a word, where a tokenizer's files are not there
        elif len(tokenizer) <= len(tokenizer.all_special_tokens):
            raise ValueError(
                f"the tokenizer {tokenizer.name_or_path!r} has no tokens but the special ones; its "
                "tokenizer.json or vocab.txt is missing"
            )
        # where the code is that lies beside a saved processor
        self.auto_map = {"AutoProcessor": f"processing_mmgenre.{type(self).__name__}"}
        self.modalities = list(modalities)
        self.max_length = max_length
        self.padding = padding
        self.missing_modality = missing_modality
        self.missing_plot = missing_plot
        self.feature_dims = dict(feature_dims or {})

    @classmethod
    def from_config(
        cls, config: GenreConfig, tokenizer: PreTrainedTokenizerBase | None
    ) -> "MMGenreProcessor":
        """The processor that belongs to a model.

        Raises:
            ValueError: The tokenizer has more tokens than the text encoder has embeddings, or
                `max_length` is more than it has positions.
        """
        if "text" in config.modalities and tokenizer is not None:
            _check_fit(config, tokenizer)
        square = {"height": config.image_size, "width": config.image_size}
        geometry: dict[str, Any] = {"size": square}
        if config.image_resize is not None:
            geometry = {
                "size": {"shortest_edge": config.image_resize},
                "do_center_crop": True,
                "crop_size": square,
            }
        image_processor = ViTImageProcessor(
            **geometry, image_mean=list(config.image_mean), image_std=list(config.image_std)
        )
        return cls(image_processor, tokenizer, **{name: getattr(config, name) for name in _FIELDS})

    def __call__(
        self,
        images: Poster | Sequence[Poster | None] | None = None,
        text: str | Sequence[Plot | None] | None = None,
        features: Sequence[Features | None] | None = None,
        return_tensors: str | TensorType = "pt",
        **kwargs: Any,
    ) -> BatchFeature:
        """Inputs for the model's `forward`.

        Args:
            images: A poster or a list of them: PIL image, path, or array (3, height, width) or
                (height, width, 3) of bytes; None where a movie has none.
            text: A plot or a list of them; None or "" where a movie has none. In a list a plot can
                be an array of the token ids that this tokenizer makes of it, special tokens
                included, cut to no less than `max_length`.
            features: A list of ready-made vectors by name; None where a movie has none.

        Returns:
            `pixel_values` (batch, 3, image_size, image_size), `input_ids` and `attention_mask`
            (batch, length), and the features (batch, size), as far as the model has the modality;
            under `missing_modality="learned"` also `image_present` and `text_present` (batch,).

        Raises:
            ValueError: Nothing is given, or the lists differ in length.
            OSError: A path is not a readable picture.
        """
        posters: Any = [images] if images is not None and _is_one_poster(images) else images
        plots: Any = [text] if isinstance(text, str) else text
        if posters is None and plots is None and features is None:
            raise ValueError("give images, text or features")
        size = len(next(part for part in (plots, posters, features) if part is not None))
        posters = [None] * size if posters is None else list(posters)
        plots = [None] * size if plots is None else list(plots)
        features = [None] * size if features is None else features
        if len(posters) != len(plots):
            raise ValueError(f"{len(posters)} images were given with {len(plots)} texts")
        data = {
            **self.encode_images(posters),
            **self.encode_text(plots, **kwargs),
            **self.encode_features(features),
        }
        return BatchFeature(data, tensor_type=return_tensors)

    def encode_images(
        self, posters: Sequence[Poster | None], are_cropped: bool = False
    ) -> dict[str, torch.Tensor]:
        """The poster part of a call: `pixel_values`, and `image_present` where it is learned.

        Args:
            are_cropped: They are `image_size` squared already, as augmentation leaves them.
        """
        if "image" not in self.modalities:
            return {}
        data = {"pixel_values": self._pixels(posters, are_cropped)}
        if self.missing_modality == "learned":
            data["image_present"] = torch.tensor([poster is not None for poster in posters])
        return data

    def encode_text(self, plots: Sequence[Plot | None], **kwargs: Any) -> dict[str, torch.Tensor]:
        """The plot part of a call: tokens, and `text_present` where it is learned."""
        if "text" not in self.modalities:
            return {}
        data = dict(self._tokens(plots, **kwargs))
        if self.missing_modality == "learned":
            data["text_present"] = torch.tensor([_is_present(plot) for plot in plots])
        return data

    def encode_features(self, features: Sequence[Features | None]) -> dict[str, torch.Tensor]:
        """The ready-made part of a call: vectors, zero where a movie has none."""
        if "features" not in self.modalities:
            return {}
        data = {
            name: torch.stack(
                [
                    torch.zeros(dim) if movie is None else torch.as_tensor(movie[name]).float()
                    for movie in features
                ]
            )
            for name, dim in self.feature_dims.items()
        }
        if self.missing_modality == "learned":
            there = torch.tensor([movie is not None for movie in features])
            data["image_present"] = data["text_present"] = there
        return data

    def check_argument_for_proper_class(self, argument_name: str, argument: Any) -> Any:
        """As in transformers, but a model without plots has no tokenizer."""
        if argument is not None:
            return super().check_argument_for_proper_class(argument_name, argument)
        return None

    def save_pretrained(self, save_directory: Any, push_to_hub: bool = False, **kwargs: Any) -> Any:
        """As in transformers, with this code, and without a tokenizer's files where there is none.

        `_auto_class` would do the first, but it also marks the tokenizer and the image processor.
        """
        Path(save_directory).mkdir(parents=True, exist_ok=True)
        custom_object_save(self, save_directory)
        if self.tokenizer is not None:
            return super().save_pretrained(save_directory, push_to_hub, **kwargs)
        return self.to_json_file(Path(save_directory) / PROCESSOR_NAME)

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """As in transformers, without a tokenizer where the model takes no plots.

        The tokenizer is told the text encoder's kind: by itself it would read the model's config,
        and ask whether to run the code that lies beside it.
        """
        values, _ = cls.get_processor_dict(*args, **kwargs)
        image_processor = ViTImageProcessor.from_pretrained(*args, **kwargs)
        tokenizer = None
        if "text" in values["modalities"]:
            tokenizer = AutoTokenizer.from_pretrained(*args, config=BertConfig(), **kwargs)
        return cls.from_args_and_dict([image_processor, tokenizer], values)

    def _tokens(self, plots: Sequence[Plot | None], **kwargs: Any) -> BatchEncoding:
        """`input_ids` and `attention_mask`, each (batch, length)."""
        padding = {
            "padding": self.padding,
            "max_length": self.max_length,
            # few distinct lengths, which tensor cores and oneDNN's kernel cache want
            "pad_to_multiple_of": None if self.max_length % 8 else 8,
            "return_tensors": "pt",
        }
        plots = [plot if _is_present(plot) else self._absent_plot for plot in plots]
        texts = [plot for plot in plots if isinstance(plot, str)]
        cut = {"truncation": True, "return_token_type_ids": False, **kwargs}
        if len(texts) == len(plots):
            return self.tokenizer(texts, **cut, **padding)
        made = self.tokenizer(texts, max_length=self.max_length, **cut).input_ids if texts else []
        rest = iter(made)
        input_ids = [next(rest) if isinstance(plot, str) else self._cut(plot) for plot in plots]
        return self.tokenizer.pad({"input_ids": input_ids}, **padding)

    def _cut(self, input_ids: Any) -> list[int]:
        """Ids cut to `max_length` as the tokenizer cuts: the special tokens at the end stay."""
        ids = input_ids.tolist()
        if len(ids) <= self.max_length:
            return ids
        end = self._num_end_tokens
        return ids[: self.max_length - end] + ids[len(ids) - end :]

    @cached_property
    def _num_end_tokens(self) -> int:
        mask = self.tokenizer("a", return_special_tokens_mask=True)["special_tokens_mask"]
        return len(list(takewhile(bool, reversed(mask))))

    @property
    def _absent_plot(self) -> str:
        return "" if self.missing_modality == "learned" else self.missing_plot

    def _pixels(self, posters: Sequence[Any], are_cropped: bool) -> torch.Tensor:
        """(batch, 3, height, width), zero where there is no poster."""
        process = self.image_processor
        size = process.crop_size if process.do_center_crop else process.size
        there = [i for i, poster in enumerate(posters) if poster is not None]
        if not there:
            return torch.zeros(len(posters), 3, size["height"], size["width"])
        pictures = [_to_picture(posters[i]) for i in there]
        geometry = {"do_resize": False, "do_center_crop": False} if are_cropped else {}
        given = process(pictures, return_tensors="pt", **geometry)["pixel_values"]
        if len(there) == len(posters):
            return given
        pixels = given.new_zeros(len(posters), *given.shape[1:])
        pixels[there] = given
        return pixels


def _is_present(plot: Plot | None) -> bool:
    return plot is not None and len(plot) > 0


def _to_picture(poster: Poster) -> Image.Image | torch.Tensor | np.ndarray:
    if isinstance(poster, (str, Path)):
        return open_poster(poster)
    return to_rgb(poster) if isinstance(poster, Image.Image) else poster


def _is_one_poster(images: Any) -> bool:
    if isinstance(images, (torch.Tensor, np.ndarray)):
        return images.ndim == 3
    return isinstance(images, (Image.Image, str, Path))


def _check_fit(config: GenreConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    if not isinstance(config, TextGenreConfig):  # the model is made for its tokenizer
        return
    vocab_size = config.text_config.vocab_size
    if len(tokenizer) > vocab_size:
        raise ValueError(
            f"the tokenizer {tokenizer.name_or_path!r} has {len(tokenizer)} tokens, but the "
            f"text encoder has embeddings for {vocab_size}; take both from the same model"
        )
    if config.max_length > config.text_config.max_position_embeddings:
        raise ValueError(
            f"max_length is {config.max_length}; the text encoder has "
            f"{config.text_config.max_position_embeddings} positions"
        )
