"""Why a model gives a movie its genres: words, regions, and what poster and plot add.

- Words and regions: integrated gradients (Sundararajan et al. 2017, arXiv 1703.01365) of a genre's
  logit, along one path for both modalities, from a poster of the mean colour and a plot of padding
  to the movie. Word embeddings are interpolated and a word has the sum over its tokens, a region
  the sum over its pixels. All scores of a genre add up to what its logit gains along the path.
- Poster and plot: Shapley values of a genre's probability, exact over the two. A modality is taken
  away as the model itself treats a movie that lacks it.
- Fusion: the share that goes to the poster in systems whose fusion weighs modalities.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.func import functional_call

from mmgenre.data.labels import canonical_genre
from mmgenre.inference.pipeline import GenrePipeline, Movie
from mmgenre.models.base import GenrePreTrainedModel
from mmgenre.models.gmu import GmuForSequenceClassification
from mmgenre.models.modeling_mmgenre import MMGenreForSequenceClassification
from mmgenre.utils.errors import UserError

REGIONS = 8  # a side
_STEPS = 32
_STEPS_AT_ONCE = 8


@dataclass(frozen=True)
class Word:
    """A stretch of the plot, and what it adds to a genre's logit."""

    start: int
    end: int
    score: float


@dataclass(frozen=True)
class GenreExplanation:
    """What speaks for and against one genre.

    Attributes:
        words: In the plot's order; what was cut off is not there.
        regions: (REGIONS, REGIONS) scores of the poster's regions; None without a poster.
        prior: Probability for a movie without poster and plot.
        contributions: `poster` and `plot`, as far as the movie has them, to what each adds to the
            probability; together with `prior` they make it.
    """

    genre: str
    probability: float
    threshold: float
    words: tuple[Word, ...]
    regions: np.ndarray | None
    prior: float
    contributions: dict[str, float]


@dataclass(frozen=True)
class Explanation:
    """What a model makes of a movie.

    Attributes:
        picture: The poster as the model sees it; None where there is none.
        fusion: Name of a system's fusion weight to the share of it that the poster has; empty for
            systems without one.
    """

    plot: str | None
    picture: Image.Image | None
    genres: tuple[GenreExplanation, ...]
    fusion: dict[str, float]


