"""What `mmgenre predict` writes: JSON lines, CSV or Parquet, whole at every moment.

| format  | columns                                 | while it is written       | resumes after |
|---------|-----------------------------------------|---------------------------|---------------|
| jsonl   | id, genres, probabilities; or id, error | a line a movie            | anything      |
| csv     | id, genres, error, probability/<genre>  | a line a movie            | anything      |
| parquet | the same                                | row groups in a temporary | signal, error |

A Parquet file ends with the list of what is in it, so that a process that was killed leaves none.
"""

import csv
import io
import json
import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

from mmgenre.inference.pipeline import Prediction
from mmgenre.utils.errors import UserError

FORMATS = ("jsonl", "csv", "parquet")
_DECIMALS = 6
_ROW_GROUP = 1024  # movies
_SEPARATOR = "|"
# A spreadsheet takes a cell that begins so for a formula; with a quote before it, for text.
_FORMULAS = ("=", "+", "-", "@", "\t", "'")


class Output(Protocol):
    """Where predictions go."""

    def written(self) -> Iterator[str]:
        """The ids that are there, in order; afterwards writing goes on behind the last.

        Raises:
            UserError: The file is not what this model's predictions were written to.
        """

    def write(self, movie_id: str, prediction: Prediction) -> None:
        """Write a movie.

        Raises:
            OSError: It cannot be written.
        """

    def close(self) -> None:
        """Finish the file."""


def find_format(path: Path | None, name: str | None) -> str:
    """The format asked for, or that of the file's suffix.

    Raises:
        UserError: The suffix is none of the formats', or Parquet is asked for without a file.
    """
    if path is None:
        if name == "parquet":
            raise UserError("--format parquet needs --output FILE; a Parquet file is no stream")
        return name or "jsonl"
    name = name or path.suffix.lower().removeprefix(".")
    if name not in FORMATS:
        raise UserError(
            f"output {str(path)!r} does not say its format; end it in .{', .'.join(FORMATS)} or "
            "name one with --format"
        )
    return name


def check_output(path: Path, inputs: Sequence[str], overwrite: bool, resume: bool) -> None:
    """See that predictions can be written to `path`, without writing.

    Raises:
        UserError: It exists and is neither to be overwritten nor resumed, is one of the inputs, or
            its folder cannot be written to.
    """
    if overwrite and resume:
        raise UserError("--overwrite and --resume exclude each other")
    if path.is_dir():
        raise UserError(f"output {str(path)!r} is a folder; name a file")
    if path.exists():
        if any(Path(name).exists() and path.samefile(name) for name in inputs):
            raise UserError(f"output {str(path)!r} is an input; name another file")
        if not (overwrite or resume):
            raise UserError(
                f"output {str(path)!r} exists; --resume goes on with it, --overwrite replaces it"
            )
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise UserError(
            f"output {str(path)!r} cannot be written; {str(path.parent)!r} does not exist or is "
            "not writable"
        )


def open_output(path: Path | None, name: str, genres: Sequence[str], resume: bool) -> Output:
    """Open an output in one of `FORMATS`; None is standard output.

    Raises:
        UserError: It cannot be opened.
    """
    try:
        if name == "parquet":
            assert path is not None
            return _ParquetOutput(path, genres, resume)
        return _LinesOutput(path, _JsonLines() if name == "jsonl" else _Csv(genres), resume)
    except OSError as error:
        raise UserError(f"output {str(path)!r} cannot be written ({error.strerror})") from error


class _JsonLines:
    header = b""

    def line(self, movie_id: str, prediction: Prediction) -> bytes:
        if "error" in prediction:
            row: dict[str, Any] = {"id": movie_id, "error": prediction["error"]}
        else:
            rounded = {g: round(p, _DECIMALS) for g, p in prediction["probabilities"].items()}
            genres = prediction["genres"]
            row = {"id": movie_id, "genres": genres, "probabilities": rounded}
        return f"{json.dumps(row, ensure_ascii=False)}\n".encode()

    def movie_id(self, line: bytes) -> str:
        return json.loads(line)["id"]


class _Csv:
    def __init__(self, genres: Sequence[str]) -> None:
        self.genres = genres
        columns = [f"probability/{genre}" for genre in genres]
        self.header = self._line(["id", "genres", "error", *columns])

    def line(self, movie_id: str, prediction: Prediction) -> bytes:
        if "error" in prediction:
            return self._line([movie_id, "", prediction["error"], *[""] * len(self.genres)])
        values = [f"{prediction['probabilities'][genre]:.{_DECIMALS}f}" for genre in self.genres]
        return self._line([movie_id, _SEPARATOR.join(prediction["genres"]), "", *values])

    def movie_id(self, line: bytes) -> str:
        (row,) = csv.reader([line.decode()])
        return row[0].removeprefix("'")

    def _line(self, cells: Sequence[str]) -> bytes:
        stream = io.StringIO()
        csv.writer(stream, lineterminator="\n").writerow(map(_as_text, cells))
        return stream.getvalue().encode()


