"""Plain lines on standard error; bars only where a person watches."""

import logging
import os
import sys

from datasets import disable_progress_bars as disable_datasets_progress_bars
from transformers.utils import logging as transformers_logging


def is_main_process() -> bool:
    """Whether this is the first process of the run, by the launcher's environment."""
    return int(os.environ.get("RANK", "0")) == 0


def show_progress() -> bool:
    """Whether a progress bar is of use: on a terminal, in the first process."""
    return is_main_process() and sys.stderr.isatty()


def set_up_logging() -> None:
    """Log `mmgenre`'s lines to standard error, from the first process only."""
    logging.basicConfig(
        format="%(asctime)s %(levelname)s %(message)s",
        datefmt="%H:%M:%S",
        level=logging.WARNING if is_main_process() else logging.ERROR,
    )
    logging.getLogger("mmgenre").setLevel(logging.INFO if is_main_process() else logging.ERROR)
    # These write a bar for every file, into log files too.
    disable_datasets_progress_bars()
    transformers_logging.disable_progress_bar()
