"""Prepared data on a node's own disk, which a hundred loaders read faster than a shared one."""

import hashlib
import logging
import os
from pathlib import Path

from mmgenre.constants import LOCK_FILE, PREPARED_MANIFEST_FILE
from mmgenre.data.readers.prepared import Manifest, Shard, open_manifest, shard_file
from mmgenre.utils.errors import UserError
from mmgenre.utils.io import locked

logger = logging.getLogger(__name__)

_CHUNK = 1 << 22  # bytes


def copy_to_scratch(folder: Path, manifest: Manifest, scratch: Path) -> Path:
    """Copy prepared data, unless a copy is there; hashes are checked on the way.

    Called by all processes of a node: the first copies, the others wait for it.

    Args:
        manifest: Of `folder`.
        scratch: Folder on the node's disk; the copy is made in one of its own in it.

    Returns:
        The copy.

    Raises:
        UserError: The disk is full or cannot be written to, or a file is damaged.
    """
    # Named by its content, so that another version of the data does not meet it.
    copy = scratch / f"mmgenre_{os.getuid()}_{(manifest.content_hash or '')[:16]}"
    size = sum(shard.size for shard in manifest.shards)
    try:
        copy.mkdir(mode=0o700, parents=True, exist_ok=True)
        with locked(copy / LOCK_FILE):
            if not _is_copy(copy, manifest):
                logger.info("copying %.1f MB of prepared data to %s", size / 1e6, copy)
                for number, shard in enumerate(manifest.shards):
                    _copy_shard(shard_file(folder, number), shard_file(copy, number), shard)
                manifest.write(copy)
    except OSError as error:
        raise UserError(
            f"prepared data ({size / 1e6:.1f} MB) cannot be copied to scratch_dir "
            f"{str(scratch)!r} ({error.strerror}); name another, or leave it out"
        ) from error
    return copy


def _is_copy(copy: Path, manifest: Manifest) -> bool:
    if not (copy / PREPARED_MANIFEST_FILE).exists():  # written last
        return False
    try:
        return open_manifest(copy).content_hash == manifest.content_hash
    except UserError:  # a system that clears scratch disks took a file
        return False


def _copy_shard(source: Path, target: Path, shard: Shard) -> None:
    digest = hashlib.sha256()
    with source.open("rb") as reader, target.open("wb") as writer:
        while chunk := reader.read(_CHUNK):
            digest.update(chunk)
            writer.write(chunk)
    if digest.hexdigest() != shard.sha256:
        raise UserError(
            f"{source} is damaged: its SHA-256 is not the manifest's; `mmgenre prepare SOURCE "
            f"{source.parent} --overwrite` makes the folder anew"
        )
