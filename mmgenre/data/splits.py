"""Which movies train, validate and test: as the data set names them, or a seeded cut."""

import hashlib
import logging
from collections import defaultdict
from typing import Literal

import numpy as np
from datasets import Dataset

from mmgenre.data.labels import GenreVocabulary
from mmgenre.data.records import SPLITS, VALIDATION, MovieRecord
from mmgenre.utils.errors import UserError

logger = logging.getLogger(__name__)


def split_records(
    records: list[MovieRecord],
    validation_fraction: float,
    seed: int,
    method: Literal["random", "stratified"] = "random",
) -> dict[str, list[MovieRecord]]:
    """The movies of each split that there is; `train` and `validation` there always are.

    Movies without a genre are left out first, with a warning. Where the movies name no
    `validation` split, it is cut off the training movies.

    Args:
        records: All movies.
        validation_fraction: Share of the training movies, in (0, 1).
        seed: Of the cut.
        method: Of the cut: `random_cut` or `stratified_cut`.

    Raises:
        UserError: No movie with a genre, none to train on, too few to cut, or only some of the
            movies name a split.
    """
    if not records:
        raise UserError("the data set has no movies; at least two with a genre are needed")
    labelled = [record for record in records if record.genres]
    if not labelled:
        raise UserError(f"none of the {len(records)} movies has a genre; training needs them")
    if len(labelled) < len(records):
        ids = [record.id for record in records if not record.genres]
        logger.warning(
            "left out %d of %d movies, which have no genre; the first is %s",
            len(ids),
            len(records),
            ids[0],
        )
    splits = _named_splits(labelled)
    if VALIDATION not in splits:
        cut_validation = stratified_cut if method == "stratified" else random_cut
        cut = cut_validation(splits["train"], validation_fraction, seed)
        splits = {**cut, **{name: splits[name] for name in splits if name != "train"}}
    logger.info("movies: %s", ", ".join(f"{name} {len(splits[name])}" for name in splits))
    return splits


def _named_splits(records: list[MovieRecord]) -> dict[str, list[MovieRecord]]:
    """The non-empty splits in the order of `SPLITS`; all is `train` where no split is named."""
    unnamed = [record.id for record in records if record.split is None]
    if len(unnamed) == len(records):
        return {"train": records}
    if unnamed:
        raise UserError(
            f"{len(unnamed)} of {len(records)} movies name no split, such as {unnamed[0]}; "
            "give all movies a split, or none"
        )
    splits = {name: [record for record in records if record.split == name] for name in SPLITS}
    if not splits["train"]:
        found = ", ".join(f"{name} ({len(splits[name])})" for name in SPLITS if splits[name])
        raise UserError(f"no movie with a genre is in the split 'train'; the movies are in {found}")
    return {name: movies for name, movies in splits.items() if movies}


def random_cut(
    records: list[MovieRecord], validation_fraction: float, seed: int
) -> dict[str, list[MovieRecord]]:
    """`train` and `validation` as the report cuts them (4.1).

    Raises:
        UserError: One of them would be empty.
    """
    rows = Dataset.from_dict({"row": range(len(records))})
    try:
        cut = rows.train_test_split(
            test_size=float(validation_fraction), shuffle=True, seed=seed, keep_in_memory=True
        )
    except ValueError as error:
        raise UserError(
            f"validation_fraction {validation_fraction} cannot cut {len(records)} training movies "
            "in two; it must lie between 0 and 1 and leave a movie to train on"
        ) from error
    return {
        "train": [records[row] for row in cut["train"]["row"]],
        VALIDATION: [records[row] for row in cut["test"]["row"]],
    }


def stratified_cut(
    records: list[MovieRecord], validation_fraction: float, seed: int
) -> dict[str, list[MovieRecord]]:
    """`train` and `validation` with each genre in both in proportion, rare genres too.

    Iterative stratification (Sechidis, Tsoumakas and Vlahavas 2011, algorithm 1): genre after
    genre, the rarest of what is left first, each movie goes to the part that lacks most of it.

    Departure from the paper: validation wants each genre of two movies or more at least once;
    in proportion it would get none of a genre that has fewer than half of 1 / fraction.

    Raises:
        UserError: One of them would be empty.
    """
    vocabulary = GenreVocabulary.from_records(records)
    labels = np.array([vocabulary.encode(record.genres) for record in records], dtype=bool)
    counts = labels.sum(axis=0)
    fractions = np.array([1 - validation_fraction, validation_fraction])
    wanted = np.outer(fractions, counts)  # (part, genre)
    wanted[1] = np.where(counts > 1, np.maximum(wanted[1], 1), wanted[1])
    wanted[0] = counts - wanted[1]
    wanted_movies = fractions * len(records)
    rng = np.random.default_rng(seed)
    part_of = np.full(len(records), -1)
    for _ in vocabulary.genres:
        left = labels[part_of < 0].sum(axis=0)
        if not left.any():
            break
        genre = np.where(left > 0, left, len(records) + 1).argmin()
        for row in rng.permutation(np.flatnonzero(labels[:, genre] & (part_of < 0))):
            # The most wanted part; among equals the one that lacks most movies, then chance.
            part = np.lexsort((rng.random(2), wanted_movies, wanted[:, genre]))[-1]
            part_of[row] = part
            wanted[part, labels[row]] -= 1
            wanted_movies[part] -= 1
    parts = [
        [record for record, at in zip(records, part_of, strict=True) if at == i] for i in (0, 1)
    ]
    if not all(parts):
        raise UserError(
            f"validation_fraction {validation_fraction} cannot cut {len(records)} training movies "
            "in two; it must lie between 0 and 1 and leave a movie to train on"
        )
    return {"train": parts[0], VALIDATION: parts[1]}


def find_leaks(splits: dict[str, list[MovieRecord]]) -> list[str]:
    """A clause for each movie that is in two splits: by its id, or by its poster and plot.

    Posters are read only where two splits have the same plot.
    """
    leaks = []
    split_of_id: dict[str, str] = {}
    by_plot: dict[str, list[tuple[str, MovieRecord]]] = defaultdict(list)
    for name, records in splits.items():
        for record in records:
            first = split_of_id.setdefault(record.id, name)
            if first != name:
                leaks.append(f"{record.id!r} is in {first} and in {name}")
            elif record.plot:
                by_plot[record.plot].append((name, record))
    for movies in by_plot.values():
        if len({name for name, _ in movies}) > 1:
            leaks += _same_posters(movies)
    return leaks


def _same_posters(movies: list[tuple[str, MovieRecord]]) -> list[str]:
    leaks = []
    seen: dict[bytes, tuple[str, str]] = {}
    for name, record in movies:
        try:
            poster = record.poster.read() if record.poster is not None else b""
        except OSError:  # counted as a broken poster later
            continue
        if not poster:
            continue
        first_name, first_id = seen.setdefault(hashlib.sha256(poster).digest(), (name, record.id))
        if first_name != name:
            leaks.append(
                f"{first_id!r} in {first_name} and {record.id!r} in {name} have the same poster "
                "and plot"
            )
    return leaks
