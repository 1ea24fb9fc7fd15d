"""What counts as late."""

import pytest

from llumnix.emulator.lag import LagMeter


def test_a_step_is_late_beyond_one_mean_decode_step() -> None:
    """The mean is that of the steps that only decode."""
    lag = LagMeter(decode_step_s=0.01)
    for late_s in (0.0, 0.009, 0.011, 0.02):
        lag.record(late_s, 0.01, decode_only=True)
    assert (lag.steps, lag.late_steps, lag.max_s) == (4, 2, 0.02)


def test_prefill_steps_do_not_count_into_the_mean() -> None:
    """A long prefill does not make room for lateness."""
    lag = LagMeter(decode_step_s=0.01)
    lag.record(0.0, 5.0, decode_only=False)
    assert lag.mean_decode_step_s == 0.01
    lag.record(0.0, 0.03, decode_only=True)
    assert lag.mean_decode_step_s == pytest.approx(0.02)
    assert lag.p50_decode_step_s == 0.03


def test_the_percentile_is_of_all_steps() -> None:
    """99 of 100 are below it; steps that were early count as not late."""
    lag = LagMeter(decode_step_s=0.01)
    assert lag.p99_s == 0.0
    for number in range(200):
        lag.record(number / 1000, 0.01, decode_only=True)
    assert lag.p99_s == 0.198
    early = LagMeter(decode_step_s=0.01)
    early.record(-0.001, 0.01, decode_only=True)
    assert (early.p99_s, early.late_steps) == (0.0, 0)
