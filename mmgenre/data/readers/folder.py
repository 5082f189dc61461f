"""A user's own folder: posters, and beside them `metadata.jsonl` or `metadata.csv`.

The columns follow the `imagefolder` convention: `file_name`, `plot`, `genres`; optional `id`,
`title`, `year`, `split`, and credits.
"""

import csv
from collections.abc import Iterator
from pathlib import Path
from reprlib import repr as short_repr

from mmgenre.constants import METADATA_FILES
from mmgenre.data.readers import _fields as fields
from mmgenre.data.readers._fields import CREDIT_ROLES, Row
from mmgenre.data.records import FilePoster, MovieRecord
from mmgenre.utils.errors import UserError

_RECORD_COLUMNS = {"id", "file_name", "plot", "genres", "title", "year", "split"}


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
    taken: dict[str, str] = {}
    read = _csv_rows if metadata.suffix == ".csv" else fields.jsonl_rows
    for line, row in read(metadata):
        with fields.located(f"{metadata} line {line}"):
            movie = _movie(row, folder)
            fields.claim_id(taken, movie.id, f"line {line}")
        yield movie


def _csv_rows(path: Path) -> Iterator[tuple[int, Row]]:
    """Yield each row and the number of its (last) line, from 1."""
    with fields.open_text(path) as stream:
        reader = csv.DictReader(stream)
        try:
            for row in reader:
                with fields.located(f"{path} line {reader.line_num}"):
                    fields.check_csv_row(row)
                yield reader.line_num, row
        except csv.Error as error:
            line = reader.reader.line_num  # DictReader's own is still that of the row before
            raise UserError(f"{path} line {line}: broken CSV: {error}") from error


def _movie(row: Row, folder: Path) -> MovieRecord:
    if "genres" not in row or not row.keys() & {"file_name", "plot"}:
        raise UserError(
            f"the columns are {', '.join(row)}; needed are genres, and file_name or plot"
        )
    file_name = fields.text(row, "file_name")
    movie_id = fields.text(row, "id") or (Path(file_name).stem if file_name else None)
    if not movie_id:
        raise UserError("has neither an id nor a file_name; one is needed to name the movie")
    split = fields.text(row, "split")
    return MovieRecord(
        id=movie_id,
        plot=fields.text(row, "plot"),
        genres=fields.genres(row, "genres"),
        poster=FilePoster(fields.inside(folder, file_name, "file_name")) if file_name else None,
        title=fields.text(row, "title"),
        year=_year(row.get("year")),
        credits=_credits(row),
        split=None if split is None else fields.split(split),
    )


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


def _credits(row: Row) -> dict[str, tuple[str, ...]]:
    """The known roles, as a list or separated by `|`, and every other column that is a list."""
    credits = {}
    for role, value in row.items():
        if role in _RECORD_COLUMNS or not value:
            continue
        if role in CREDIT_ROLES and isinstance(value, str):
            value = value.split("|")
        if fields.is_names(value):
            credits[role] = fields.unique_names(value)
        elif role in CREDIT_ROLES:
            raise UserError(f"{role} must be a list of names, not {short_repr(value)}")
    return credits
