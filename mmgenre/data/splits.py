"""Which movies train, validate and test: as the data set names them, or the report's seeded cut."""

import logging

from datasets import Dataset

from mmgenre.data.records import SPLITS, VALIDATION, MovieRecord
from mmgenre.utils.errors import UserError

logger = logging.getLogger(__name__)


def split_records(
    records: list[MovieRecord], validation_fraction: float, seed: int
) -> dict[str, list[MovieRecord]]:
    """The movies of each split that there is; `train` and `validation` there always are.

    Movies without a genre are left out first, with a warning. Where the movies name no
    `validation` split, it is cut off the training movies as in the report (4.1).

    Args:
        records: All movies.
        validation_fraction: Share of the training movies, in (0, 1).
        seed: Of the shuffle before the cut.

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
        cut = _cut_validation(splits["train"], validation_fraction, seed)
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


def _cut_validation(
    records: list[MovieRecord], validation_fraction: float, seed: int
) -> dict[str, list[MovieRecord]]:
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
