"""Skipping steps changes nothing: the fast fleet's results are the stepwise one's, bit for bit.

Random fleets and workloads with all features on: classes, every dispatch policy, late binding,
chunked prompts, preemption, rejection, staged migration with refusals, outages, cost models,
steps scheduled ahead, speculation, fleets that grow and shrink, and prefix caches too small for all
they could keep.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from migration.config import MigrationConfig
from policies.scheduler import SchedulerConfig
from policies.types import RequestId
from simulator.costs.gpus import gpu_named
from simulator.costs.model_shape import read_shape
from simulator.costs.presets import PRESETS
from simulator.costs.roofline import roofline
from simulator.costs.roofline_options import RooflineOptions
from simulator.fleet.fleet import SimulatedFleet
from simulator.fleet.machines import Machine
from simulator.fleet.options import SimulatorConfig
from simulator.fleets import fleet_for
from simulator.kernel.compiled import available
from simulator.kernel.drain import DrainedHooks
from simulator.kernel.engine.late_arrivals import arrived_late
from simulator.kernel.engine.prefixes import start
from simulator.kernel.engine.shared_blocks import drop
from simulator.kernel.fleet import FastFleet
from simulator.kernel.state import FOUND, HOLDERS, PREEMPTIONS, State
from tests.simulator.kernel.fleet_cases import CLASSES, MEASURED, MIXTURE, ROOFLINE, case
from tests.simulator.kernel.test_runs import LLAMA_8B, TABLE
from tests.simulator.simulated import SMALL


@pytest.fixture(scope="module", autouse=True)
def _presets() -> Iterator[None]:
    """Make presets of rooflines, slowed down to the speed of the others, and of a table."""
    shape, gpu, known = read_shape(LLAMA_8B), gpu_named("H100"), PRESETS["llama-7b-a10"]
    slow = RooflineOptions(overhead_ns=20_000_000)
    mixed = dataclasses.replace(slow, overlap=0.5)
    for name, options in ((ROOFLINE, slow), (MIXTURE, mixed)):
        costs = roofline(shape, gpu, 1, options)
        PRESETS[name] = dataclasses.replace(known, name=name, costs=costs)
    PRESETS[MEASURED] = dataclasses.replace(PRESETS["toy"], name=MEASURED, costs=TABLE)
    yield
    for name in (ROOFLINE, MIXTURE, MEASURED):
        del PRESETS[name]


@settings(max_examples=40, deadline=None)
@example(300)  # who is too late for a step is still on the way when a report comes
@example(312)  # one ends between reports, sooner than it could at one token a step
@example(72)  # all but one token of what is computed again is found, and tokens are guessed
@given(st.integers(0, 10**9))
def test_skipping_gives_what_stepping_gives(seed: int) -> None:
    drawn = case(seed)
    assert drawn.fast(compile_it=False) == drawn.stepwise()


@pytest.mark.timeout(600)
def test_compiled_code_gives_what_stepping_gives() -> None:
    if not available():
        pytest.skip("numba is not installed: pip install llumnix-scheduler[fast]")
    for seed in range(40):
        drawn = case(seed)
        assert drawn.fast(compile_it=True) == drawn.stepwise(), seed


def test_the_cases_have_what_can_go_wrong_in_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the tests above would prove little."""
    seen: set[str] = set()
    requeue = DrainedHooks.requeue

    def noted(state: State, at: int) -> list[int]:
        came = arrived_late(state, at)
        seen.update("lost before it was queued" for _ in came)
        return came

    def sent_back(site: DrainedHooks, request_id: RequestId) -> bool:
        back = requeue(site, request_id)
        seen.update({"sent back"} if back else ())
        return back

    monkeypatch.setattr("simulator.kernel.instance.arrived_late", noted)
    monkeypatch.setattr(DrainedHooks, "requeue", sent_back)

    def start_and_tell(s: State, i: int, r: int) -> bool:
        started = start(s, i, r)
        if started and s.req[FOUND][r]:
            seen.add("found again" if s.req[PREEMPTIONS][r] else "found")
        return started

    def drop_and_tell(s: State, i: int, block: int, place: int) -> int:
        if s.blocks[HOLDERS][block] > 1:
            seen.add("shared")
        return drop(s, i, block, place)

    monkeypatch.setattr("simulator.kernel.engine.planning.start", start_and_tell)
    monkeypatch.setattr("simulator.kernel.engine.prefixes.drop", drop_and_tell)
    for seed in range(40):
        drawn = case(seed)
        said = drawn.fast(compile_it=False)
        seen |= {event.kind for _, event in said["log"]} | {drawn.config.preset}
        seen |= {event.reason for _, event in said["log"] if event.kind == "committed"}
        seen |= {fact for machine in said["machines"] for fact in told_of(machine)}
        if drawn.config.schedules_ahead:
            config = dataclasses.replace(drawn.config, schedules_ahead=False)
            sooner = dataclasses.replace(drawn, config=config).fast(compile_it=False)
            seen |= {"too late for a step"} if said["lives"] != sooner["lives"] else set()
        for life in said["lives"]:
            seen |= {life["fate"].value}
            seen |= {"preempted"} if life["preemptions"] else set()
            seen |= {"restarted"} if life["restarts"] else set()
            seen |= {"disturbed"} if life["prefill_interference_ns"] else set()
            if drawn.config.draft_tokens:
                seen |= guessed(life, drawn.config)
            if life["cached_tokens"]:
                seen |= {"cached and moved"} if life["moves"] else {"cached"}
    wanted = {"started", "committed", "refused", "aborted", "finished", "rejected"}
    wanted |= {ROOFLINE, MIXTURE, MEASURED, "too late for a step", "lost before it was queued"}
    wanted |= {"ordered", "took requests", "given back", "drain", "sent back"}
    wanted |= {"found", "found again", "shared", "cached", "cached and moved"}
    assert seen >= wanted | {"preempted", "restarted", "disturbed"}
    assert seen >= {"several at once", "guessed and preempted", "guessed and moved", "past memory"}


