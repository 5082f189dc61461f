"""One file per data format; `read_movies` finds the format of a path and reads it."""

import logging
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from mmgenre.constants import METADATA_FILES
from mmgenre.data.records import MovieRecord
from mmgenre.utils.errors import UserError

logger = logging.getLogger(__name__)

READERS = {
    "hub": "mmgenre.data.readers.hub:read_hub",
    "folder": "mmgenre.data.readers.folder:read_folder",
}
PARQUET_PATTERNS = ("*.parquet", "data/*.parquet")
SAVED_DATASET_FILES = ("dataset_dict.json", "state.json")

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def read_movies(path: str, data_format: str = "auto") -> Iterator[MovieRecord]:
    """The movies at `path`, in the data set's own order.

    Args:
        path: A folder, or the name of a data set on the Hugging Face Hub.
        data_format: A key of `READERS`, or `auto` to tell it from the path.

    Raises:
        UserError: The format is unknown; or, while iterating, the data is not in that format.
    """
    if data_format == "auto":
        data_format = detect_format(path)
    elif data_format not in READERS:
        choices = ", ".join(["auto", *READERS])
        raise UserError(f"data_format {data_format!r} is unknown; choose one of {choices}")
    logger.info("reading %s as format %r", path, data_format)
    module, function = READERS[data_format].split(":")
    reader = getattr(import_module(module), function)
    return reader(path)


def detect_format(path: str) -> str:
    """The key of `READERS` for `path`, told from the names of the files in it.

    Raises:
        UserError: Nothing that a reader knows is there.
    """
    folder = Path(path)
    if not folder.exists():
        if _HUB_NAME.fullmatch(path):
            return "hub"
        raise UserError(f"{path} does not exist and is not a Hub name such as owner/name")
    if not folder.is_dir():
        raise UserError(f"{path} is a file; give the folder that holds the data set")
    if any((folder / name).is_file() for name in METADATA_FILES):
        return "folder"
    if any((folder / name).is_file() for name in SAVED_DATASET_FILES) or any(
        next(folder.glob(pattern), None) for pattern in PARQUET_PATTERNS
    ):
        return "hub"
    raise UserError(
        f"{path} holds no data set that can be read: looked for {' or '.join(METADATA_FILES)}, "
        f"for {' or '.join(PARQUET_PATTERNS)}, and for a data set written by save_to_disk"
    )
