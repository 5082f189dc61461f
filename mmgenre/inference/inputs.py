"""What `mmgenre predict` reads: posters, folders, tables, standard input; a movie at a time."""

import csv
import io
import sys
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, TextIO

from mmgenre.constants import METADATA_FILES
from mmgenre.data.readers import HDF5_SUFFIXES, formats_in, read_movies
from mmgenre.data.readers import _fields as fields
from mmgenre.data.readers._fields import Row
from mmgenre.inference.pipeline import Movie, is_url
from mmgenre.utils.errors import UserError

STANDARD_INPUT = "-"
CSV_SUFFIX = ".csv"
JSONL_SUFFIXES = (".jsonl", ".ndjson", ".json")
POSTER_SUFFIXES = (
    *(".jpg", ".jpeg", ".jfif", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".avif"),
    *(".ppm", ".pgm", ".jp2"),
)
# Of a line of JSON or a cell of CSV: a file without line ends must not fill the memory.
_MAX_CHARACTERS = 16 * 1024 * 1024
_MAX_ERROR_CHARACTERS = 500
_COLUMNS = ("poster", "file_name", "plot")

NamedMovie = tuple[str, Movie]


def read_inputs(inputs: Sequence[str], plot: str | None = None) -> Iterator[NamedMovie]:
    """The movies of all inputs, one after the other, as `GenrePipeline.stream` takes them.

    An input is a poster; a folder with a metadata file (format D), with a data set in another
    format, or with posters; a CSV file or JSON lines with the columns `poster` (or `file_name`),
    `plot` and `id`; or `-`, such a table on standard input. Posters in a table are paths inside
    the table's folder, of standard input inside the current one.

    Args:
        plot: Of the poster, where that is the only input.

    Raises:
        UserError: An input does not exist or is a URL; while iterating, a table is no table. What
            is wrong with one of its rows becomes that movie's `error`.
    """
    for name in inputs:
        if is_url(name):
            raise UserError(f"{name} is a URL, and nothing is downloaded; give a file")
        if name != STANDARD_INPUT and not Path(name).exists():
            raise UserError(f"{name} does not exist; give a poster, a folder, a table or -")
    if plot is not None:
        if len(inputs) != 1 or not _is_poster(inputs[0]):
            raise UserError("--plot goes with one poster; several movies need a table")
        return iter([(inputs[0], {"poster": inputs[0], "plot": plot})])
    return chain.from_iterable(map(_read_input, inputs))


def _is_poster(name: str) -> bool:
    is_table = Path(name).suffix.lower() in (CSV_SUFFIX, *JSONL_SUFFIXES, *HDF5_SUFFIXES)
    return name != STANDARD_INPUT and not Path(name).is_dir() and not is_table


def _read_input(name: str) -> Iterator[NamedMovie]:
    path = Path(name)
    if name == STANDARD_INPUT:
        return _read_standard_input()
    if _is_poster(name):
        return iter([(name, {"poster": name})])
    if path.is_dir():
        for metadata in METADATA_FILES:
            if (path / metadata).is_file():
                return _read_table(path / metadata)
        return _read_data_set(name) if formats_in(path) else _read_posters(path)
    return _read_data_set(name) if path.suffix.lower() in HDF5_SUFFIXES else _read_table(path)


def _read_posters(folder: Path) -> Iterator[NamedMovie]:
    with fields.reading(str(folder)):
        names = sorted(path.name for path in folder.iterdir())
    posters = [name for name in names if Path(name).suffix.lower() in POSTER_SUFFIXES]
    if not posters:
        raise UserError(
            f"{folder} holds neither posters ({', '.join(POSTER_SUFFIXES)}) nor a table "
            f"({' or '.join(METADATA_FILES)})"
        )
    for name in posters:
        yield name, {"poster": folder / name}


def _read_data_set(path: str) -> Iterator[NamedMovie]:
    for record in read_movies(path):
        if record.rejected is not None:
            yield record.id, {"error": f"the poster cannot be read ({record.rejected.reason})"}
            continue
        features = None if record.features is None else record.features.read()
        yield record.id, {"poster": record.poster, "plot": record.plot, "features": features}


def _read_standard_input() -> Iterator[NamedMovie]:
    buffer: Any = sys.stdin.buffer
    start = buffer.peek().lstrip(b"\xef\xbb\xbf \t\r\n")
    stream = io.TextIOWrapper(buffer, encoding="utf-8-sig", newline="")
    with fields.reading("standard input"):
        yield from _read_rows(stream, not start.startswith(b"{"), "standard input", Path())


def _read_table(path: Path) -> Iterator[NamedMovie]:
    with fields.open_text(path) as stream:
        yield from _read_rows(stream, path.suffix.lower() == CSV_SUFFIX, str(path), path.parent)


def _read_rows(stream: TextIO, is_csv: bool, name: str, folder: Path) -> Iterator[NamedMovie]:
    for line, row in (_csv_rows if is_csv else _json_rows)(stream, name):
        movie_id = f"line {line}"
        try:
            if isinstance(row, UserError):
                raise row
            movie_id = fields.text(row, "id") or _poster_name(row) or movie_id
            yield _encodable(movie_id), _movie(row, folder)
        except UserError as error:
            message = str(error)[:_MAX_ERROR_CHARACTERS]
            yield _encodable(movie_id), {"error": _encodable(message)}


def _poster_name(row: Row) -> str | None:
    return fields.text(row, "poster") or fields.text(row, "file_name")


def _movie(row: Row, folder: Path) -> Movie:
    _check_columns(row)
    poster = _poster_name(row)
    if poster is not None and not is_url(poster):  # which has a message of its own
        return {"poster": fields.inside(folder, poster, "poster"), "plot": fields.text(row, "plot")}
    return {"poster": poster, "plot": fields.text(row, "plot")}


def _check_columns(columns: Sequence[str] | Row) -> None:
    if not set(columns) & set(_COLUMNS):
        names = ", ".join(map(repr, columns))[:_MAX_ERROR_CHARACTERS] or "none"
        raise UserError(
            f"the columns are {names}; needed are poster (or file_name), "
            "plot or both, in a CSV file by a header and separated by commas"
        )


def _json_rows(stream: TextIO, name: str) -> Iterator[tuple[int, Row | UserError]]:
    line, number = stream.readline(_MAX_CHARACTERS), 1
    while line:
        row: Row | UserError
        try:
            if len(line) == _MAX_CHARACTERS and not line.endswith("\n"):
                while line and not line.endswith("\n"):
                    line = stream.readline(_MAX_CHARACTERS)
                raise UserError(f"the line has more than {_MAX_CHARACTERS:,} characters")
            row = fields.json_row(line) if line.strip() else {}
        except UserError as error:
            row = error
        if row != {}:
            yield number, row
        line, number = stream.readline(_MAX_CHARACTERS), number + 1


def _csv_rows(stream: TextIO, name: str) -> Iterator[tuple[int, Row | UserError]]:
    former_limit = csv.field_size_limit(_MAX_CHARACTERS)
    reader = csv.DictReader(stream)
    try:
        with fields.located(name):
            _check_columns(reader.fieldnames or [])
        for row in reader:
            try:
                fields.check_csv_row(row)
                yield reader.line_num, row
            except UserError as error:
                yield reader.line_num, error
    except csv.Error as error:
        line = reader.reader.line_num  # DictReader's own is still that of the row before
        raise UserError(f"{name} line {line}: broken CSV: {error}") from error
    finally:
        csv.field_size_limit(former_limit)


def _encodable(text: str) -> str:
    """Without halves of characters, which JSON can hold and no file can."""
    return text.encode("utf-8", "replace").decode()
