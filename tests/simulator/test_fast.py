"""Skipping steps changes nothing: the fast fleet's results are the stepwise one's, bit for bit.

Random fleets and workloads with all features on: classes, every dispatch policy, late binding,
chunked prompts, preemption, rejection, staged migration with refusals, outages, cost models,
steps scheduled ahead, speculation, fleets that grow and shrink, and prefix caches too small for all
they could keep.
"""

import dataclasses
import random
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from migration.config import MigrationConfig
from policies.dispatch import dispatch_policies
from policies.rebalance import RebalanceConfig
from policies.registry import PolicySpec
from policies.scaling import ScalingConfig
from policies.scheduler import SchedulerConfig
from policies.types import PriorityClass, RequestId
from simulator.cluster.fleet import SimulatedFleet
from simulator.cluster.life import Life
from simulator.cluster.machines import Machine
from simulator.cluster.options import Outage, SimulatorConfig
from simulator.cluster.scaled_fleet import ScaledFleet
from simulator.costs import PRESETS
from simulator.fast.coming import who_came
from simulator.fast.compiled import available
from simulator.fast.drain import DrainedHooks
from simulator.fast.fleet import FastFleet
from simulator.fast.prefixes import start
from simulator.fast.scaled_fleet import ScaledFastFleet
from simulator.fast.shared_blocks import drop
from simulator.fast.state import FOUND, HOLDERS, PREEMPTIONS, State
from simulator.fleets import fleet_for, machines_of
from simulator.gpus import gpu_named
from simulator.model_shape import read_shape
from simulator.roofline import roofline
from simulator.roofline_options import RooflineOptions
from simulator.workload.request import PromptBlocks, TraceRequest
from tests.simulator.simulated import SMALL, workload
from tests.simulator.test_fast_runs import LLAMA_8B, TABLE

ROOFLINE, MIXTURE, MEASURED = "test-roofline", "test-mixture", "test-table"
CLASSES = (PriorityClass("high", headroom_tokens=600), PriorityClass("normal"))


@dataclasses.dataclass(frozen=True)
class Case:
    """A fleet and what it serves."""

    config: SimulatorConfig
    scheduler: SchedulerConfig
    migration: MigrationConfig
    requests: Sequence[TraceRequest]
    outages: Sequence[Outage]
    seed: int

    def stepwise(self) -> dict[str, Any]:
        """Walk it."""
        made = ScaledFleet if self.config.scaling.on else SimulatedFleet
        fleet = made(self.config, self.scheduler, self.migration, self.seed, self.outages)
        return told(fleet, self.requests)

    def fast(self, *, compile_it: bool) -> dict[str, Any]:
        """Skip through it."""
        made = ScaledFastFleet if self.config.scaling.on else FastFleet
        fleet = made(
            self.config,
            self.scheduler,
            self.migration,
            self.seed,
            self.outages,
            compile_it=compile_it,
        )
        return told(fleet, self.requests)


def told(fleet: SimulatedFleet | FastFleet, requests: Sequence[TraceRequest]) -> dict[str, Any]:
    """Run it, and say all there is to say."""
    fleet.looks = []
    lives = fleet.run(requests)
    return {
        "lives": [facts(life) for life in lives],
        "log": fleet.moves.log,
        "steps": {name: (one.steps, one.busy_ns) for name, one in fleet.instances().items()},
        "looks": fleet.looks,
        "machines": machines_of(fleet),
    }


def facts(life: Life) -> dict[str, Any]:
    """List all fields of a life."""
    return {field.name: getattr(life, field.name) for field in dataclasses.fields(life)}


def case(seed: int) -> Case:
    """Draw a case that is short of memory and slots now and then."""
    draws, costs = random.Random(seed), random.Random(f"{seed}/costs")
    ahead = random.Random(f"{seed}/ahead")
    instances = draws.choice([1, 2, 3, 5])
    slow = draws.random() < 0.3
    config = SimulatorConfig(
        instances=instances,
        preset=draws.choice(["llama-7b-a10", ROOFLINE]) if slow else "toy",
        capacity_tokens=draws.choice([5_000, 9_000]) if slow else None,
        max_num_seqs=draws.choice([3, 16, 64]),
        token_budget=draws.choice([64, 512]),
        queue_limit=draws.choice([3, 100_000]),
        report_interval_s=draws.choice([0.1, 0.03, 0.0071]),
        message_latency_us=draws.choice([0, 300, 20_000]),
        copy_slowdown=draws.choice([0.0, 0.01, 0.3]),
        link_bytes_per_s=draws.choice([None, 2_000_000]),
    )
    if costs.random() < 0.4:
        config = dataclasses.replace(config, preset=MIXTURE if slow else MEASURED)
    config = dataclasses.replace(config, schedules_ahead=ahead.random() < 0.4)
    name = draws.choice(dispatch_policies.names())
    params = {"late_binding": draws.random() < 0.7} if name == "freeness" else {}
    scheduler = SchedulerConfig(
        classes=CLASSES,
        dispatch=PolicySpec(name, params),
        migration=draws.random() < 0.8,
    )
    migration = MigrationConfig(
        max_stages=draws.choice([0, 2, 8]), slack_blocks=draws.choice([0, 2]), cooldown_s=0.3
    )
    rate = draws.choice([0.6, 1.0, 1.6]) * instances * (1.5 if slow else 40)
    outputs = draws.choice([(1, 4), (1, 300), (200, 400)])
    requests = [
        dataclasses.replace(one, class_name=draws.choice(["high", "normal", "normal"]))
        for one in workload(draws.randint(20, 150), rate, seed, (1, 1_200), outputs)
    ]
    end_s = requests[-1].arrival_s
    outages = [
        Outage(draws.choice(config.names()), draws.choice([end_s / 2, 0.5]), end_s / 4)
        for _ in range(draws.choice([0, 0, 1, 3]))
    ]
    drawn = Case(config, scheduler, migration, requests, outages, seed)
    return with_prefixes(scaled(speculating(drawn)))


