"""Plain lines on standard error; bars only where a person watches."""

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm
from transformers.utils import logging as transformers_logging

_SECONDS_BETWEEN_LINES = 10


def is_main_process() -> bool:
    """Whether this is the first process of the run, by the launcher's environment."""
    return int(os.environ.get("RANK", "0")) == 0


def show_progress() -> bool:
    """Whether a progress bar is of use: on a terminal, in the first process."""
    return is_main_process() and sys.stderr.isatty()


@contextmanager
def log_progress(
    logger: logging.Logger, verb: str, total: int | None, unit: str
) -> Iterator[Callable[[int], None]]:
    """Show how far a long piece of work is: a bar, or a line now and then; rate and time left.

    Args:
        total: None where nobody knows how much there is.

    Yields:
        A function to call with the number of units that were done since the last call.
    """
    bar = tqdm(total=total, desc=verb, unit=f" {unit}", disable=not show_progress())
    started = last_line = time.monotonic()
    done = 0

    def advance(number: int) -> None:
        nonlocal done, last_line
        bar.update(number)
        done += number
        now = time.monotonic()
        if bar.disable and now - last_line >= _SECONDS_BETWEEN_LINES:
            last_line = now
            rate = done / (now - started)
            if total is None:
                logger.info("%s %d %s, %.1f/s", verb, done, unit, rate)
                return
            left = tqdm.format_interval((total - done) / rate)
            logger.info("%s %d of %d %s, %.1f/s, %s left", verb, done, total, unit, rate, left)

    # Log lines must not tear the bar.
    with bar, nullcontext() if bar.disable else logging_redirect_tqdm():
        yield advance


def set_up_logging() -> None:
    """Log `mmgenre`'s lines to standard error, from the first process only."""
    logging.basicConfig(
        format="%(asctime)s %(levelname)s %(message)s",
        datefmt="%H:%M:%S",
        level=logging.WARNING if is_main_process() else logging.ERROR,
    )
    logging.getLogger("mmgenre").setLevel(logging.INFO if is_main_process() else logging.ERROR)
    # These write a bar for every file, into log files too.
    os.environ["HF_DATASETS_DISABLE_PROGRESS_BARS"] = "1"
    if "datasets" in sys.modules:  # a second's import, which not every command needs
        sys.modules["datasets"].disable_progress_bars()
    transformers_logging.disable_progress_bar()
