"""Learning rate = base x shape(epoch, step) x plateau factor."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau

from mmgenre.configs.arguments import OptimizationArguments
from mmgenre.utils.errors import UserError

# Share of the base learning rate at an epoch and an optimizer step, both from 0.
Shape = Callable[[int, int], float]

REPORT_PLATEAU_FACTOR = 0.2
# What ReduceLROnPlateau changes while it runs; the rest is its configuration.
_PLATEAU_STATE = ("best", "num_bad_epochs", "cooldown_counter", "last_epoch")


def warmup_by_epoch(warmup_epochs: int, start: float = 0.01) -> Shape:
    """Epoch e of n warm-up epochs runs at start + (1 - start) * e / n, later ones at 1.

    (Report, section 4.5.)
    """

    def shape(epoch: int, step: int) -> float:
        return start + (1 - start) * epoch / warmup_epochs if epoch < warmup_epochs else 1.0

    return shape


def linear_by_step(num_steps: int, warmup_steps: int) -> Shape:
    """Linear from 0 to 1 over `warmup_steps`, then linear to 0 after `num_steps`.

    As transformers' `get_linear_schedule_with_warmup`.
    """

    def shape(epoch: int, step: int) -> float:
        if step < warmup_steps:
            return step / warmup_steps
        return max(0.0, (num_steps - step) / max(1, num_steps - warmup_steps))

    return shape


def cosine_by_step(num_steps: int, warmup_steps: int) -> Shape:
    """The same warm-up, then half a cosine to 0; transformers' `get_cosine_schedule_with_warmup`.

    It is linear's height on a cosine: (1 + cos(pi * (1 - linear))) / 2.
    """
    linear = linear_by_step(num_steps, warmup_steps)

    def shape(epoch: int, step: int) -> float:
        height = linear(epoch, step)
        return height if step < warmup_steps else (1 - math.cos(math.pi * height)) / 2

    return shape


class LearningRateSchedule:
    """Sets each group's learning rate to its base x shape(epoch, step) x plateau factor.

    A function of epoch, step and the plateau's state alone, so that it resumes anywhere. It must
    not be given to `accelerator.prepare`, which would step it once a process (accelerate #3797);
    every process runs its own on the same gathered metric.

    Args:
        optimizer: Its current learning rates are the bases.
        plateau_factor: torch's `ReduceLROnPlateau(mode="max")` multiplies by it; None never does.
        plateau_patience: Epochs without a better metric that are still no plateau.
        plateau_start: First epoch, from 0, whose metric counts; those of the warm-up do not.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        shape: Shape,
        *,
        plateau_factor: float | None = None,
        plateau_patience: int = 0,
        plateau_start: int = 0,
    ) -> None:
        self.optimizer = optimizer
        self.shape = shape
        self.base_lrs = [group["lr"] for group in optimizer.param_groups]
        self.plateau_start = plateau_start
        # The plateau acts on a stand-in of rate 1, whose rate is then the factor.
        stand_in = SGD([torch.nn.Parameter(torch.zeros(()))], lr=1.0)
        self.stand_in = stand_in.param_groups[0]
        self.plateau = ReduceLROnPlateau(
            stand_in,
            mode="max",
            factor=0.5 if plateau_factor is None else plateau_factor,
            patience=math.inf if plateau_factor is None else plateau_patience,  # type: ignore[arg-type]
        )

    def apply(self, epoch: int, step: int) -> None:
        """Set the learning rates of an optimizer step. Epochs and steps count from 0."""
        factor = self.shape(epoch, step) * self.stand_in["lr"]
        for group, base in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = base * factor

    def end_epoch(self, epoch: int, metric: float) -> None:
        """Take note of an epoch's validation metric."""
        if epoch >= self.plateau_start:
            self.plateau.step(metric)

    @property
    def learning_rates(self) -> dict[str, float]:
        """Each group's current learning rate."""
        return {group["name"]: group["lr"] for group in self.optimizer.param_groups}

    def state_dict(self) -> dict[str, Any]:
        state = {name: getattr(self.plateau, name) for name in _PLATEAU_STATE}
        return {"plateau": state, "plateau_factor": self.stand_in["lr"]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.stand_in["lr"] = state["plateau_factor"]
        for name in _PLATEAU_STATE:
            setattr(self.plateau, name, state["plateau"][name])


def create_schedule(
    args: OptimizationArguments,
    optimizer: Optimizer,
    steps_per_epoch: Callable[[], int],
    num_train_epochs: int,
) -> LearningRateSchedule:
    """The schedule that the arguments name.

    Args:
        steps_per_epoch: Asked at each step, as resuming on another number of processes brings back
            the steps of before.
        num_train_epochs: `linear` and `cosine` reach 0 after so many epochs. A run that is resumed
            with more goes on, at the same step, on the longer curve.

    Raises:
        UserError: `warmup_ratio` is given with `lr_scheduler_type` plateau.
    """
    factor = args.plateau_factor
    if args.lr_scheduler_type == "plateau":
        if args.warmup_ratio is not None:
            raise UserError(
                "warmup_ratio counts steps, and lr_scheduler_type plateau warms up by epoch; give "
                "warmup_epochs, or lr_scheduler_type linear or cosine"
            )
        shape = warmup_by_epoch(args.warmup_epochs)
        plateau_start = args.warmup_epochs
        factor = REPORT_PLATEAU_FACTOR if factor is None else factor
    else:
        by_step = linear_by_step if args.lr_scheduler_type == "linear" else cosine_by_step
        warmup_epochs: float = args.warmup_epochs
        if args.warmup_ratio is not None:
            warmup_epochs = args.warmup_ratio * num_train_epochs

        def shape(epoch: int, step: int) -> float:
            num_steps = steps_per_epoch()
            warmup_steps = math.ceil(warmup_epochs * num_steps)
            return by_step(num_train_epochs * num_steps, warmup_steps)(epoch, step)

        plateau_start = math.ceil(warmup_epochs)
    return LearningRateSchedule(
        optimizer,
        shape,
        plateau_factor=factor,
        plateau_patience=args.plateau_patience,
        plateau_start=plateau_start,
    )
