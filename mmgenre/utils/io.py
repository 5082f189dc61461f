"""Files that are whole or not there."""

import fcntl
import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

logger = logging.getLogger(__name__)


def replace_file(path: Path, content: bytes) -> None:
    """Write a file beside `path`, sync it, and put it in the place of `path`.

    Raises:
        OSError: It cannot be written; what was at `path` is still there.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """See that a file, or a folder's list of files, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait until no other process holds the lock; one that is killed gives it back.

    Args:
        path: The lock's file, in the folder that is written to.
    """
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("another process writes to %s; waiting for it", path.parent)
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:  # some file systems of clusters have no locks
            logger.info("%s cannot be locked (%s)", path.parent, error.strerror)
        yield
