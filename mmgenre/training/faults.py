"""What can go wrong on the way, and what is said of it."""

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.distributed import DistError

from mmgenre.utils.errors import RunError, UserError


class SkippedSteps:
    """Counts steps that are left out because their gradient is not finite.

    Args:
        limit: More than this in a row end the run.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.total = 0
        self.in_a_row = 0

    def note(self, step: int, is_finite: bool, movie_ids: Sequence[str]) -> None:
        """Take note of a step's gradient.

        Args:
            step: Number of the step, from 1.
            movie_ids: The first movies of its batch.

        Raises:
            UserError: The limit is passed.
        """
        if is_finite:
            self.in_a_row = 0
            return
        self.total += 1
        self.in_a_row += 1
        if self.in_a_row > self.limit:
            raise UserError(
                f"the gradient of step {step} is not finite, as in the {self.limit} steps before "
                f"it (its first movies: {', '.join(movie_ids)}); lower learning_rate or set "
                "max_grad_norm"
            )

    def state_dict(self) -> dict[str, Any]:
        return {"total": self.total, "in_a_row": self.in_a_row}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.total, self.in_a_row = state["total"], state["in_a_row"]


@contextmanager
def explain_faults(where: Callable[[], tuple[str, str]]) -> Iterator[None]:
    """Turn what torch raises into one sentence.

    Args:
        where: What the run is doing, and what there lowers the memory that it takes.

    Raises:
        UserError: The device's memory did not suffice.
        RunError: A process of the run or of a loader was lost.
    """
    try:
        yield
    except torch.OutOfMemoryError as error:
        what, remedy = where()
        raise UserError(
            f"out of memory in {what} ({_first_line(error)}); lower {remedy}"
        ) from error
    except (ConnectionError, EOFError, RuntimeError) as error:
        # A process that dies while it hands over a batch is first a broken pipe; torch's handler
        # would then raise its own error in the middle of this.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if not isinstance(error, RuntimeError) or "DataLoader worker" in str(error):
            what = "a loader process was lost, most often for want of memory,"
        elif isinstance(error, DistError) or "gloo" in str(error):
            what = "another process of the run was lost, or did not answer within ddp_timeout,"
        else:
            raise
        raise RunError(
            f"{what} in {where()[0]} ({_first_line(error)}); --resume_from_checkpoint auto goes on "
            "from the last checkpoint"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
