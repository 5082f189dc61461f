"""When to stop."""

import math
from typing import Any


class EarlyStopping:
    """Stop after `patience` epochs in a row whose metric is below best + `min_delta`.

    (Report, section 4.5.) A gain smaller than `min_delta` does not raise the bar either, so a slow
    creep upwards is seen once it adds up. NaN counts as no improvement.
    """

    def __init__(self, patience: int, min_delta: float) -> None:
        self.patience = patience
        self.min_delta = min_delta
        self.best = -math.inf
        self.num_bad_epochs = 0

    def update(self, metric: float) -> None:
        """Take note of an epoch's validation metric."""
        if metric >= self.best + self.min_delta:
            self.best = metric
            self.num_bad_epochs = 0
        else:
            self.num_bad_epochs += 1

    @property
    def should_stop(self) -> bool:
        return self.num_bad_epochs >= self.patience

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "num_bad_epochs": self.num_bad_epochs}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best = state["best"]
        self.num_bad_epochs = state["num_bad_epochs"]
