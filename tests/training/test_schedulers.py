"""Learning rates against the report's log, transformers' schedules, and across a restart."""

import json
import math
from typing import Any

import pytest
import torch
from transformers import get_cosine_schedule_with_warmup, get_linear_schedule_with_warmup

from mmgenre.configs.arguments import OptimizationArguments
from mmgenre.training.schedulers import LearningRateSchedule, create_schedule
from mmgenre.utils.errors import UserError

BELOW = 0.1  # the report names only the epochs whose macro F1 was the best so far
REPORT_F1 = [0.0, 0.2, 0.3948, 0.3324, 0.4188, 0.4739, BELOW, 0.4792, BELOW, BELOW]
REPORT_F1 += [0.4803, 0.4960, BELOW, BELOW, BELOW, 0.5104, 0.5230, BELOW, BELOW, BELOW]
STEPS = 5  # an epoch


def create(num_train_epochs: int = 20, **arguments: Any) -> LearningRateSchedule:
    groups = [
        {"params": [torch.nn.Parameter(torch.zeros(1))], "lr": 1e-4 * i, "name": f"group{i}"}
        for i in (1, 2)
    ]
    args = OptimizationArguments(**arguments)
    return create_schedule(args, torch.optim.AdamW(groups), lambda: STEPS, num_train_epochs)


def run(
    schedule: LearningRateSchedule, metrics: list[float], first: int = 0, last: int | None = None
) -> list[float]:
    """The first group's rate in each step, from step `first` up to `last`."""
    rates = []
    for step in range(first, STEPS * len(metrics) if last is None else last):
        epoch = step // STEPS
        schedule.apply(epoch, step)
        one, two = schedule.learning_rates.values()
        assert two == pytest.approx(2 * one, rel=1e-12)  # groups keep their ratio
        rates.append(one)
        if step % STEPS == STEPS - 1:
            schedule.end_epoch(epoch, metrics[epoch])
    return rates


def test_learning_rates_are_those_of_the_report() -> None:
    expected = [1e-6, 3.4e-5, 6.7e-5] + [1e-4] * 12 + [2e-5] * 5
    by_step = [rate for rate in expected for _ in range(STEPS)]
    assert run(create(), REPORT_F1) == pytest.approx(by_step, rel=1e-12)


def test_without_warm_up_the_first_epoch_counts() -> None:
    rates = run(create(warmup_epochs=0), [0.5, 0.4, 0.4, 0.4, 0.4])
    assert rates[::STEPS] == pytest.approx([1e-4] * 4 + [2e-5], rel=1e-12)


@pytest.mark.parametrize(
    "arguments", [{}, {"lr_scheduler_type": "linear", "plateau_factor": 0.5}], ids=str
)
def test_metrics_of_the_warm_up_do_not_count(arguments: dict[str, Any]) -> None:
    schedule = create(**arguments)
    run(schedule, [0.9] * 3 + [0.5, 0.6, 0.7, 0.8, 0.85])
    assert schedule.state_dict()["plateau_factor"] == 1


@pytest.mark.parametrize(
    ("arguments", "warmup_steps"),
    [
        ({"warmup_ratio": 0.1}, 10),
        ({"warmup_ratio": 0.101}, 11),
        ({"warmup_epochs": 2}, 10),
        ({"warmup_epochs": 0}, 0),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    ("name", "reference"),
    [("linear", get_linear_schedule_with_warmup), ("cosine", get_cosine_schedule_with_warmup)],
)
def test_decay_by_step_is_that_of_transformers(
    name: str, reference: Any, arguments: dict[str, Any], warmup_steps: int
) -> None:
    twin = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-4)
    theirs = reference(twin, warmup_steps, 20 * STEPS)
    expected = []
    for _ in range(20 * STEPS):
        expected.append(twin.param_groups[0]["lr"])
        twin.step()
        theirs.step()
    rates = run(create(lr_scheduler_type=name, **arguments), [0.5] * 20)
    assert rates == pytest.approx(expected, rel=1e-9, abs=1e-18)


def test_linear_decay_and_plateau_multiply() -> None:
    """MMBT's recipe: both at once."""
    kwargs = {"lr_scheduler_type": "linear", "warmup_ratio": 0.1}
    mmbt = create(**kwargs, plateau_factor=0.5, plateau_patience=2)
    rates = run(mmbt, [0.5] * 20)
    # two epochs of warm-up, a first metric, then every three equal ones are a plateau
    halvings = [max(0, epoch - 3) // 3 for epoch in range(20)]
    linear = run(create(**kwargs), [0.5] * 20)
    expected = [rate * 0.5 ** halvings[step // STEPS] for step, rate in enumerate(linear)]
    assert rates == pytest.approx(expected, rel=1e-12)
    assert halvings[-1] == 5


SCHEDULES = {
    "plateau": {},
    "linear and plateau": {"lr_scheduler_type": "linear", "plateau_factor": 0.5},
    "cosine": {"lr_scheduler_type": "cosine", "warmup_ratio": 0.2},
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_resuming_at_any_step_goes_on_with_the_same_rates(name: str) -> None:
    metrics = REPORT_F1[:12] + [BELOW] * 8  # two plateaus
    straight = run(create(**SCHEDULES[name]), metrics)
    for stop in range(1, len(straight)):
        first = create(**SCHEDULES[name])
        before = run(first, metrics, last=stop)
        second = create(**SCHEDULES[name])
        second.load_state_dict(json.loads(json.dumps(first.state_dict())))
        assert before + run(second, metrics, first=stop) == straight


def test_resuming_with_more_epochs_goes_on_along_the_longer_curve() -> None:
    first = create(num_train_epochs=4, lr_scheduler_type="linear", warmup_epochs=0)
    assert run(first, [0.5] * 4)[-1] == pytest.approx(1e-4 / 20)
    longer = create(num_train_epochs=8, lr_scheduler_type="linear", warmup_epochs=0)
    longer.load_state_dict(first.state_dict())
    rates = run(longer, [0.5] * 8, first=20)
    assert rates == pytest.approx([1e-4 * (40 - step) / 40 for step in range(20, 40)])
    assert math.isclose(rates[0], 0.5e-4)


def test_a_warm_up_by_step_under_plateau_is_refused() -> None:
    with pytest.raises(UserError, match=r"warmup_ratio counts steps, .*; give warmup_epochs, or"):
        create(warmup_ratio=0.1)
