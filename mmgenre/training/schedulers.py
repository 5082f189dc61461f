"""The report's learning-rate schedule."""

from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

# What ReduceLROnPlateau changes while it runs; the rest is its configuration.
_PLATEAU_STATE = ("best", "num_bad_epochs", "cooldown_counter", "last_epoch")


class WarmupPlateauSchedule:
    """Linear warm-up by epoch, then reduction on a plateau of a metric that should rise.

    Warm-up epoch e (from 0) of n runs at lr * (start + (1 - start) * e / n) (report, section 4.5).
    After warm-up, torch's `ReduceLROnPlateau(mode="max")` is stepped once an epoch, from the first
    epoch past warm-up on. It must not be given to `accelerator.prepare`, which would step it once a
    process (accelerate #3797); every process steps its own on the same gathered metric.

    Args:
        optimizer: Its current learning rates are the ones after warm-up.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        *,
        warmup_epochs: int,
        factor: float,
        patience: int,
        start_factor: float = 0.01,
    ) -> None:
        self.optimizer = optimizer
        self.warmup_epochs = warmup_epochs
        self.start_factor = start_factor
        self.base_lrs = [group["lr"] for group in optimizer.param_groups]
        self.plateau = ReduceLROnPlateau(optimizer, mode="max", factor=factor, patience=patience)

    def start_epoch(self, epoch: int) -> None:
        """Set the epoch's learning rates. Epochs count from 0."""
        if epoch <= self.warmup_epochs:
            done = epoch / self.warmup_epochs if self.warmup_epochs else 1.0
            factor = self.start_factor + (1 - self.start_factor) * done
            self._set([base * factor for base in self.base_lrs])

    def end_epoch(self, epoch: int, metric: float) -> None:
        """Take note of an epoch's validation metric."""
        if epoch >= self.warmup_epochs:
            self.plateau.step(metric)

    @property
    def learning_rates(self) -> list[float]:
        return [group["lr"] for group in self.optimizer.param_groups]

    def state_dict(self) -> dict[str, Any]:
        return {
            "learning_rates": self.learning_rates,
            "plateau": {name: getattr(self.plateau, name) for name in _PLATEAU_STATE},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._set(state["learning_rates"])
        for name in _PLATEAU_STATE:
            setattr(self.plateau, name, state["plateau"][name])

    def _set(self, learning_rates: list[float]) -> None:
        for group, learning_rate in zip(self.optimizer.param_groups, learning_rates, strict=True):
            group["lr"] = learning_rate
