"""The original MM-IMDb archive (Arevalo et al. 2017, `mmimdb.tar.gz`), unpacked.

<folder>/
  split.json           {"train": [id, ...], "dev": [...], "test": [...]}
  dataset/<id>.json    plots, genres, title, year, credits
  dataset/<id>.jpeg    the poster
"""

import json
import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from reprlib import repr as short_repr
from typing import Any

from mmgenre.data.readers import SPLIT_FILE, nearby_hint
from mmgenre.data.readers import _fields as fields
from mmgenre.data.readers._fields import CREDIT_ROLES, Row
from mmgenre.data.records import FilePoster, MovieRecord
from mmgenre.utils.errors import UserError

logger = logging.getLogger(__name__)

_MOVIES_DIR = "dataset"
_IDS_IN_MESSAGE = 5


def read_archive(path: str) -> Iterator[MovieRecord]:
    """Yield the movies in the order of `split.json`. Whether a poster's file exists is not checked.

    The plot is the longest of a movie's plots, the first of them where several are, as in the
    published code of GMU and MMBT. Movies in no split are left out, with a warning.

    Raises:
        UserError: `split.json` or a movie it names is missing or broken.
    """
    folder = Path(path)
    split_file = folder / SPLIT_FILE
    if not split_file.is_file():
        raise UserError(f"{path} holds no {SPLIT_FILE}{nearby_hint(folder)}")
    splits = _read_splits(split_file)
    _check_movies_are_there(folder, splits)
    odd: Counter[str] = Counter()
    for split, movie_ids in splits.items():
        for movie_id in movie_ids:
            file = fields.inside(folder, f"{_MOVIES_DIR}/{movie_id}.json", "movie")
            with fields.located(str(file)):
                movie = _movie(_load_object(file), movie_id, split, folder, odd)
            yield movie
    for what, count in odd.items():
        logger.warning("%s: left out %d %s", path, count, what)


def _load_object(file: Path) -> Row:
    try:
        value = json.loads(file.read_bytes())
    except OSError as error:
        raise UserError(f"cannot be read ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"broken JSON: {error}") from error
    if not isinstance(value, dict):
        raise UserError("must be a JSON object {...}")
    return value


def _read_splits(file: Path) -> dict[str, list[str]]:
    """Split to movie ids, each id in one split only."""
    splits: dict[str, list[str]] = {}
    taken: dict[str, str] = {}
    with fields.located(str(file)):
        for name, movie_ids in _load_object(file).items():
            if not fields.is_names(movie_ids):
                raise UserError(f"{name} must be a list of ids, not {short_repr(movie_ids)}")
            for movie_id in movie_ids:
                fields.claim_id(taken, movie_id, name)
            splits[fields.split(name)] = movie_ids
    return splits


def _check_movies_are_there(folder: Path, splits: dict[str, list[str]]) -> None:
    # One listing, because a file system on a network answers 26,000 single questions slowly.
    try:
        files = {file.stem for file in (folder / _MOVIES_DIR).iterdir() if file.suffix == ".json"}
    except OSError as error:
        raise UserError(
            f"{folder / _MOVIES_DIR} cannot be read ({error.strerror}); it must hold the movies "
            f"that {SPLIT_FILE} names"
        ) from error
    named = {movie_id for movie_ids in splits.values() for movie_id in movie_ids}
    missing = [movie_id for ids in splits.values() for movie_id in ids if movie_id not in files]
    if missing:
        raise UserError(
            f"{folder / SPLIT_FILE} names {len(missing)} movies that {_MOVIES_DIR}/ lacks, such as "
            f"{', '.join(missing[:_IDS_IN_MESSAGE])}; unpack the archive again or take these ids "
            "out"
        )
    unnamed = sorted(files - named)
    if unnamed:
        logger.warning(
            "%s: left out %d movies that %s does not name; the first: %s",
            folder,
            len(unnamed),
            SPLIT_FILE,
            ", ".join(unnamed[:_IDS_IN_MESSAGE]),
        )


def _movie(row: Row, movie_id: str, split: str, folder: Path, odd: Counter[str]) -> MovieRecord:
    year = row.get("year")
    if year is not None and not isinstance(year, int):
        odd["years that are no whole number"] += 1
    return MovieRecord(
        id=movie_id,
        plot=_longest_plot(row.get("plot")),
        genres=fields.genres(row, "genres"),
        poster=FilePoster(fields.inside(folder, f"{_MOVIES_DIR}/{movie_id}.jpeg", "poster")),
        title=fields.text(row, "title"),
        year=year if isinstance(year, int) else None,
        credits=_credits(row, odd),
        split=split,
    )


def _longest_plot(plots: Any) -> str | None:
    if plots is None:
        return None
    plots = [plots] if isinstance(plots, str) else plots
    if not fields.is_names(plots):
        raise UserError(f"plot must be a list of texts, not {short_repr(plots)}")
    longest = max(plots, key=len, default="")
    return longest if longest.strip() else None


def _credits(row: Row, odd: Counter[str]) -> dict[str, tuple[str, ...]]:
    """The names of each known role, from lists of objects with a `name`."""
    credits = {}
    for role in CREDIT_ROLES:
        people = row.get(role) or []
        if not isinstance(people, list):
            raise UserError(f"{role} must be a list of people, not {short_repr(people)}")
        named = [person.get("name") for person in people if isinstance(person, dict)]
        names = [name for name in named if isinstance(name, str) and name.strip()]
        if len(names) < len(people):
            odd["people without a name"] += len(people) - len(names)
        if names:
            credits[role] = fields.unique_names(names)
    return credits
