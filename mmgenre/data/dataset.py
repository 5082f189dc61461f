"""Movies as a torch data set, and the check that finds broken posters before training starts."""

import copy
import hashlib
import io
import json
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch.utils.data import Dataset
from tqdm import tqdm

from mmgenre.data.labels import GenreVocabulary
from mmgenre.data.records import MovieRecord, Poster
from mmgenre.utils.errors import UserError
from mmgenre.utils.logging import show_progress

logger = logging.getLogger(__name__)

# Decodes bytes to RGB; raises OSError where they are no picture. Given by whoever builds the data
# set, because decoding belongs to the processor that travels with a model.
Decoder = Callable[..., Image.Image]


@dataclass(frozen=True)
class RejectedPoster:
    """A poster that cannot be used, and why."""

    id: str
    poster: str
    reason: str


class MovieDataset(Dataset[dict[str, Any]]):
    """Movies by index: `image` (PIL RGB or None), `plot` (text or None), `labels` and `index`.

    Random numbers of the augmentation are a function of (seed, epoch, movie id) alone, so that a
    movie looks the same whatever the number of workers, processes or restarts.

    Args:
        decode: Decoder of poster bytes; None leaves posters out, for models without images.
        min_side: Sides, in pixels, that a decoded poster needs at least.
        augment: Random transform of a PIL picture.
        rejected: Posters that were taken out of `records` before.
    """

    def __init__(
        self,
        records: Sequence[MovieRecord],
        vocabulary: GenreVocabulary,
        decode: Decoder | None,
        min_side: int,
        augment: Callable[[Image.Image], Image.Image] | None = None,
        seed: int = 0,
        rejected: Sequence[RejectedPoster] = (),
    ) -> None:
        self.records = records
        self.rejected = rejected
        self.labels = torch.tensor([vocabulary.encode(r.genres) for r in records])
        self.decode = decode
        self.min_side = min_side
        self.augment = augment
        self.seed = seed
        self.epoch = 0

    def with_records(self, records: Sequence[MovieRecord]) -> "MovieDataset":
        """The same movies in the same order, with other posters or plots."""
        changed = copy.copy(self)
        changed.records = records
        return changed

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = self.records[index]
        image = None
        if self.decode is not None and record.poster is not None:
            image = self.decode(io.BytesIO(record.poster.read()), self.min_side)
            if self.augment is not None:
                with torch.random.fork_rng(devices=[]):
                    torch.manual_seed(sample_seed(self.seed, self.epoch, record.id))
                    image = self.augment(image)
        return {
            "image": image,
            "plot": record.plot,
            "labels": self.labels[index],
            "index": index,
        }


def sample_seed(seed: int, epoch: int, movie_id: str) -> int:
    """A 63-bit seed from what alone may decide a sample's random numbers."""
    digest = hashlib.blake2b(f"{seed}/{epoch}/{movie_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def drop_broken_posters(
    records: Sequence[MovieRecord], decode: Decoder, min_side: int, broken_posters: str
) -> tuple[list[MovieRecord], list[RejectedPoster]]:
    """Decode every poster once; records whose poster is broken come back without it.

    Args:
        broken_posters: `count`, or `error` to stop at the first.

    Raises:
        UserError: A poster is broken and `broken_posters` is `error`.
    """

    def check(record: MovieRecord) -> RejectedPoster | None:
        reason = None if record.poster is None else _defect(record.poster, decode, min_side)
        if reason is None or record.poster is None:
            return None
        return RejectedPoster(record.id, record.poster.name, reason)

    kept, rejected = [], []
    # Threads, since Pillow's decoders release the interpreter lock.
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        results = pool.map(check, records)
        progress = tqdm(
            zip(records, results, strict=True),
            total=len(records),
            desc="checking posters",
            unit=" posters",
            disable=not show_progress(),
            leave=False,
        )
        for record, defect in progress:
            if defect is not None:
                if broken_posters == "error":
                    pool.shutdown(cancel_futures=True)
                    raise UserError(
                        f"the poster {defect.poster} of movie {defect.id!r} cannot be used "
                        f"({defect.reason}); --broken_posters count would go on without it"
                    )
                rejected.append(defect)
                record = replace(record, poster=None)
            kept.append(record)
    if rejected:
        shown = "; ".join(f"{r.id} ({r.reason})" for r in rejected[:5])
        more = f"; and {len(rejected) - 5} more" if len(rejected) > 5 else ""
        logger.warning("%d broken posters count as missing: %s%s", len(rejected), shown, more)
    return kept, rejected


def write_rejected(path: Path, rejected: Sequence[RejectedPoster]) -> None:
    """One JSON line a rejected poster."""
    with path.open("w", encoding="utf-8") as file:
        for item in rejected:
            file.write(json.dumps(vars(item)) + "\n")


def _defect(poster: Poster, decode: Decoder, min_side: int) -> str | None:
    try:
        decode(io.BytesIO(poster.read()), min_side)
    except FileNotFoundError:
        return "file is missing"
    except OSError as error:
        return str(error)
    return None