def guessed(life: dict[str, Any], config: SimulatorConfig) -> set[str]:
    """Say what happened to a request of which tokens were guessed ahead."""
    shape, request, tokens = config.shape(len(CLASSES)), life["request"], life["tokens"]
    assert shape.guesses is not None
    least_ns = shape.guesses.speculation.step_ns(shape.costs, (), 1, 0)
    seen = set()
    if life["last_token_ns"] - life["first_token_ns"] < (tokens - 1) * least_ns:
        seen |= {"several at once"}
        seen |= {"guessed and preempted"} if life["preemptions"] else set()
        seen |= {"guessed and moved"} if life["moves"] else set()
    fills_memory = request.prompt_tokens + request.output_tokens == shape.limits.usable_tokens
    if config.acceptance == 0 and config.draft_tokens > 1 and fills_memory and tokens > 1:
        seen |= {"past memory"}
    return seen


def told_of(machine: Machine) -> Iterator[str]:
    """Say what became of it since the fleet began."""
    if machine.ordered_ns:
        yield "ordered"
        if machine.ready_ns is not None:
            yield "took requests"
    if machine.returned_ns is not None:
        yield "given back"


def test_a_fleet_that_cannot_skip_is_walked_and_a_kernel_that_cannot_is_refused() -> None:
    config = dataclasses.replace(SMALL, report_interval_s=600.0)
    scheduler, migration = SchedulerConfig(), MigrationConfig()
    assert isinstance(fleet_for(config, scheduler, migration, requests=10), SimulatedFleet)
    assert isinstance(fleet_for(SMALL, scheduler, migration, requests=10), FastFleet)
    wanted = dataclasses.replace(config, kernel="plain")
    with pytest.raises(ValueError, match=r"kernel plain .* reports"):
        fleet_for(wanted, scheduler, migration, requests=10)


def test_a_ledger_has_to_outlast_a_step_where_they_are_scheduled_ahead() -> None:
    """What came during a long step is reported late: the ledger drops it before, columns do not."""
    ahead = dataclasses.replace(SMALL, schedules_ahead=True)
    forgetful, migration = SchedulerConfig(ledger_timeout_s=0.101), MigrationConfig()
    assert isinstance(fleet_for(SMALL, forgetful, migration, requests=10), FastFleet)
    assert isinstance(fleet_for(ahead, forgetful, migration, requests=10), SimulatedFleet)
    assert isinstance(fleet_for(ahead, SchedulerConfig(), migration, requests=10), FastFleet)


def test_a_kernel_to_be_compiled_says_what_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("simulator.fleets.available", lambda: False)
    wanted = dataclasses.replace(SMALL, kernel="compiled")
    with pytest.raises(ValueError, match=r"needs numba: pip install .*\[fast\]"):
        fleet_for(wanted, SchedulerConfig(), MigrationConfig(), requests=10)
