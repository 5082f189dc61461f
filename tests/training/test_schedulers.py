"""The schedule against the learning rates that the report logged, and across a restart."""

import json

import pytest
import torch

from mmgenre.training.schedulers import WarmupPlateauSchedule

BELOW = 0.1  # the report names only the epochs whose macro F1 was the best so far
REPORT_F1 = [0.0, 0.2, 0.3948, 0.3324, 0.4188, 0.4739, BELOW, 0.4792, BELOW, BELOW]
REPORT_F1 += [0.4803, 0.4960, BELOW, BELOW, BELOW, 0.5104, 0.5230, BELOW, BELOW, BELOW]


def create_schedule(base_lr: float = 1e-4, warmup_epochs: int = 3) -> WarmupPlateauSchedule:
    groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": base_lr * i} for i in (1, 2)]
    return WarmupPlateauSchedule(
        torch.optim.AdamW(groups), warmup_epochs=warmup_epochs, factor=0.2, patience=2
    )


def run(schedule: WarmupPlateauSchedule, metrics: list[float], first: int = 0) -> list[float]:
    """The learning rate of each epoch."""
    rates = []
    for epoch, metric in enumerate(metrics[first:], start=first):
        schedule.start_epoch(epoch)
        rates.append(schedule.learning_rates[0])
        schedule.end_epoch(epoch, metric)
    return rates


def test_learning_rates_are_those_of_the_report() -> None:
    rates = run(create_schedule(), REPORT_F1)
    assert rates[:3] == pytest.approx([1e-6, 3.4e-5, 6.7e-5], rel=1e-12)
    assert rates[3:15] == pytest.approx([1e-4] * 12, rel=1e-12)
    assert rates[15:] == pytest.approx([2e-5] * 5, rel=1e-12)


def test_groups_keep_their_ratio() -> None:
    schedule = create_schedule()
    for epoch, metric in enumerate(REPORT_F1):
        schedule.start_epoch(epoch)
        first, second = schedule.learning_rates
        assert second == pytest.approx(2 * first, rel=1e-12)
        schedule.end_epoch(epoch, metric)


def test_without_warm_up_the_first_epoch_counts() -> None:
    rates = run(create_schedule(warmup_epochs=0), [0.5, 0.4, 0.4, 0.4, 0.4])
    assert rates == pytest.approx([1e-4] * 4 + [2e-5], rel=1e-12)


def test_metrics_of_the_warm_up_do_not_count() -> None:
    assert run(create_schedule(), [0.9] * 3 + [0.5, 0.6, 0.7, 0.8, 0.85])[-1] == 1e-4


@pytest.mark.parametrize("epoch", range(1, 20))
def test_resuming_goes_on_with_the_same_rates(epoch: int) -> None:
    metrics = REPORT_F1[:12] + [BELOW] * 8  # two reductions
    straight = run(create_schedule(), metrics)
    assert len(set(straight)) == 6
    first = create_schedule()
    before = run(first, metrics[:epoch])
    second = create_schedule()
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert second.learning_rates == first.learning_rates
    assert before + run(second, metrics, first=epoch) == straight