class Explainer:
    """Explains what a pipeline predicts.

    Args:
        pipeline: Of any system that takes posters or plots themselves.

    Raises:
        UserError: captum is missing, or the model takes ready-made vectors.
    """

    def __init__(self, pipeline: GenrePipeline) -> None:
        try:
            from captum.attr import IntegratedGradients
        except ImportError as error:
            raise UserError("explaining needs captum; pip install 'mmgenre[explain]'") from error
        if "features" in pipeline.processor.modalities:
            raise UserError(
                f"this {pipeline.model.config.model_type} takes ready-made vectors, which have "
                "neither words nor regions to explain"
            )
        self.pipeline = pipeline
        self.integrate: Callable[..., Any] = IntegratedGradients

    def __call__(self, movie: Movie, genres: Sequence[str] = ()) -> Explanation:
        """Explain some genres of a movie.

        Args:
            movie: As `GenrePipeline` takes it.
            genres: Those to explain; none is those that are predicted, or the most probable.

        Raises:
            UserError: A genre is none of the model's.
            ValueError, OSError: The movie cannot be predicted; as `GenrePipeline.encode`.
        """
        pipeline = self.pipeline
        genres = [canonical_genre(genre) for genre in genres]
        for genre in genres:
            if genre not in pipeline.genres:
                raise UserError(
                    f"genre {genre!r} is unknown; the model has {', '.join(pipeline.genres)}"
                )
        encoded = pipeline.encode(movie)
        plot = encoded.plot if "text" in pipeline.processor.modalities else None
        poster = encoded.images if movie.get("poster") is not None else {}
        values = self._coalitions(poster, plot)
        whole = values[bool(poster), plot is not None]
        thresholds = dict(zip(pipeline.genres, pipeline.thresholds, strict=True))
        chosen = genres or [genre for genre, p in whole.items() if p > thresholds[genre]]
        chosen = chosen or [max(whole, key=lambda genre: whole[genre])]
        inputs = self._inputs(encoded.images, plot)
        pixels, tokens = self._attribute(inputs, [pipeline.genres.index(g) for g in chosen])
        explained = []
        for row, genre in enumerate(chosen):
            explained.append(
                GenreExplanation(
                    genre=genre,
                    probability=whole[genre],
                    threshold=thresholds[genre],
                    words=() if plot is None else self._words(plot, tokens[row]),
                    regions=sum_regions(pixels[row]) if poster else None,
                    prior=values[False, False][genre],
                    contributions=_shapley(
                        {key: value[genre] for key, value in values.items()},
                        bool(poster),
                        plot is not None,
                    ),
                )
            )
        picture = self._picture(poster["pixel_values"][0]) if poster else None
        return Explanation(plot, picture, tuple(explained), fusion_shares(pipeline.model, inputs))

    def _inputs(self, images: Mapping[str, torch.Tensor], plot: str | None) -> dict[str, Any]:
        """Of one movie, without padding."""
        inputs = {**images, **self.pipeline.processor.encode_text([plot])}
        if "input_ids" in inputs:
            length = int(inputs["attention_mask"].sum())
            inputs |= {name: inputs[name][:, :length] for name in ("input_ids", "attention_mask")}
        return {name: value.to(self.pipeline.device) for name, value in inputs.items()}

    @torch.inference_mode()
    def _coalitions(
        self, poster: Mapping[str, torch.Tensor], plot: str | None
    ) -> dict[tuple[bool, bool], dict[str, float]]:
        """(with poster, with plot) to probabilities by genre, as far as the movie has them."""
        processor = self.pipeline.processor
        values = {}
        for with_poster in {False, bool(poster)}:
            for with_plot in {False, plot is not None}:
                images = poster if with_poster else processor.encode_images([None])
                inputs = self._inputs(images, plot if with_plot else None)
                row = self.pipeline.model(**inputs).logits[0].double().sigmoid().tolist()
                values[with_poster, with_plot] = dict(zip(self.pipeline.genres, row, strict=True))
        return values

    def _attribute(
        self, inputs: dict[str, torch.Tensor], targets: Sequence[int]
    ) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Integrated gradients of each target: (height, width) of pixels, (length,) of tokens."""
        model = self.pipeline.model
        forward, starts, baselines = _differentiable(model, inputs, self._reference(inputs))
        attribute = self.integrate(forward).attribute
        scores: dict[str, list[np.ndarray]] = {"pixel_values": [], "input_ids": []}
        for target in targets:
            parts = attribute(
                tuple(starts.values()),
                tuple(baselines.values()),
                target=target,
                n_steps=_STEPS,
                internal_batch_size=_STEPS_AT_ONCE,
            )
            for name, part in zip(starts, parts, strict=True):
                axis = 0 if name == "pixel_values" else -1
                scores[name].append(part[0].sum(axis).detach().double().cpu().numpy())
        return scores["pixel_values"], scores["input_ids"]

    def _reference(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor | None:
        """Token ids (1, length) of a plot that says nothing: padding between the special tokens."""
        if "input_ids" not in inputs:
            return None
        ids, tokenizer = inputs["input_ids"], self.pipeline.processor.tokenizer
        is_special = torch.isin(ids, torch.tensor(tokenizer.all_special_ids, device=ids.device))
        return torch.where(is_special, ids, tokenizer.pad_token_id)

    def _words(self, plot: str, scores: np.ndarray) -> tuple[Word, ...]:
        """Scores of tokens, added up by word."""
        processor = self.pipeline.processor
        encoding = processor.tokenizer(plot, truncation=True, max_length=processor.max_length)
        spans: dict[int, tuple[int, int, float]] = {}
        for token, word in enumerate(encoding.word_ids()):
            if word is not None:
                start, end = encoding.token_to_chars(token)
                first, _, total = spans.get(word, (start, end, 0.0))
                spans[word] = (first, end, total + float(scores[token]))
        return tuple(Word(*span) for span in spans.values())

    def _picture(self, pixels: torch.Tensor) -> Image.Image:
        """From (3, height, width), undoing the processor's normalisation."""
        process = self.pipeline.processor.image_processor
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (process.image_mean, process.image_std))
        values = ((pixels.cpu() * std + mean).clamp(0, 1) * 255).round().byte()
        return Image.fromarray(values.permute(1, 2, 0).numpy())


