"""A user's own folder: posters, and beside them `metadata.jsonl` or `metadata.csv`.

The columns follow the `imagefolder` convention: `file_name`, `plot`, `genres`; optional `id`,
`title`, `year`, `split`, and credits.
"""

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from reprlib import repr as short_repr
from typing import Any, TextIO, TypeGuard

from mmgenre.constants import METADATA_FILES
from mmgenre.data.labels import canonical_genres
from mmgenre.data.records import SPLITS, VALIDATION, FilePoster, MovieRecord
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
_RECORD_COLUMNS = {"id", "file_name", "plot", "genres", "title", "year", "split"}
_SPLIT_ALIASES = {"val": VALIDATION, "valid": VALIDATION, "dev": VALIDATION}

Row = dict[str, Any]


def read_folder(path: str) -> Iterator[MovieRecord]:
    """Yield a movie per line of the metadata file. Whether a poster's file exists is not checked.

    Raises:
        UserError: No metadata file or two, or a line that is wrong; names the line.
    """
    folder = Path(path)
    found = [folder / name for name in METADATA_FILES if (folder / name).is_file()]
    if len(found) != 1:
        count = "both" if found else "neither"
        raise UserError(
            f"{path} holds {count} of {' and '.join(METADATA_FILES)}; one of them is needed"
        )
    metadata = found[0]
    lines: dict[str, int] = {}
    for line, row in _rows(metadata):
        try:
            movie = _movie(row, folder)
        except UserError as error:
            raise UserError(f"{metadata} line {line}: {error}") from error
        if movie.id in lines:
            raise UserError(
                f"{metadata} lines {lines[movie.id]} and {line} have the same id {movie.id!r}; "
                "give every movie an id of its own"
            )
        lines[movie.id] = line
        yield movie


def _rows(metadata: Path) -> Iterator[tuple[int, Row]]:
    """Yield each row and the number of its (last) line, from 1."""
    read = _csv_rows if metadata.suffix == ".csv" else _jsonl_rows
    try:
        with metadata.open(encoding="utf-8-sig", newline="") as stream:
            yield from read(stream)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{metadata} is not UTF-8 text ({error.reason}); save it as UTF-8"
        ) from error


def _csv_rows(stream: TextIO) -> Iterator[tuple[int, Row]]:
    reader = csv.DictReader(stream)
    try:
        for row in reader:
            # DictReader puts surplus fields under the key None and fills missing ones with None.
            if None in row or None in row.values():
                raise UserError(
                    f"{stream.name} line {reader.line_num}: the number of fields is not that of "
                    "the header; put fields that hold a comma in quotes"
                )
            yield reader.line_num, row
    except csv.Error as error:
        line = reader.reader.line_num  # DictReader's own is still that of the row before
        raise UserError(f"{stream.name} line {line}: broken CSV: {error}") from error


def _jsonl_rows(stream: TextIO) -> Iterator[tuple[int, Row]]:
    for number, line in enumerate(stream, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise UserError(f"{stream.name} line {number}: broken JSON: {error}") from error
        if not isinstance(row, dict):
            raise UserError(f"{stream.name} line {number}: must be a JSON object {{...}}")
        yield number, row


def _movie(row: Row, folder: Path) -> MovieRecord:
    if "genres" not in row or not row.keys() & {"file_name", "plot"}:
        raise UserError(
            f"the columns are {', '.join(row)}; needed are genres, and file_name or plot"
        )
    file_name = _text(row, "file_name")
    movie_id = _text(row, "id") or (Path(file_name).stem if file_name else None)
    if not movie_id:
        raise UserError("has neither an id nor a file_name; one is needed to name the movie")
    return MovieRecord(
        id=movie_id,
        plot=_text(row, "plot"),
        genres=_genres(row["genres"]),
        poster=_poster(file_name, folder) if file_name else None,
        title=_text(row, "title"),
        year=_year(row.get("year")),
        credits=_credits(row),
        split=_split(_text(row, "split")),
    )


def _text(row: Row, column: str) -> str | None:
    """The text in `column`; a whole number counts as text (an id, a title such as 300)."""
    value = row.get(column)
    if value is None:
        return None
    if not isinstance(value, (str, int)):
        raise UserError(f"{column} must be text, not {short_repr(value)}")
    return str(value) if str(value).strip() else None


def _poster(file_name: str, folder: Path) -> FilePoster:
    path = folder / file_name
    try:
        is_inside = path.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):  # a loop of links, a null character
        is_inside = False
    if Path(file_name).is_absolute() or not is_inside:
        raise UserError(
            f"file_name {file_name!r} must be a relative path to a file inside {folder}"
        )
    return FilePoster(path)


def _is_names(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _genres(value: object) -> tuple[str, ...]:
    names = value
    if isinstance(value, str):
        if value.lstrip().startswith("["):
            try:
                names = json.loads(value)
            except ValueError as error:
                raise UserError(f"genres {short_repr(value)} is not a JSON list") from error
        else:
            names = value.split("|" if "|" in value else ",")
    if names is None:
        return ()
    if not _is_names(names):
        raise UserError(
            "genres must be a list of names, or names separated by | or a comma, "
            f"not {short_repr(value)}"
        )
    return canonical_genres(names)


def _year(value: str | float | None) -> int | None:
    if value is None or value == "":
        return None
    try:
        # By way of float: a table with gaps is often written with years such as 1999.0.
        year = float(value)
    except (TypeError, ValueError):
        year = float("nan")
    if not year.is_integer():
        raise UserError(f"year must be a whole number, not {short_repr(value)}")
    return int(year)


def _split(name: str | None) -> str | None:
    if name is None:
        return None
    split = name.strip().lower()
    split = _SPLIT_ALIASES.get(split, split)
    if split not in SPLITS:
        choices = ", ".join([*SPLITS, *_SPLIT_ALIASES])
        raise UserError(f"split {name!r} is unknown; choose one of {choices}")
    return split


def _credits(row: Row) -> dict[str, tuple[str, ...]]:
    """The known roles, as a list or separated by `|`, and every other column that is a list."""
    credits = {}
    for role, value in row.items():
        if role in _RECORD_COLUMNS or not value:
            continue
        if role in CREDIT_ROLES and isinstance(value, str):
            value = value.split("|")
        if _is_names(value):
            credits[role] = tuple(dict.fromkeys(name.strip() for name in value if name.strip()))
        elif role in CREDIT_ROLES:
            raise UserError(f"{role} must be a list of names, not {short_repr(value)}")
    return credits
