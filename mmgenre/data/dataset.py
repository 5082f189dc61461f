"""Movies as a torch data set, and the check that finds broken posters before training starts."""

import copy
import hashlib
import io
import json
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset
from tqdm import tqdm

from mmgenre.data.credits import plot_with_credits
from mmgenre.data.labels import GenreVocabulary
from mmgenre.data.records import Decoder, MovieRecord, RejectedPoster
from mmgenre.utils.errors import UserError
from mmgenre.utils.logging import show_progress

logger = logging.getLogger(__name__)


class MovieDataset(Dataset[dict[str, Any]]):
    """Movies by index: `image`, `plot`, `features`, `labels` and `index`; the first three or None.

    An image is a PIL picture in RGB, or what `augment` makes of it. The plot is text or an array of
    token ids. Features are ready-made vectors by name.
    Random numbers of the augmentation are a function of (seed, epoch, movie id) alone, so that a
    movie looks the same whatever the number of workers, processes or restarts.

    Args:
        decode: Decoder of poster bytes; None leaves posters out, for models without images.
        min_side: Sides, in pixels, that a decoded poster needs at least.
        augment: Random transform of a PIL picture, given its seed.
        rejected: Posters that were taken out of `records` before.
        use_tokens: Give a plot as the token ids that it comes with, if any.
        use_features: Give the features that a movie comes with, if any.
        credit_roles: Names of the people in these roles follow the plot; see `plot_with_credits`.
    """

    def __init__(
        self,
        records: Sequence[MovieRecord],
        vocabulary: GenreVocabulary,
        decode: Decoder | None,
        min_side: int,
        augment: Callable[[Image.Image, int], Any] | None = None,
        seed: int = 0,
        rejected: Sequence[RejectedPoster] = (),
        use_tokens: bool = False,
        use_features: bool = False,
        credit_roles: Sequence[str] = (),
    ) -> None:
        self.records = records
        self.rejected = rejected
        self.labels = torch.tensor([vocabulary.encode(r.genres) for r in records])
        self.decode = decode
        self.min_side = min_side
        self.augment = augment
        self.seed = seed
        self.use_tokens = use_tokens
        self.use_features = use_features
        self.credit_roles = credit_roles
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
        image: Any = None
        if self.decode is not None and record.poster is not None:
            image = self.decode(io.BytesIO(record.poster.read()), self.min_side)
            if self.augment is not None:
                image = self.augment(image, sample_seed(self.seed, self.epoch, record.id))
        return {
            "image": image,
            "plot": self._plot(record),
            "features": record.features.read() if self.use_features and record.features else None,
            "labels": self.labels[index],
            "index": index,
        }

    def _plot(self, record: MovieRecord) -> str | np.ndarray | None:
        if self.use_tokens and record.tokens is not None:
            return record.tokens.read()
        return plot_with_credits(record, self.credit_roles)


def sample_seed(seed: int, epoch: int, movie_id: str) -> int:
    """A 63-bit seed from what alone may decide a sample's random numbers."""
    digest = hashlib.blake2b(f"{seed}/{epoch}/{movie_id}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def drop_broken_posters(
    records: Sequence[MovieRecord], decode: Decoder, min_side: int, broken_posters: str
) -> tuple[list[MovieRecord], list[RejectedPoster]]:
    """Decode every poster once; records whose poster is broken come back without it.

    Posters of a prepared data set were decoded when it was made, and what was found then counts.

    Args:
        broken_posters: `count`, or `error` to stop at the first.

    Raises:
        UserError: A poster is broken and `broken_posters` is `error`.
    """

    def check(record: MovieRecord) -> RejectedPoster | None:
        poster = record.poster
        if poster is None or poster.is_checked:
            return record.rejected
        try:
            decode(io.BytesIO(poster.read()), min_side)
        except OSError as error:
            return RejectedPoster(record.id, poster.name, str(error))
        return None

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
                    raise UserError(defect.message)
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
