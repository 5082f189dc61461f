"""A data set's movies by split, with their labels: what training and evaluation start from."""

from collections.abc import Sequence
from dataclasses import dataclass

from mmgenre.configs.arguments import DataArguments
from mmgenre.data.labels import GenreVocabulary, canonical_genres, check_known
from mmgenre.data.readers import read_movies
from mmgenre.data.records import MovieRecord
from mmgenre.data.splits import split_records
from mmgenre.utils.errors import UserError


@dataclass(frozen=True)
class Movies:
    """Movies of each split and the genres that are their labels."""

    splits: dict[str, list[MovieRecord]]
    vocabulary: GenreVocabulary

    def split(self, name: str) -> list[MovieRecord]:
        """The movies of a split.

        Raises:
            UserError: The data set has none in it.
        """
        if not self.splits.get(name):
            there = ", ".join(split for split, records in self.splits.items() if records)
            raise UserError(f"the data set has no movies in the split {name!r}; it has {there}")
        return self.splits[name]


def load_movies(args: DataArguments, seed: int, genres: Sequence[str] | None = None) -> Movies:
    """Read, split and label a data set.

    Args:
        genres: A trained model's labels, which then take the place of the data set's own.

    Raises:
        UserError: The data set cannot be read, is empty, or has genres that are not labels.
    """
    if args.dataset is None:
        raise UserError("dataset is missing; give --dataset a folder, a Hub name or 'demo'")
    records = list(read_movies(args.dataset, args.data_format))
    splits = split_records(records, args.validation_fraction, seed)
    if genres is not None:
        vocabulary = GenreVocabulary(tuple(genres))
    elif args.genres:
        vocabulary = GenreVocabulary(canonical_genres(args.genres))
    else:
        vocabulary = GenreVocabulary.from_records(splits["train"])
    splits = {
        name: check_known(split, vocabulary, name, args.unknown_genres)
        for name, split in splits.items()
    }
    return Movies(splits, vocabulary)