def _differentiable(
    model: GenrePreTrainedModel,
    inputs: dict[str, torch.Tensor],
    reference: torch.Tensor | None,
) -> tuple[Callable[..., torch.Tensor], dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """A model as a function of what can be interpolated: pixels and word embeddings.

    A movie's tokens become the rows of an embedding table of its own, in the place of the model's,
    so that it does not matter where and how often a system looks words up.

    Args:
        inputs: Of one movie.
        reference: Token ids that the path begins at.

    Returns:
        The function to logits; its arguments at the path's end; and at its beginning.
    """
    ends: dict[str, torch.Tensor] = {}
    starts: dict[str, torch.Tensor] = {}
    if "pixel_values" in inputs:
        ends["pixel_values"] = inputs["pixel_values"]
        starts["pixel_values"] = torch.zeros_like(inputs["pixel_values"])
    weight_name = ""
    if reference is not None:
        weight = model.get_input_embeddings().weight
        weight_name = next(name for name, value in model.named_parameters() if value is weight)
        ends["input_ids"] = weight[inputs["input_ids"]].detach()
        starts["input_ids"] = weight[reference].detach()
    rest = {name: value for name, value in inputs.items() if name not in ends}

    def forward(*values: torch.Tensor) -> torch.Tensor:
        given = dict(zip(ends, values, strict=True))
        steps = len(values[0])
        changed = {}
        if "input_ids" in given:
            _, length, dim = given["input_ids"].shape
            # Row 0 may be the padding's, which gets no gradient.
            rows = given["input_ids"].reshape(steps * length, dim)
            changed[weight_name] = torch.cat([rows.new_zeros(1, dim), rows])
            given["input_ids"] = torch.arange(1, steps * length + 1, device=rows.device).view(
                steps, length
            )
        others = {name: value.expand(steps, *value.shape[1:]) for name, value in rest.items()}
        return functional_call(model, changed, kwargs={**given, **others}).logits

    return forward, ends, starts


def sum_regions(pixels: np.ndarray) -> np.ndarray:
    """(height, width) added up to (REGIONS, REGIONS), of as equal sides as can be."""
    rows, columns = (np.linspace(0, side, REGIONS + 1).astype(int)[:-1] for side in pixels.shape)
    return np.add.reduceat(np.add.reduceat(pixels, rows, axis=0), columns, axis=1)


def _shapley(
    values: Mapping[tuple[bool, bool], float], has_poster: bool, has_plot: bool
) -> dict[str, float]:
    """What each modality adds, averaged over both orders in which they can come."""
    if has_poster and has_plot:
        both, poster, plot, nothing = (
            values[key] for key in ((True, True), (True, False), (False, True), (False, False))
        )
        return {
            "poster": ((poster - nothing) + (both - plot)) / 2,
            "plot": ((plot - nothing) + (both - poster)) / 2,
        }
    gain = values[has_poster, has_plot] - values[False, False]
    return {"poster": gain} if has_poster else {"plot": gain}


@torch.inference_mode()
def fusion_shares(model: GenrePreTrainedModel, inputs: dict[str, torch.Tensor]) -> dict[str, float]:
    """What a movie's fusion gives the poster: GMU's gate, or attention over tokens.

    Attention over the one fused token has nothing to choose from, and is left out.
    """
    if isinstance(model, GmuForSequenceClassification):
        gate = _call_of(model, model.gmu.gate, inputs)
        share = model.gmu.gate(*gate["args"]).sigmoid().mean().item()
        return {"gate, mean over its units": share}
    is_ours = isinstance(model, MMGenreForSequenceClassification)
    if not is_ours or len(model.config.modalities) < 2 or model.config.fusion_tokens == "fused":
        return {}
    attention: Any = model.attention
    call = _call_of(model, attention, inputs)
    _, weights = attention(*call["args"], **{**call["kwargs"], "need_weights": True})
    modalities, tokens = list(model.config.modalities), weights.shape[-1]
    is_poster = torch.zeros(tokens, dtype=torch.bool)
    is_poster[modalities.index("image")] = True
    if tokens > len(modalities):  # then regions and words, in the order of modalities
        words = inputs["input_ids"].shape[1]
        first = len(modalities) + (words if modalities[0] == "text" else 0)
        is_poster[first : first + tokens - len(modalities) - words] = True
    shares = weights[0].cpu()[:, is_poster].sum(dim=1).tolist()
    names = ("poster" if name == "image" else "plot" for name in modalities)
    return {f"attention of the {name}": share for name, share in zip(names, shares, strict=True)}


def _call_of(
    model: GenrePreTrainedModel, module: nn.Module, inputs: dict[str, torch.Tensor]
) -> dict[str, Any]:
    """`args` and `kwargs` that the model calls one of its modules with."""
    call: dict[str, Any] = {}
    handle = module.register_forward_pre_hook(
        lambda _, args, kwargs: call.update(args=args, kwargs=kwargs), with_kwargs=True
    )
    try:
        model(**inputs)
    finally:
        handle.remove()
    return call
