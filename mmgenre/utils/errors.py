"""The exceptions a user is meant to read, how the commands print them, and exit statuses.

| status | what it says                                                            |
|-------:|-------------------------------------------------------------------------|
|      0 | done                                                                    |
|      1 | something broke on the way; the last checkpoint stands                  |
|      2 | wrong input, or a run that would fail again as it is                    |
|     75 | asked to stop: a checkpoint is written, start it again to go on         |
|    130 | quit at once by Ctrl-C                                                  |
"""

import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

FAILURE_STATUS = 1
USER_ERROR_STATUS = 2
PREEMPTED_STATUS = os.EX_TEMPFAIL  # 75: the caller should try again
PREEMPTION_SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)
INTERRUPTED_STATUS = 130  # 128 + SIGINT, as shells report it


class UserError(ValueError):
    """Wrong input. Its text is one sentence: the value, its file or key, what would be right."""


class RunError(RuntimeError):
    """Something outside broke a run, such as a process that was killed. One sentence as well."""


class Preempted(Exception):
    """A run stops because it was asked to; its text says where it stands."""


@contextmanager
def exit_on_user_error(program: str) -> Iterator[None]:
    """Turn these exceptions and Ctrl-C into one line on standard error and an exit status."""
    rank = int(os.environ.get("RANK", "0"))
    try:
        yield
    except (UserError, RunError) as error:
        who = program if rank == 0 else f"{program} (process {rank})"
        print(f"{who}: error: {error}", file=sys.stderr, flush=True)
        status = FAILURE_STATUS if isinstance(error, RunError) else USER_ERROR_STATUS
        if isinstance(error, RunError) or int(os.environ.get("WORLD_SIZE", "1")) > 1:
            # Threads that still talk to other processes can abort Python's orderly end.
            for child in multiprocessing.active_children():
                child.kill()
            os._exit(status)
        sys.exit(status)
    except Preempted as reason:
        if rank == 0:
            print(f"{program}: {reason}", file=sys.stderr, flush=True)
        sys.exit(PREEMPTED_STATUS)
    except KeyboardInterrupt as error:
        print(f"{program}: interrupted{error}", file=sys.stderr, flush=True)
        sys.exit(INTERRUPTED_STATUS)
    except Exception:
        # Not Python's own way, which would keep the loaders' processes alive until its very end.
        traceback.print_exc()
        sys.exit(FAILURE_STATUS)
