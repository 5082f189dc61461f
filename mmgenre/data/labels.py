"""Genre names, and the vocabulary that gives each its place in the label vector."""

import logging
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

from mmgenre.data.records import MovieRecord
from mmgenre.utils.errors import UserError

logger = logging.getLogger(__name__)


# Other names of MM-IMDb's genres, to the one that MM-IMDb uses.
ALIASES = {
    "film noir": "film-noir",
    "reality tv": "reality-tv",
    "sci fi": "sci-fi",
    "science fiction": "sci-fi",
    "science-fiction": "sci-fi",
    "scifi": "sci-fi",
    "sports": "sport",
    "talk show": "talk-show",
}


def canonical_genre(name: str) -> str:
    """The one spelling that is compared and stored: lower case, single spaces, no alias."""
    canonical = " ".join(name.casefold().split())
    return ALIASES.get(canonical, canonical)


def canonical_genres(names: Iterable[str]) -> tuple[str, ...]:
    """The canonical names in the order given, without repeats and empty names."""
    canonical = (canonical_genre(name) for name in names)
    return tuple(dict.fromkeys(name for name in canonical if name))


@dataclass(frozen=True)
class GenreVocabulary:
    """The genres that a model tells apart; the place of a genre is its column in the logits.

    Attributes:
        genres: In label order; made canonical here.

    Raises:
        UserError: No genre, an empty one, or one that is there twice.
    """

    genres: tuple[str, ...]

    def __post_init__(self) -> None:
        genres = tuple(canonical_genre(name) for name in self.genres)
        counts = Counter(genres)
        repeated = [genre for genre in counts if counts[genre] > 1]
        if not genres or "" in counts or repeated:
            wrong = f"has {', '.join(repeated)} more than once" if repeated else "has an empty name"
            raise UserError(
                f"the list of genres {'is empty' if not genres else wrong}; "
                "name every genre exactly once"
            )
        object.__setattr__(self, "genres", genres)

    @classmethod
    def from_records(cls, records: Iterable[MovieRecord]) -> "GenreVocabulary":
        """The genres of `records` (the training movies) in alphabetical order."""
        return cls(tuple(sorted({genre for record in records for genre in record.genres})))

    @classmethod
    def from_arguments(cls, genres: Sequence[str]) -> "GenreVocabulary":
        """The genres named, or those of the one `.txt` file named, which has one a line.

        Raises:
            UserError: The file cannot be read, or as the class.
        """
        if len(genres) > 1 or Path(genres[0]).suffix != ".txt":
            return cls(canonical_genres(genres))
        try:
            lines = Path(genres[0]).read_text(encoding="utf-8-sig").splitlines()
            return cls(tuple(line for line in lines if line.strip()))
        except UnicodeDecodeError as error:
            raise UserError(f"{genres[0]} is not UTF-8 text ({error.reason})") from error
        except OSError as error:
            raise UserError(f"{genres[0]} cannot be read ({error.strerror})") from error
        except UserError as error:
            raise UserError(f"{genres[0]}: {error}") from error

    @cached_property
    def label2id(self) -> dict[str, int]:
        return {genre: index for index, genre in enumerate(self.genres)}

    @property
    def id2label(self) -> dict[int, str]:
        return dict(enumerate(self.genres))

    def positive_weights(self, records: Sequence[MovieRecord], power: float) -> list[float]:
        """Weight of each genre's positives, (N / n) ** power, from N movies of which n have it.

        Power 1 is MMBT's (Kiela et al. 2019, public code); 0.5 favours rare genres less. A genre
        that no movie has gets the weight of one that a single movie has.
        """
        counts = Counter(genre for record in records for genre in record.genres)
        return [(len(records) / max(1, counts[genre])) ** power for genre in self.genres]

    def __len__(self) -> int:
        return len(self.genres)

    def index(self, genre: str) -> int:
        """The label of `genre`, in any spelling.

        Raises:
            UserError: It is not in the vocabulary.
        """
        try:
            return self.label2id[canonical_genre(genre)]
        except KeyError:
            known = ", ".join(self.genres)
            raise UserError(f"genre {genre!r} is unknown; the vocabulary has {known}") from None

    def encode(self, genres: Iterable[str]) -> list[float]:
        """The multi-hot label vector, shape (num_genres,), 0.0 or 1.0.

        Raises:
            UserError: A genre is not in the vocabulary.
        """
        labels = [0.0] * len(self)
        for genre in genres:
            labels[self.index(genre)] = 1.0
        return labels


def check_known(
    records: Sequence[MovieRecord],
    vocabulary: GenreVocabulary,
    split_name: str,
    unknown_genres: Literal["error", "drop"],
) -> list[MovieRecord]:
    """`records` with no genre outside `vocabulary`; no movie is left out.

    Args:
        records: The movies of one split.
        vocabulary: The genres that the model knows.
        split_name: For the message.
        unknown_genres: `drop` takes the unknown genres off their movies and logs how many.

    Raises:
        UserError: A genre is unknown and `unknown_genres` is `error`.
    """
    counts: Counter[str] = Counter()
    examples: dict[str, str] = {}
    known_records = []
    for record in records:
        unknown = [genre for genre in record.genres if genre not in vocabulary.label2id]
        counts.update(unknown)
        for genre in unknown:
            examples.setdefault(genre, record.id)
        known = tuple(genre for genre in record.genres if genre in vocabulary.label2id)
        known_records.append(replace(record, genres=known) if unknown else record)
    if not counts:
        return known_records
    listed = ", ".join(
        f"{genre} (movies: {count}, such as {examples[genre]})"
        for genre, count in counts.most_common()
    )
    if unknown_genres == "error":
        raise UserError(
            f"the {split_name} split has genres that the vocabulary lacks: {listed}; "
            "`--unknown_genres drop` drops these labels, `--genres` names the vocabulary"
        )
    without = sum(
        not known.genres and bool(record.genres)
        for record, known in zip(records, known_records, strict=True)
    )
    logger.warning(
        "dropped unknown genres from the %s split: %s; %d movies have no genre left",
        split_name,
        listed,
        without,
    )
    return known_records
