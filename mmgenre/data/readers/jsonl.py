"""JSON lines as MMBT's `scripts/mmimdb.py` writes them: `train.jsonl`, `dev.jsonl`, `test.jsonl`.

A line is `{"id", "text", "image": "relative/path.jpeg", "label": ["Drama", ...]}`. MMBT's own data
set reads the poster's path from `img`, so files are found with either key.
"""

from collections.abc import Iterator
from pathlib import Path

from mmgenre.data.readers import JSONL_FILES
from mmgenre.data.readers import _fields as fields
from mmgenre.data.readers._fields import Row
from mmgenre.data.records import FilePoster, MovieRecord
from mmgenre.utils.errors import UserError


def read_jsonl(path: str) -> Iterator[MovieRecord]:
    """Yield a movie per line of the files that there are, in the order of `JSONL_FILES`.

    Whether a poster's file exists is not checked.

    Raises:
        UserError: None of the files, or a line that is wrong; names file and line.
    """
    folder = Path(path)
    files = [folder / name for name in JSONL_FILES if (folder / name).is_file()]
    if not files:
        raise UserError(f"{path} holds none of {', '.join(JSONL_FILES)}")
    taken: dict[str, str] = {}
    for file in files:
        split = fields.split(file.stem)
        for line, row in fields.jsonl_rows(file):
            with fields.located(f"{file} line {line}"):
                movie = _movie(row, folder, split)
                fields.claim_id(taken, movie.id, f"{file.name} line {line}")
            yield movie


def _movie(row: Row, folder: Path, split: str) -> MovieRecord:
    if not {"id", "text", "label"} <= row.keys():
        raise UserError(f"the keys are {', '.join(row)}; needed are id, text, image and label")
    movie_id = fields.text(row, "id")
    if movie_id is None:
        raise UserError("id is empty; give every movie an id of its own")
    image = fields.text(row, "image") or fields.text(row, "img")
    return MovieRecord(
        id=movie_id,
        plot=fields.text(row, "text"),
        genres=fields.genres(row, "label"),
        poster=FilePoster(fields.inside(folder, image, "image")) if image else None,
        split=split,
    )
