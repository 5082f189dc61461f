"""What all processes must decide alike."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator

from mmgenre.utils.errors import UserError

T = TypeVar("T")


class Agreement:
    """Decisions over a group of the processors (gloo), for which no device has to wait.

    Created and called by all processes.
    """

    def __init__(self, accelerator: Accelerator, timeout: timedelta) -> None:
        self.is_main_process = accelerator.is_main_process
        self.group: Any = None
        if accelerator.num_processes > 1:
            self.group = dist.new_group(backend="gloo", timeout=timeout)

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any process."""
        if self.group is None:
            return flag
        votes = torch.tensor(int(flag))
        dist.all_reduce(votes, dist.ReduceOp.MAX, self.group)
        return bool(votes.item())

    def main_does(self, work: Callable[[], T]) -> T:
        """Run `work` in the main process alone; all get its result.

        Raises:
            UserError: `work` raised it; all processes do, so that none waits for the others.
        """
        if self.group is None:
            return work()
        outcome: list[Any] = [None, None]
        if self.is_main_process:
            try:
                outcome[0] = work()
            except UserError as error:
                outcome[1] = error
        dist.broadcast_object_list(outcome, src=0, group=self.group)
        if outcome[1] is not None:
            raise outcome[1]
        return outcome[0]
