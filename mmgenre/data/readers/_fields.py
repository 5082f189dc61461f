"""What the formats share: rows of a file, and the checks of a row's fields.

Errors here do not say where the row is; the reader does, with `located`.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from reprlib import repr as short_repr
from typing import Any, TextIO, TypeGuard

from mmgenre.data.labels import canonical_genres
from mmgenre.data.records import SPLITS, VALIDATION
from mmgenre.utils.errors import UserError

CREDIT_ROLES = (
    "director",
    "producer",
    "writer",
    "cinematographer",
    "art director",
    "assistant director",
    "editor",
    "cast",
    "production_company",
)
_SPLIT_ALIASES = {"val": VALIDATION, "valid": VALIDATION, "dev": VALIDATION}

Row = dict[str, Any]


@contextmanager
def located(place: str) -> Iterator[None]:
    """Put `place` before the text of a `UserError`."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{place}: {error}") from error


@contextmanager
def open_text(path: Path) -> Iterator[TextIO]:
    """Open a UTF-8 file; what goes wrong while it is read is a `UserError` that names it."""
    with reading(str(path)), path.open(encoding="utf-8-sig", newline="") as stream:
        yield stream


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Make a `UserError` that names the file of what goes wrong while its text is read."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise UserError(f"{name} is not UTF-8 text ({error.reason}); save it as UTF-8") from error
    except OSError as error:
        raise UserError(f"{name} cannot be read ({error.strerror})") from error


def jsonl_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """Yield each row of a JSON-lines file and the number of its line, from 1."""
    with open_text(path) as stream:
        for number, line in enumerate(stream, start=1):
            if not line.strip():
                continue
            with located(f"{path} line {number}"):
                row = json_row(line)
            yield number, row


def json_row(line: str) -> Row:
    """The row in a line of JSON."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise UserError(f"broken JSON: {error}") from error
    if not isinstance(row, dict):
        raise UserError("must be a JSON object {...}")
    return row


def check_csv_row(row: Row) -> None:
    """See that a row of `csv.DictReader` has as many fields as the header."""
    # DictReader puts surplus fields under the key None and fills missing ones with it.
    if None in row or None in row.values():
        raise UserError(
            "the number of fields is not that of the header; put fields that hold a comma in quotes"
        )


def claim_id(taken: dict[str, str], movie_id: str, place: str) -> None:
    """Note in `taken` that the movie at `place` has this id.

    Raises:
        UserError: Another movie has it, or it is no plain name. Files are named after ids, so an
            id must not lead out of a folder.
    """
    if movie_id in ("", ".", "..") or set(movie_id) & set("/\\\0"):
        raise UserError(f"id {movie_id!r} must be a plain name without path separators")
    if movie_id in taken:
        raise UserError(
            f"id {movie_id!r} was already given in {taken[movie_id]}; give every movie an id of "
            "its own"
        )
    taken[movie_id] = place


def inside(folder: Path, name: str, field: str) -> Path:
    """The path of a file that a data set names; it is not checked to exist.

    Raises:
        UserError: It lies outside `folder`, by `..`, as an absolute path or through a link.
    """
    path = folder / name
    try:
        is_inside = path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):  # a loop of links, a null character
        is_inside = False
    if Path(name).is_absolute() or not is_inside:
        raise UserError(f"{field} {name!r} must be a relative path to a file inside {folder}")
    return path


def text(row: Row, column: str) -> str | None:
    """The text in `column`, unchanged; None where it is missing, null or blank.

    A whole number counts as text (an id, a title such as 300).
    """
    value = row.get(column)
    if value is None:
        return None
    if not isinstance(value, (str, int)):
        raise UserError(f"{column} must be text, not {short_repr(value)}")
    return str(value) if str(value).strip() else None


def is_names(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def unique_names(names: list[str]) -> tuple[str, ...]:
    """Names of people without repeats, blanks and outer spaces."""
    return tuple(dict.fromkeys(name.strip() for name in names if name.strip()))


def genres(row: Row, column: str) -> tuple[str, ...]:
    """Canonical genres of a list of names or of text; none where it is missing or null."""
    value = names = row.get(column)
    if isinstance(value, str):
        if value.lstrip().startswith("["):
            try:
                names = json.loads(value)
            except ValueError as error:
                raise UserError(f"{column} {short_repr(value)} is not a JSON list") from error
        else:
            names = value.split("|" if "|" in value else ",")
    if names is None:
        return ()
    if not is_names(names):
        raise UserError(
            f"{column} must be a list of names, or names separated by | or a comma, "
            f"not {short_repr(value)}"
        )
    return canonical_genres(names)


def split(name: str) -> str:
    """The split's name in `SPLITS`."""
    canonical = name.strip().lower()
    canonical = _SPLIT_ALIASES.get(canonical, canonical)
    if canonical not in SPLITS:
        choices = ", ".join([*SPLITS, *_SPLIT_ALIASES])
        raise UserError(f"split {name!r} is unknown; choose one of {choices}")
    return canonical
