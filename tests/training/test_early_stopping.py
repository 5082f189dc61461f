"""When to stop: the boundary, the slow creep, NaN, and the counter across a restart."""

import json
import math

import pytest

from mmgenre.training.early_stopping import EarlyStopping

NAN = math.nan


def stopping_epoch(metrics: list[float], restart_after: int | None = None) -> int | None:
    """The epoch, from 1, after which training stops; patience 3, min_delta 1/8."""
    stopping = EarlyStopping(patience=3, min_delta=0.125)
    for epoch, metric in enumerate(metrics, start=1):
        stopping.update(metric)
        if stopping.should_stop:
            return epoch
        if epoch == restart_after:
            state = json.loads(json.dumps(stopping.state_dict()))
            stopping = EarlyStopping(patience=3, min_delta=0.125)
            stopping.load_state_dict(state)
    return None


CASES = {
    "rising": ([0.1, 0.3, 0.5, 0.7, 0.9], None),
    "flat": ([0.5] * 9, 4),
    "falling": ([0.9, 0.5, 0.3, 0.1], 4),
    # eighths are exact in binary: the gain is exactly min_delta
    "gain of exactly min_delta": ([0.25, 0.25, 0.25, 0.375, 0.375, 0.375, 0.5], None),
    "gain just below min_delta": ([0.25, 0.374, 0.374, 0.374], 4),
    "patience starts anew": ([0.25, 0.25, 0.25, 0.5, 0.5, 0.5, 0.5], 7),
    "creep adds up": ([0.25, 0.30, 0.35, 0.40, 0.40, 0.40, 0.55], None),
    "creep too slow": ([0.25, 0.28, 0.31, 0.34], 4),
    "NaN is no gain": ([0.25, NAN, NAN, NAN], 4),
    "NaN at first": ([NAN, NAN, 0.1, NAN, NAN], None),
    "only NaN": ([NAN] * 4, 3),
}


@pytest.mark.parametrize("case", CASES)
def test_stopping_epoch(case: str) -> None:
    metrics, expected = CASES[case]
    assert stopping_epoch(metrics) == expected


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("restart_after", [1, 2, 3])
def test_a_restart_changes_nothing(case: str, restart_after: int) -> None:
    metrics, expected = CASES[case]
    assert stopping_epoch(metrics, restart_after) == expected
