"""Where a run stands."""

import math
from dataclasses import asdict, dataclass
from typing import Any


@dataclass
class TrainingState:
    """Loop position and best value.

    Attributes:
        epoch: Epochs that are finished.
        step: Optimizer steps taken.
        num_samples: Movies trained on, over all processes and epochs.
        best_metric: Highest value of `metric_for_best_model` so far.
        best_epoch: Epoch, from 1, that reached it; 0 before the first.
    """

    epoch: int = 0
    step: int = 0
    num_samples: int = 0
    best_metric: float = -math.inf
    best_epoch: int = 0

    def note_metric(self, metric: float) -> None:
        """Take note of the current epoch's metric."""
        if metric > self.best_metric:
            self.best_metric, self.best_epoch = metric, self.epoch

    def state_dict(self) -> dict[str, Any]:
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in asdict(self):
            setattr(self, name, state[name])
