"""A data set's movies by split, with their labels: what training and evaluation start from."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mmgenre.configs.arguments import MoviesArguments
from mmgenre.data.labels import GenreVocabulary, check_known
from mmgenre.data.protocols import apply_protocol
from mmgenre.data.readers import find_format, read_movies
from mmgenre.data.readers.prepared import Manifest, open_manifest
from mmgenre.data.records import MovieRecord
from mmgenre.data.scratch import copy_to_scratch
from mmgenre.data.splits import find_leaks, split_records
from mmgenre.utils.errors import UserError

logger = logging.getLogger(__name__)

_LEAKS_IN_MESSAGE = 5


@dataclass(frozen=True)
class Movies:
    """Movies of each split and the genres that are their labels.

    Attributes:
        genres_there: All genres that the data set's movies have, also those that are no labels.
        manifest: Of a prepared data set; None of any other.
    """

    splits: dict[str, list[MovieRecord]]
    vocabulary: GenreVocabulary
    genres_there: frozenset[str] = frozenset()
    manifest: Manifest | None = None

    def split(self, name: str) -> list[MovieRecord]:
        """The movies of a split.

        Raises:
            UserError: The data set has none in it.
        """
        if not self.splits.get(name):
            there = ", ".join(split for split, records in self.splits.items() if records)
            raise UserError(f"the data set has no movies in the split {name!r}; it has {there}")
        return self.splits[name]

    def shared_genres(self) -> list[str]:
        """The labels that movies of the data set, of whatever split, have.

        Raises:
            UserError: There is none.
        """
        shared = [genre for genre in self.vocabulary.genres if genre in self.genres_there]
        if not shared:
            raise UserError(
                "the data set and the model have no genre in common; the model's are "
                f"{', '.join(self.vocabulary.genres)}"
            )
        return shared

    def dropped_genres(self, kept: Sequence[str]) -> dict[str, str]:
        """For a report: what an evaluation on the genres `kept` leaves out, where it does."""
        dropped = {
            "dropped, unknown to the model": self.genres_there - set(self.vocabulary.genres),
            "dropped, not in the data set": set(self.vocabulary.genres) - set(kept),
        }
        return {reason: ", ".join(sorted(genres)) for reason, genres in dropped.items() if genres}


def load_movies(
    args: MoviesArguments,
    seed: int,
    genres: Sequence[str] | None = None,
    scratch_dir: str | None = None,
) -> Movies:
    """Read, split and label a data set.

    Args:
        genres: A trained model's labels, which then take the place of the data set's own.
        scratch_dir: Prepared data is copied there first; other formats are read where they are.

    Raises:
        UserError: The data set cannot be read, is empty, has genres that are not labels, has a
            movie in two splits, or is prepared and not the one that `content_hash` names.
    """
    path = args.prepared_dir or args.dataset
    if path is None:
        raise UserError("dataset is missing; give --dataset a folder, a Hub name or 'demo'")
    if args.protocol is not None and genres is None:
        _check_protocol_decides_alone(args)
    data_format = find_format(path, "prepared" if args.prepared_dir else args.data_format)
    manifest = _open_prepared(Path(path), args) if data_format == "prepared" else None
    if manifest is not None and scratch_dir is not None:
        path = str(copy_to_scratch(Path(path), manifest, Path(scratch_dir)))
    records = list(read_movies(path, data_format))
    vocabulary = None
    if args.protocol is not None:
        splits, vocabulary = apply_protocol(args.protocol, records)
    else:
        splits = split_records(records, args.validation_fraction, seed, args.split_method)
    if genres is not None:
        vocabulary = GenreVocabulary(tuple(genres))
    elif args.genres:
        vocabulary = GenreVocabulary.from_arguments(args.genres)
    elif vocabulary is None:
        vocabulary = GenreVocabulary.from_records(splits["train"])
    _check_leaks(splits, args.protocol)
    there = {genre for split in splits.values() for record in split for genre in record.genres}
    splits = {
        name: check_known(split, vocabulary, name, args.unknown_genres)
        for name, split in splits.items()
    }
    return Movies(splits, vocabulary, frozenset(there), manifest)


def _open_prepared(folder: Path, args: MoviesArguments) -> Manifest:
    manifest = open_manifest(folder)
    logger.info("prepared data with content hash %s", manifest.content_hash)
    if args.content_hash not in (None, manifest.content_hash):
        raise UserError(
            f"{folder} has the content hash {manifest.content_hash}, and the run began with "
            f"{args.content_hash}; give the data of before, or begin a new run"
        )
    return manifest


def _check_protocol_decides_alone(args: MoviesArguments) -> None:
    default = MoviesArguments()
    for name in ("genres", "split_method", "validation_fraction"):
        if getattr(args, name) != getattr(default, name):
            raise UserError(
                f"protocol {args.protocol!r} decides labels and splits; leave --{name} out, or "
                "set --protocol none"
            )


def _check_leaks(splits: dict[str, list[MovieRecord]], protocol: str | None) -> None:
    leaks = find_leaks(splits)
    if not leaks:
        return
    shown = "; ".join(leaks[:_LEAKS_IN_MESSAGE])
    more = f"; and {len(leaks) - _LEAKS_IN_MESSAGE} more" if len(leaks) > _LEAKS_IN_MESSAGE else ""
    message = (
        f"{len(leaks)} movies are in two splits, so that a model is tested on what it has seen: "
    )
    if protocol is None:
        raise UserError(
            f"{message}{shown}{more}; take one of them out, or name splits that have both in one"
        )
    # A published protocol is compared with other people's figures, so its splits stand as they are.
    logger.warning("protocol %s: %s%s%s", protocol, message, shown, more)
