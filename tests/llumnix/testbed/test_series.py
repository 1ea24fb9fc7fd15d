"""The demo's runs, with trials that are as late as a test says."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from llumnix.loadgen.check import OutputCheck
from llumnix.loadgen.probe import FleetRun
from llumnix.loadgen.records import RequestRecord, Status
from llumnix.results.result import judge, summarise
from llumnix.testbed.pace import Pace, RunPlan, TimeBudget
from llumnix.testbed.series import PolicyRun, Series
from llumnix.testbed.trial import PolicyChoice, TrialOutcome
from llumnix.testbed.watcher import RunSeries
from simulator.workload.request import TraceRequest

CHOICES = [PolicyChoice(name, migration=False) for name in ("one", "two", "three")]
WORKLOAD = [TraceRequest(index, 0.5 * index, 10, 10) for index in range(200)]
ENDS_S = [each.arrival_s + 40.0 for each in WORKLOAD]
OVERHEAD_S = 6.0

LateAt = Callable[[float], float]
"""From a speed to how late a run at it is; 1 is what a valid run may be."""


def record(request: TraceRequest) -> RequestRecord:
    return RequestRecord(
        request=request,
        request_id=f"r-{request.index}",
        status=Status.FINISHED,
        sent_s=request.arrival_s,
        token_times_s=np.array([request.arrival_s + 1.0]),
        token_ids=(1,),
        text="",
        tokens=1,
        http_status=200,
    )


@dataclass
class Machine:
    """Runs trials in no time at all, by a clock of its own."""

    late_at: LateAt
    check: OutputCheck = field(default_factory=OutputCheck)
    now_s: float = 15.0
    plans: list[tuple[str, RunPlan]] = field(default_factory=list)
    shown: list[tuple[float, int, bool]] = field(default_factory=list)

    def clock_s(self) -> float:
        return self.now_s

    async def trial(self, choice: PolicyChoice, plan: RunPlan) -> TrialOutcome:
        self.plans.append((choice.dispatch, plan))
        load_s = ENDS_S[plan.requests - 1] / plan.speed
        self.now_s += load_s + OVERHEAD_S
        lateness = self.late_at(plan.speed)
        fleet = FleetRun(late_share=0.01 * lateness, late_p99_steps=lateness)
        records = [record(request) for request in WORKLOAD[: plan.requests]]
        result = summarise(
            records, policy=choice.dispatch, seed=0, speed=plan.speed, fleet=fleet, check=self.check
        )
        validity = judge(records, fleet, self.check)
        return TrialOutcome(result, validity, tuple(records), (), RunSeries(), load_s)

    def show(self, runs: Sequence[PolicyRun], repeat: RunPlan | None) -> None:
        self.shown.append((self.now_s, len(runs), repeat is not None))


def ran(machine: Machine, speed: float = 6.0, retries: int = 2) -> list[PolicyRun]:
    pace = Pace(ENDS_S, TimeBudget.within(240.0), retries)
    series = Series(pace, machine.trial, machine.show, machine.clock_s)
    plan = series.first_plan(len(CHOICES), speed)
    return asyncio.run(series.run(CHOICES, plan))


def test_a_quiet_machine_runs_each_policy_once_with_everything() -> None:
    machine = Machine(lambda speed: 0.1)
    runs = ran(machine)
    assert [plan for _, plan in machine.plans] == [RunPlan(6.0, 200)] * 3
    assert all(run.outcome.right and not run.discarded for run in runs)
    assert [count for _, count, _ in machine.shown] == [1, 2, 3]


def test_a_late_run_is_repeated_more_slowly_and_says_what_came_before() -> None:
    machine = Machine(lambda speed: 2.0 if speed > 4 else 0.5)
    runs = ran(machine)
    assert [name for name, _ in machine.plans] == ["one", "one", "two", "three"]
    first = runs[0].to_json()["validity"]
    assert [one["speed"] for one in first["discarded_runs"]] == [6.0]
    assert first["discarded_runs"][0]["causes"] == ["emulation late"]
    assert all(run.outcome.result.valid for run in runs)


@settings(deadline=None, max_examples=60)
@given(st.floats(0.0, 50.0), st.floats(0.0, 4.0), st.floats(1.0, 6.0), st.integers(0, 4))
def test_however_busy_the_machine(
    lateness: float, power: float, speed: float, retries: int
) -> None:
    """The demo ends in time, its runs compare, no speed rises, and each policy has a run."""
    machine = Machine(lambda at: lateness * (at / 6.0) ** power)
    runs = ran(machine, speed, retries)
    assert [run.outcome.result.policy for run in runs] == ["one", "two", "three"]
    assert len({run.outcome.result.requests for run in runs}) == 1
    speeds = [plan.speed for _, plan in machine.plans]
    assert speeds == sorted(speeds, reverse=True)
    assert len(speeds) <= 3 * (1 + retries)
    assert machine.shown[0][0] <= 90.0
    assert machine.now_s <= 240.0
    assert all(run.outcome.right for run in runs)


def test_of_runs_that_stay_late_the_least_late_is_kept() -> None:
    """A slower repeat may meet a busier machine; the speed stays down all the same."""
    machine = Machine(lambda speed: 2.0 if speed > 5 else 4.0)
    runs = ran(machine, retries=1)
    later = [plan.speed for _, plan in machine.plans[1:]]
    assert max(later) < 6.0
    sizes = {plan.requests for name, plan in machine.plans if name == "one"}
    assert runs[0].outcome.result.speed == (6.0 if len(sizes) == 1 else later[0])
    assert not any(run.outcome.result.valid for run in runs)


def test_a_wrong_token_in_a_repeat_is_seen() -> None:
    """Later, but wrong: not the earlier run is kept."""
    late, wrong = Machine(lambda speed: 2.0), Machine(lambda speed: 3.0, OutputCheck(200, 0, 1))
    plan = RunPlan(6.0, 200)
    outcomes = [asyncio.run(each.trial(CHOICES[0], plan)) for each in (late, wrong)]
    assert PolicyRun.of(outcomes).outcome is outcomes[1]


def test_a_wrong_token_is_neither_right_nor_run_again() -> None:
    """Being late excuses nothing."""
    machine = Machine(lambda speed: 9.0, OutputCheck(checked=200, tokens_wrong=1))
    runs = ran(machine)
    assert [name for name, _ in machine.plans] == ["one", "two", "three"]
    assert not any(run.outcome.right for run in runs)
