"""Where a run stands."""

import math
import secrets
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass
class TrainingState:
    """Loop position, what the running epoch has gathered, and the best value.

    Attributes:
        epoch: Epochs that are finished.
        step_in_epoch: Optimizer steps of the running epoch; all of them while it is evaluated.
        step: Optimizer steps, those that were skipped included.
        num_samples: Movies trained on, over all processes and epochs.
        loss_sums: For each process, the sum of its losses in the running epoch. Processes of
            their own, so that a resumed epoch adds up in the same order, to the last bit.
        loss_samples: Movies in these sums.
        best_metric: Highest value of `metric_for_best_model` so far.
        best_epoch: Epoch, from 1, that reached it; 0 before the first.
        run_id: Names the run to its tracker.
    """

    epoch: int = 0
    step_in_epoch: int = 0
    step: int = 0
    num_samples: int = 0
    loss_sums: list[float] = field(default_factory=lambda: [0.0])
    loss_samples: int = 0
    best_metric: float = -math.inf
    best_epoch: int = 0
    run_id: str = field(default_factory=lambda: secrets.token_hex(8))

    def end_epoch(self, metric: float) -> None:
        """Take note of the running epoch's metric, and start the next."""
        self.epoch += 1
        self.step_in_epoch = 0
        self.loss_sums, self.loss_samples = [0.0], 0
        if metric > self.best_metric:
            self.best_metric, self.best_epoch = metric, self.epoch

    def state_dict(self) -> dict[str, Any]:
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for name in asdict(self):
            setattr(self, name, state[name])