def _as_text(cell: str) -> str:
    """Of one line, so that a row is a line, which is whole or not; and no formula."""
    cell = " ".join(cell.splitlines())
    return f"'{cell}" if cell.startswith(_FORMULAS) else cell


class _LinesOutput:
    def __init__(self, path: Path | None, rows: _JsonLines | _Csv, resume: bool) -> None:
        self.path = path
        self.rows = rows
        self.file: IO[bytes] = sys.stdout.buffer
        if path is not None:
            self.file = path.open("r+b" if resume and path.exists() else "wb")
        if not (resume and path is not None and self._has_header()):
            self.file.write(rows.header)

    def _has_header(self) -> bool:
        """Whether writing began; what is there of a half-written header is dropped."""
        start = self.file.read(len(self.rows.header) or 1)
        self.file.seek(0)
        if start.startswith(self.rows.header) and start:
            return True
        if not self.rows.header.startswith(start):
            raise UserError(
                f"output {str(self.path)!r} has other columns than this model's predictions; give "
                "the model that it was written with, or --overwrite"
            )
        self.file.truncate()
        return False

    def written(self) -> Iterator[str]:
        end = len(self.rows.header)
        self.file.seek(end)
        for number, line in enumerate(self.file, start=1):
            if not line.endswith(b"\n"):
                break  # of a process that was killed
            try:
                yield self.rows.movie_id(line)
            except (ValueError, KeyError, TypeError, IndexError, csv.Error) as error:
                raise UserError(
                    f"output {str(self.path)!r} row {number} is no prediction; --overwrite "
                    "replaces the file"
                ) from error
            end += len(line)
        self.file.seek(end)
        self.file.truncate()

    def write(self, movie_id: str, prediction: Prediction) -> None:
        self.file.write(self.rows.line(movie_id, prediction))
        self.file.flush()

    def close(self) -> None:
        if self.path is not None:
            self.file.close()


class _ParquetOutput:
    def __init__(self, path: Path, genres: Sequence[str], resume: bool) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.path = path
        self.genres = genres
        self.former = path if resume and path.exists() else None
        self.temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        columns = [pa.field(f"probability/{genre}", pa.float32()) for genre in genres]
        texts = [pa.field("id", pa.string()), pa.field("genres", pa.list_(pa.string()))]
        self.schema = pa.schema([*texts, pa.field("error", pa.string()), *columns])
        self.writer = pq.ParquetWriter(self.temporary, self.schema)
        self.buffer: list[dict[str, Any]] = []
        self.is_complete = self.former is None  # what is there of `former` is in it

    def written(self) -> Iterator[str]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        if self.former is None:
            return
        try:
            with pq.ParquetFile(self.former) as file:
                if file.schema_arrow != self.schema:
                    raise UserError(
                        f"output {str(self.path)!r} has other columns than this model's "
                        "predictions; give the model that it was written with, or --overwrite"
                    )
                for batch in file.iter_batches(_ROW_GROUP):
                    self.writer.write_batch(batch)
                    yield from batch["id"].to_pylist()
            self.is_complete = True
        except pa.ArrowException as error:
            raise UserError(
                f"output {str(self.path)!r} is no whole Parquet file, so it cannot be resumed; "
                "--overwrite replaces it"
            ) from error

    def write(self, movie_id: str, prediction: Prediction) -> None:
        probabilities = prediction.get("probabilities", {})
        self.buffer.append(
            {
                "id": movie_id,
                "genres": prediction.get("genres"),
                "error": prediction.get("error"),
                **{f"probability/{genre}": probabilities.get(genre) for genre in self.genres},
            }
        )
        if len(self.buffer) == _ROW_GROUP:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        # Emptied before: a signal in between costs rows, which resuming makes up for, not doubles.
        rows, self.buffer = self.buffer, []
        if rows:
            self.writer.write_batch(pa.RecordBatch.from_pylist(rows, self.schema))

    def close(self) -> None:
        self._flush()
        self.writer.close()
        if self.is_complete:
            self.temporary.replace(self.path)
        else:
            self.temporary.unlink()
