"""Skipping steps changes nothing: the fast fleet's results are the stepwise one's, bit for bit.

Random fleets and workloads with all features on: classes, every dispatch policy, late binding,
chunked prompts, preemption, rejection, staged migration with refusals, outages, cost models,
steps scheduled ahead, speculation, fleets that grow and shrink, and prefix caches too small for all
they could keep.
"""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import example, given, settings

from migration.config import MigrationConfig
from policies.scheduler import SchedulerConfig
from simulator.fleet.fleet import SimulatedFleet
from simulator.fleet.life import Life
from simulator.fleet.machines import Machine
from simulator.fleet.options import SimulatorConfig
from simulator.fleets import fleet_for
from simulator.kernel.fleet import FastFleet
from simulator.kernel.instance import ColumnInstance
from simulator.kernel.scaled_fleet import ScaledFastFleet
from simulator.kernel.state import (
    CAME,
    FOUND,
    HOLDERS,
    PATIENCE,
    PREEMPTIONS,
    RESTARTS,
    SHARES,
)
from tests.simulator.kernel import kept_cases as kept
from tests.simulator.kernel.drawn_cases import case_of, cases
from tests.simulator.kernel.fleet_cases import (
    CLASSES,
    MEASURED,
    MIXTURE,
    ROOFLINE,
    Case,
    presets_for_cases,
    told,
)
from tests.simulator.kernel.test_compiled import CASES
from tests.simulator.simulated import SMALL


@pytest.fixture(scope="module", autouse=True)
def _presets() -> Iterator[None]:
    with presets_for_cases():
        yield


@pytest.mark.timeout(600)  # what is found is shrunk for up to five minutes
@settings(max_examples=40, deadline=None)
@example(kept.ON_THE_WAY_AT_A_REPORT)
@example(kept.ENDS_SOONER_THAN_ONE_TOKEN_A_STEP)
@example(kept.FOUND_ALL_BUT_ONE_TOKEN)
@given(cases())
def test_skipping_gives_what_stepping_gives(drawn: Case) -> None:
    assert drawn.fast(compile_it=False) == drawn.stepwise()


class WatchedFleet(FastFleet):
    """Notes what can only be seen while it runs."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.seen: set[str] = set()
        self._restarted: dict[int, int] = {}

    def _go(self, progress: Callable[[int], None] | None) -> None:
        self.state.fleet[PATIENCE] = 20  # turns between two looks
        super()._go(lambda _: self._look())

    def _look(self) -> None:
        req = self.state.req
        if not self.state.fleet[SHARES]:
            return
        self.seen |= {"shared"} if max(self.state.blocks[HOLDERS]) > 1 else set()
        holders = [r for r, found in enumerate(req[FOUND]) if found]
        self.seen |= {"found again" if req[PREEMPTIONS][r] else "found" for r in holders}

    def _take_down(self, instance: ColumnInstance) -> list[Life]:
        came = self.state.ins[CAME][instance.at]
        self.seen |= {"lost before it was queued"} if came else set()
        return super()._take_down(instance)

    def requeued(self, position: int) -> None:
        restarts = self.state.req[RESTARTS][position]
        if restarts == self._restarted.get(position, 0):
            self.seen.add("sent back")
        self._restarted[position] = restarts
        super().requeued(position)


class WatchedScaledFleet(WatchedFleet, ScaledFastFleet):
    """The same, of one that grows and shrinks."""


def test_the_cases_have_what_can_go_wrong_in_them() -> None:
    """Else the tests of compiled code would prove little, and those that draw by this recipe."""
    seen: set[str] = set()
    for seed in range(CASES):
        drawn = case_of(seed)
        watched = WatchedScaledFleet if drawn.config.scaling.on else WatchedFleet
        fleet = drawn.fleet(watched)
        said = told(fleet, drawn.requests)
        seen |= fleet.seen | {drawn.config.preset} | happened(said, drawn.config)
        if drawn.config.schedules_ahead:
            config = dataclasses.replace(drawn.config, schedules_ahead=False)
            sooner = dataclasses.replace(drawn, config=config).fast(compile_it=False)
            seen |= {"too late for a step"} if said["lives"] != sooner["lives"] else set()
    wanted = {"started", "committed", "refused", "aborted", "finished", "rejected"}
    wanted |= {ROOFLINE, MIXTURE, MEASURED, "too late for a step", "lost before it was queued"}
    wanted |= {"ordered", "took requests", "given back", "drain", "sent back"}
    wanted |= {"found", "found again", "shared", "cached", "cached and moved"}
    wanted |= {"preempted", "restarted", "disturbed"}
    wanted |= {"several at once", "guessed and preempted", "guessed and moved", "past memory"}
    assert not wanted - seen


def happened(said: dict[str, Any], config: SimulatorConfig) -> set[str]:
    """List what shows in the results."""
    seen = {event.kind for _, event in said["log"]}
    seen |= {event.reason for _, event in said["log"] if event.kind == "committed"}
    seen |= {fact for machine in said["machines"] for fact in told_of(machine)}
    for life in said["lives"]:
        seen |= {life["fate"].value}
        seen |= {"preempted"} if life["preemptions"] else set()
        seen |= {"restarted"} if life["restarts"] else set()
        seen |= {"disturbed"} if life["prefill_interference_ns"] else set()
        if config.draft_tokens:
            seen |= guessed(life, config)
        if life["cached_tokens"]:
            seen |= {"cached and moved"} if life["moves"] else {"cached"}
    return seen


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


def test_a_kernel_to_be_compiled_says_what_it_lacks() -> None:
    wanted = dataclasses.replace(SMALL, kernel="compiled")
    with pytest.raises(ValueError, match=r"needs numba: pip install .*\[fast\]"):
        fleet_for(wanted, SchedulerConfig(), MigrationConfig(), requests=10, can_compile=False)
