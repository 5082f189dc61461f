"""The one exception a user is meant to read, and how the commands print it."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

USER_ERROR_STATUS = 2
INTERRUPTED_STATUS = 130  # 128 + SIGINT, as shells report it


class UserError(ValueError):
    """Wrong input. Its text is one sentence: the value, its file or key, what would be right."""


@contextmanager
def exit_on_user_error(program: str) -> Iterator[None]:
    """Turn a `UserError` into one line on standard error and exit status 2, without a traceback.

    Ctrl-C ends with one line and status 130.
    """
    try:
        yield
    except UserError as error:
        rank = int(os.environ.get("RANK", "0"))
        who = program if rank == 0 else f"{program} (process {rank})"
        print(f"{who}: error: {error}", file=sys.stderr, flush=True)
        sys.exit(USER_ERROR_STATUS)
    except KeyboardInterrupt:
        print(f"{program}: interrupted", file=sys.stderr, flush=True)
        sys.exit(INTERRUPTED_STATUS)