def speculating(drawn: Case) -> Case:
    """Have some of the cases guess tokens ahead, and some of their requests fill all memory."""
    draws = random.Random(f"{drawn.seed}/speculation")
    if draws.random() < 0.6:
        return drawn
    draft_tokens = draws.randint(1, 4)
    config = dataclasses.replace(
        drawn.config,
        draft_tokens=draft_tokens,
        acceptance=draws.choice([0.0, 0.3, 0.8, 1.0]),
        draft_us=draws.choice([0, 70, 2_000]),
        token_budget=max(
            drawn.config.token_budget or 0,
            (drawn.config.max_num_seqs or 0) * (1 + draft_tokens),
        ),
    )
    most = config.shape(len(CLASSES)).limits.usable_tokens
    requests = [
        dataclasses.replace(one, prompt_tokens=most - one.output_tokens)
        if draws.random() < 0.03
        else one
        for one in drawn.requests
    ]
    return dataclasses.replace(drawn, config=config, requests=requests)


def scaled(drawn: Case) -> Case:
    """Have some of the fleets grow and shrink, at times that matter to their workload."""
    draws = random.Random(f"{drawn.seed}/scaling")
    if draws.random() >= 0.5:
        return drawn
    instances, end_s = drawn.config.instances + draws.choice([0, 2]), drawn.requests[-1].arrival_s
    too_large, too_small = (-2e9, -1e9), (1e8, 2e8)  # it always is
    low, high = draws.choice([(30, 60), (100, 101), (200, 900), too_large, too_large, too_small])
    scaling = ScalingConfig(
        max_instances=instances + draws.choice([1, 2, 4]),
        min_instances=draws.choice([1, 1, instances]),
        low_steps=low,
        high_steps=high,
        window_s=draws.choice([0.0, end_s / 20]),
        cooldown_s=draws.choice([0.0, end_s / 20]),
    )
    start_delay_s = draws.choice([0.0, 0.05, end_s / 10])
    rebalance = RebalanceConfig(interval_s=draws.choice([0.25, end_s / 40, end_s / 200]))
    outages = [
        dataclasses.replace(one, down_s=draws.choice([one.down_s, None])) for one in drawn.outages
    ]
    config = dataclasses.replace(
        drawn.config, instances=instances, scaling=scaling, start_delay_s=start_delay_s
    )
    return dataclasses.replace(
        drawn,
        outages=outages,
        config=config,
        scheduler=dataclasses.replace(drawn.scheduler, rebalance=rebalance),
    )


def with_prefixes(drawn: Case) -> Case:
    """Have prompts of half of the cases begin alike; memory is soon needed for something else."""
    draws = random.Random(f"{drawn.seed}/prefixes")
    if draws.random() < 0.5:
        return drawn
    size = draws.choice([8, 16, 16, 24, 64, 512])
    families, pieces = draws.choice([1, 3, 10]), 1_200 // size + 1
    requests = []
    for one in drawn.requests:
        family, known = draws.randrange(families), draws.randint(0, pieces)
        ids = [family * pieces + number for number in range(known)]
        ids += [1_000_000 + one.index * pieces + number for number in range(draws.randint(0, 9))]
        told = draws.random() < 0.9
        blocks = PromptBlocks.of(size, ids) if told else None
        requests.append(dataclasses.replace(one, prompt_blocks=blocks))
    capacity_tokens = draws.choice([drawn.config.capacity_tokens, 1_800, 3_000, 6_000])
    config = dataclasses.replace(drawn.config, prefix_caching=True, capacity_tokens=capacity_tokens)
    if config.preset != "toy":
        requests = requests[:50]  # they would take too long to walk
    return dataclasses.replace(drawn, config=config, requests=requests)


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
@example(14_179)  # a request no report has seen ends before a rebalance that heeds it
@example(1_184)  # an instance dies while KV is copied from or to it, and comes back
@example(129_476)  # an instance dies beside a copy, comes back, and takes part in another one
@example(20_617)  # one ends between reports, sooner than it could at one token a step
@example(1_094)  # a prompt and a decode end with one step: whose blocks are given away first
@example(2_120)  # an instance dies while KV is copied to it, and comes back
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
        came = who_came(state, at)
        seen.update("lost before it was queued" for _ in came)
        return came

    def sent_back(site: DrainedHooks, request_id: RequestId) -> bool:
        back = requeue(site, request_id)
        seen.update({"sent back"} if back else ())
        return back

    monkeypatch.setattr("simulator.fast.site.who_came", noted)
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

    monkeypatch.setattr("simulator.fast.planning.start", start_and_tell)
    monkeypatch.setattr("simulator.fast.prefixes.drop", drop_and_tell)
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
