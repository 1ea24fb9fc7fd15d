"""Laws of the demo's pace: how fast, how much, and when to leave a late run as it is."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llumnix.testbed.pace import Pace, RunPlan, Standing, TimeBudget, expected_ends_s
from simulator.workload.request import TraceRequest

LATENESS = st.floats(0.0, 1e6)
TOO_LATE = st.floats(1.0, 1e6)
SPEEDS = st.floats(1.0, 6.0)
BUDGETS = st.sampled_from([TimeBudget.within(240.0), TimeBudget.within(math.inf)])


@st.composite
def paces(draw: st.DrawFn) -> Pace:
    gaps = draw(st.lists(st.floats(0.01, 5.0), min_size=1, max_size=60))
    ends = [40.0 + sum(gaps[: index + 1]) for index in range(len(gaps))]
    slowest = draw(st.sampled_from([0.5, 1.0]))
    fastest = draw(st.sampled_from([1.0, 6.0, 15.0]))
    return Pace(ends, draw(BUDGETS), draw(st.integers(0, 4)), fastest, slowest)


standings = st.builds(
    Standing, st.floats(0.0, 300.0), st.integers(1, 4), st.booleans(), st.floats(0.0, 60.0)
)


@given(paces(), LATENESS)
def test_the_first_speed_is_within_bounds(pace: Pace, lateness: float) -> None:
    assert pace.slowest <= pace.carried(pace.fastest, lateness) <= pace.fastest


@given(paces(), LATENESS, LATENESS)
def test_a_later_rehearsal_never_means_a_higher_speed(pace: Pace, one: float, two: float) -> None:
    early, late = sorted((one, two))
    assert pace.carried(pace.fastest, late) <= pace.carried(pace.fastest, early)


def test_a_machine_with_nothing_else_to_do_gets_the_highest_speed() -> None:
    assert Pace([1.0], TimeBudget.within(240.0), 1).carried(6.0, 0.3) == 6.0


@given(paces(), st.floats(0.0, 1.0), TOO_LATE)
def test_after_a_late_run_the_speed_falls_unless_it_is_the_lowest(
    pace: Pace, share: float, lateness: float
) -> None:
    speed = pace.slowest + share * (pace.fastest - pace.slowest)
    lowered = pace.lowered(speed, lateness)
    assert pace.slowest <= lowered <= speed
    assert lowered < speed or speed == pace.slowest


@given(paces(), SPEEDS, standings)
def test_the_first_plan_has_as_many_requests_as_there_is_time_for(
    pace: Pace, speed: float, standing: Standing
) -> None:
    """One more would not fit, unless all are in; a few are always run."""
    plan = pace.first(speed, standing)
    most = len(pace.ends_s)
    assert 1 <= plan.requests <= most
    left_s = pace.budget.runs_s - standing.elapsed_s
    fits_s = left_s / standing.runs_left - standing.overhead_s
    if plan.requests > 24:
        assert pace.ends_s[plan.requests - 1] / speed <= fits_s
        first_s = standing.elapsed_s + standing.overhead_s + pace.ends_s[plan.requests - 1] / speed
        assert first_s <= pace.budget.first_table_s + 1e-6
    if pace.budget.runs_s == math.inf:
        assert plan.requests == most


@given(paces(), SPEEDS, standings, TOO_LATE, st.integers(0, 5), st.data())
def test_a_repeat_is_no_faster_no_larger_and_fits(
    pace: Pace,
    speed: float,
    standing: Standing,
    lateness: float,
    repeated: int,
    data: st.DataObject,
) -> None:
    plan = RunPlan(max(speed, pace.slowest), data.draw(st.integers(1, len(pace.ends_s))))
    again = pace.again(plan, lateness, repeated, standing)
    if repeated >= pace.repeats:
        assert again is None
    if again is None:
        return
    assert pace.slowest <= again.speed <= plan.speed
    assert again.speed < plan.speed or plan.speed == pace.slowest
    assert again.requests <= plan.requests
    if standing.kept:
        assert again.requests == plan.requests, "runs of different workloads do not compare"
    runs_s = pace.ends_s[again.requests - 1] / again.speed + standing.overhead_s
    end_s = standing.elapsed_s + standing.runs_left * runs_s
    assert end_s <= pace.budget.runs_s * (1 + 1e-9)


@given(paces(), SPEEDS, standings, st.none() | TOO_LATE, st.data())
def test_the_next_policy_gets_the_same_workload_and_no_higher_speed(
    pace: Pace, speed: float, standing: Standing, lateness: float | None, data: st.DataObject
) -> None:
    plan = RunPlan(max(speed, pace.slowest), data.draw(st.integers(1, len(pace.ends_s))))
    following = pace.following(plan, lateness, standing)
    assert following.requests == plan.requests
    assert pace.slowest <= following.speed <= plan.speed
    if lateness is None:
        assert following == plan


@pytest.mark.parametrize("kept", [False, True])
def test_without_time_a_late_run_is_left_as_it_is(kept: bool) -> None:
    pace = Pace([60.0] * 100, TimeBudget.within(240.0), 5)
    standing = Standing(elapsed_s=200.0, runs_left=2, kept=kept, overhead_s=8.0)
    assert pace.again(RunPlan(6.0, 100), 2.0, 0, standing) is None
    assert pace.again(RunPlan(6.0, 100), 2.0, 0, replace(standing, elapsed_s=20.0)) is not None


def test_requests_end_in_an_order_that_a_prefix_can_be_cut_from() -> None:
    requests = [TraceRequest(0, 0.0, 10, 1000), TraceRequest(1, 1.0, 10, 10)]
    ends = expected_ends_s(requests, 0.05)
    assert ends[0] > 1000 * 0.05
    assert ends[1] == ends[0]
