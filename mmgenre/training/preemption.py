"""Stopping when asked to: SIGTERM, SIGUSR1 (batch systems) and SIGINT (Ctrl-C)."""

import ctypes
import os
import signal
import sys
from types import FrameType

from mmgenre.utils.errors import PREEMPTION_SIGNALS, Preempted

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Preemption:
    """Notes that this process was asked to stop.

    A signal ends the process at once, as there is nothing to save before training. From `defer` on
    it is only noted; the trainer asks `is_requested` between steps. A second Ctrl-C quits at once.
    """

    def __init__(self) -> None:
        self.signal: signal.Signals | None = None
        self.is_deferred = False

    @property
    def is_requested(self) -> bool:
        return self.signal is not None

    def listen(self) -> None:
        """Take the signals over from Python. For the main thread."""
        for number in PREEMPTION_SIGNALS:
            signal.signal(number, self._note)
        if "TORCHELASTIC_RUN_ID" in os.environ and sys.platform == "linux":
            # A launcher that is killed leaves its processes behind; they stop orderly as well.
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)

    def defer(self) -> None:
        """From now on a signal waits for the next step's end."""
        self.is_deferred = True

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.signal = signal.Signals(number)
        if number == signal.SIGINT:
            # The system's own handler works even where Python's waits for a collective to end.
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        if not self.is_deferred:
            self.check()

    def check(self) -> None:
        """Stop if a signal came whose exception was lost: Python drops those raised in finalizers.

        Raises:
            KeyboardInterrupt, Preempted: It came.
        """
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt
        if self.signal is not None:
            raise Preempted(f"stopped by {self.signal.name}; start it again")
