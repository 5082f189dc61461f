"""`sxj1215/mmimdb` and data sets of its form: by Hub name, as parquet files, or saved to disk.

A row has `messages`, a list of `{role, content}` (the prompt with the plot, the answer with the
genres), and `images`, a list of posters, of which the first is used.
"""

import glob
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from datasets import Dataset, DatasetDict, load_dataset, load_from_disk
from datasets.exceptions import DatasetsError

from mmgenre.data.labels import canonical_genres
from mmgenre.data.readers import PARQUET_PATTERNS, SAVED_DATASET_FILES
from mmgenre.data.records import MovieRecord
from mmgenre.utils.errors import UserError

logger = logging.getLogger(__name__)

# What the items of each needed column must hold, and of which types.
_NEEDED_FIELDS = {
    "messages": ("content", (pa.string(), pa.large_string())),
    "images": ("bytes", (pa.binary(), pa.large_binary())),
}
_PLOT = re.compile(r"Plot:(.*?)\nNote that a movie", re.DOTALL)
_BATCH_SIZE = 100
_IDS_IN_WARNING = 5


@dataclass(frozen=True)
class ArrowPoster:
    """The first image of a row. Holds and pickles a reference to the memory-mapped file.

    Attributes:
        dataset: In `arrow` format, so that `datasets` neither decodes the image nor opens the file
            that its `path` may name.
        row: Index into `dataset`.
        source: The path or Hub name that the data set was opened by.
    """

    dataset: Dataset
    row: int
    source: str
    is_checked = False

    @property
    def name(self) -> str:
        return f"{self.source}#row{self.row}"

    def read(self) -> bytes:
        return self.dataset[self.row]["images"][0][0]["bytes"].as_py()


def read_hub(path: str) -> Iterator[MovieRecord]:
    """Yield the movies of the split `train`; none names a split.

    Rows without an image or without two messages are left out, and reported in one warning.

    Args:
        path: Hub name, folder with parquet files (also in `data/`), or a `save_to_disk` folder.

    Raises:
        UserError: It cannot be opened, or its columns are others.
    """
    dataset = _open(path)
    _check_columns(dataset, path)
    # Not `cast_column(..., Image(decode=False))`: that writes a second copy of all the posters.
    dataset = dataset.with_format("arrow")
    posters = dataset.select_columns(["images"])
    left_out: list[str] = []
    row = 0
    for batch in dataset.iter(_BATCH_SIZE):
        for messages, images in zip(batch["messages"].to_pylist(), batch["images"], strict=True):
            movie_id = f"row{row:05d}"
            if not (_has_messages(messages) and _has_image(images)):
                left_out.append(movie_id)
            else:
                yield MovieRecord(
                    id=movie_id,
                    plot=_plot(messages[0]["content"] or ""),
                    genres=canonical_genres((messages[1]["content"] or "").split(",")),
                    poster=ArrowPoster(posters, row, path),
                )
            row += 1
    if left_out:
        logger.warning(
            "%s: left out %d of %d rows, which lack an image or two messages; the first: %s",
            path,
            len(left_out),
            row,
            ", ".join(left_out[:_IDS_IN_WARNING]),
        )


def _open(path: str) -> Dataset:
    folder = Path(path)
    is_saved = any((folder / name).is_file() for name in SAVED_DATASET_FILES)
    files = sorted(str(file) for pattern in PARQUET_PATTERNS for file in folder.glob(pattern))
    if folder.exists() and not is_saved and not files:
        raise UserError(f"{path} holds neither parquet files nor a data set of save_to_disk")
    try:
        if is_saved:
            dataset = load_from_disk(path)
        elif files:
            data_files = [glob.escape(file) for file in files]
            dataset = load_dataset("parquet", data_files=data_files, split="train")
        else:
            dataset = load_dataset(path, split="train")
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        reason = (str(error.__cause__ or error).splitlines() or [type(error).__name__])[0]
        kind = "folder" if folder.exists() else "Hub data set (and no folder has this name)"
        raise UserError(f"cannot open {path} as a {kind}: {reason}") from error
    if isinstance(dataset, DatasetDict):
        if "train" not in dataset:
            raise UserError(f"{path} has the splits {', '.join(dataset)}; 'train' is needed")
        return dataset["train"]
    return dataset


def _check_columns(dataset: Dataset, path: str) -> None:
    schema = dataset.data.schema
    for column, (item_field, types) in _NEEDED_FIELDS.items():
        kind = schema.field(column).type if column in schema.names else pa.null()
        items = kind.value_type if isinstance(kind, (pa.ListType, pa.LargeListType)) else pa.null()
        index = items.get_field_index(item_field) if pa.types.is_struct(items) else -1
        if index < 0 or items.field(index).type not in types:
            found = ", ".join(f"{field.name} ({field.type})" for field in schema)
            raise UserError(
                f"{path} has the columns {found}; needed are messages (a list with role and "
                "content, which are text) and images (a list of images, with their bytes)"
            )


def _has_messages(messages: list[dict[str, str] | None] | None) -> bool:
    return messages is not None and len(messages) > 1 and None not in messages[:2]


def _has_image(images: pa.ListScalar) -> bool:
    """Whether the first image's bytes are in the row; they are not copied to see it."""
    return (
        images.is_valid and len(images) > 0 and images[0].is_valid and images[0]["bytes"].is_valid
    )


def _plot(prompt: str) -> str | None:
    """The text between `Plot:` and the line that starts with `Note that a movie` (report, 4.2)."""
    match = _PLOT.search(prompt)
    return (match.group(1).strip() or None) if match else None
