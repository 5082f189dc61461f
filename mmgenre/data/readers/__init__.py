"""One file per data format; `read_movies` finds the format of a path and reads it."""

import logging
import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

from mmgenre.constants import METADATA_FILES, PREPARED_MANIFEST_FILE
from mmgenre.data.records import MovieRecord
from mmgenre.utils.errors import UserError

logger = logging.getLogger(__name__)

READERS = {
    "hub": "mmgenre.data.readers.hub:read_hub",
    "folder": "mmgenre.data.readers.folder:read_folder",
    "archive": "mmgenre.data.readers.archive:read_archive",
    "jsonl": "mmgenre.data.readers.jsonl:read_jsonl",
    "hdf5": "mmgenre.data.readers.hdf5:read_hdf5",
    "prepared": "mmgenre.data.readers.prepared:read_prepared",
}
PARQUET_PATTERNS = ("*.parquet", "data/*.parquet")
SAVED_DATASET_FILES = ("dataset_dict.json", "state.json")
SPLIT_FILE = "split.json"
JSONL_FILES = ("train.jsonl", "dev.jsonl", "test.jsonl")
HDF5_FILE = "multimodal_imdb.hdf5"
HDF5_SUFFIXES = (".hdf5", ".h5")

# A folder is in a format where it holds one of these.
_MARKS = {
    "folder": METADATA_FILES,
    "archive": (SPLIT_FILE,),
    "jsonl": JSONL_FILES,
    "hdf5": (HDF5_FILE,),
    "hub": (*PARQUET_PATTERNS, *SAVED_DATASET_FILES),
    "prepared": (PREPARED_MANIFEST_FILE,),
}
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")


def read_movies(path: str, data_format: str = "auto") -> Iterator[MovieRecord]:
    """The movies at `path`, in the data set's own order.

    Args:
        path: A folder, an HDF5 file, or the name of a data set on the Hugging Face Hub.
        data_format: A key of `READERS`, or `auto` to tell it from the path.

    Raises:
        UserError: As `find_format`; or, while iterating, the data is not in that format.
    """
    module, function = READERS[find_format(path, data_format)].split(":")
    reader = getattr(import_module(module), function)
    return reader(path)


def find_format(path: str, data_format: str = "auto") -> str:
    """The key of `READERS` by which `path` is read; the log says one that was not named.

    Raises:
        UserError: The format is unknown or cannot be told, or the path cannot be read.
    """
    if data_format not in ("auto", *READERS):
        choices = ", ".join(["auto", *READERS])
        raise UserError(f"data_format {data_format!r} is unknown; choose one of {choices}")
    _check_readable(path)
    if data_format == "auto":
        data_format = detect_format(path)
        logger.info("reading %s as format %r (found from the path)", path, data_format)
    return data_format


def detect_format(path: str) -> str:
    """The key of `READERS` for `path`, told from the names of the files in it.

    Raises:
        UserError: Nothing that a reader knows is there, or data sets in several formats.
    """
    folder = Path(path)
    if not folder.exists():
        if _HUB_NAME.fullmatch(path):
            return "hub"
        raise UserError(f"{path} does not exist and is not a Hub name such as owner/name")
    if not folder.is_dir():
        if folder.suffix in HDF5_SUFFIXES:
            return "hdf5"
        raise UserError(
            f"{path} is a file; give the folder that holds the data set, unpacked if it is an "
            "archive"
        )
    found = formats_in(folder)
    if len(found) > 1:
        raise UserError(
            f"{path} holds data sets in the formats {' and '.join(found)}; name one with "
            "--data_format"
        )
    if not found:
        marks = "; ".join(f"{' or '.join(_MARKS[name])} ({name})" for name in _MARKS)
        raise UserError(
            f"{path} holds no data set that can be read{nearby_hint(folder) or f': needs {marks}'}"
        )
    return found[0]


def nearby_hint(folder: Path) -> str:
    """The end of a message, where a data set lies one level deeper or higher than `folder`."""
    deeper = (child for child in sorted(folder.iterdir()) if child.is_dir())
    for nearby in (*deeper, folder.resolve().parent):
        found = formats_in(nearby)
        if found:
            return f", but {nearby} holds one ({', '.join(found)}); give that folder"
    return ""


def formats_in(folder: Path) -> list[str]:
    """The keys of `READERS` whose files are there."""
    return [
        name
        for name, patterns in _MARKS.items()
        if any(next(folder.glob(pattern), None) for pattern in patterns)
    ]


def _check_readable(path: str) -> None:
    folder = Path(path)
    try:
        if folder.is_dir():
            next(folder.iterdir(), None)
            (folder / "..").stat()  # fails where files in it may be listed but not opened
    except PermissionError as error:
        raise UserError(
            f"{path} cannot be read ({error.strerror}); it needs rights r and x"
        ) from error
