"""What every reader yields: one movie."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

VALIDATION = "validation"
SPLITS = ("train", VALIDATION, "test")

# Decodes bytes to RGB; raises OSError where they are no picture. Given by whoever needs pictures,
# because decoding belongs to the processor that travels with a model.
Decoder = Callable[..., Image.Image]


class Poster(Protocol):
    """Where a poster's encoded bytes are. Cheap to hold and to pickle; nothing is decoded here."""

    @property
    def name(self) -> str:
        """What to call the poster in a message: a path, or a file and row."""

    @property
    def is_checked(self) -> bool:
        """Whether it is known to decode, so that it need not be tried before training."""

    def read(self) -> bytes:
        """The encoded bytes.

        Raises:
            OSError: The bytes cannot be read.
        """


@dataclass(frozen=True)
class FilePoster:
    """A poster in a file of its own."""

    path: Path
    is_checked = False

    @property
    def name(self) -> str:
        return str(self.path)

    def read(self) -> bytes:
        try:
            return self.path.read_bytes()
        except FileNotFoundError as error:
            raise FileNotFoundError("file is missing") from error


class Features(Protocol):
    """Where ready-made feature vectors of a movie are. Cheap to hold and to pickle."""

    def read(self) -> dict[str, np.ndarray]:
        """The vectors, each of shape (size,), by the name of the model input that they are."""


class Tokens(Protocol):
    """Where a plot's token ids are. Cheap to hold and to pickle."""

    @property
    def fingerprint(self) -> str:
        """Of the tokenizer that made them (see `tokenizer.fingerprint`)."""

    @property
    def max_length(self) -> int:
        """The number of ids that the plot was cut to."""

    def read(self) -> np.ndarray:
        """The ids (length,), int32, special tokens included, without padding."""


@dataclass(frozen=True)
class RejectedPoster:
    """A poster that cannot be used, and why."""

    id: str
    poster: str
    reason: str

    @property
    def message(self) -> str:
        """What stops those who want no broken posters."""
        return (
            f"the poster {self.poster} of movie {self.id!r} cannot be used ({self.reason}); "
            "--broken_posters count would go on without it"
        )


@dataclass(frozen=True)
class MovieRecord:
    """One movie as the data set gives it, before any tokeniser or image transform.

    Attributes:
        id: Unique in the data set; a plain name, without path separators.
        plot: None or "" where the movie has none. Otherwise as the data set has it, HTML, emoji and
            any length included; the tokeniser cuts it to the model's `max_length`.
        genres: Canonical names (see `labels.canonical_genre`), without repeats.
        poster: None where the movie has none.
        credits: Role (`director`, `producer`, `writer`, ...) to the names in that role.
        split: `train`, `validation`, `test`, or None where the format names no split.
        features: None where the format holds no feature vectors.
        tokens: Of the plot; None where it is missing or the format holds none.
        rejected: The poster, where it was found broken when the data set was prepared.
    """

    id: str
    plot: str | None
    genres: tuple[str, ...]
    poster: Poster | None
    title: str | None = None
    year: int | None = None
    credits: dict[str, tuple[str, ...]] = field(default_factory=dict)
    split: str | None = None
    features: Features | None = None
    tokens: Tokens | None = None
    rejected: RejectedPoster | None = None
