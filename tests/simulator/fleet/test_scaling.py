"""A fleet whose size follows its load: nobody is lost, and every machine is accounted for."""

import dataclasses
import itertools
import random
from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migration.config import MigrationConfig
from policies.registry import PolicySpec
from policies.scaling import ScalingConfig
from policies.scheduler import SchedulerConfig
from policies.types import InstanceId, PriorityClass, RequestId
from simulator.events import NS_PER_S
from simulator.fleet.fleet import SimulatedFleet
from simulator.fleet.life import Fate, Life
from simulator.fleet.machines import Machine, held_ns, sizes
from simulator.fleet.options import Outage, SimulatorConfig
from simulator.fleet.scaled_fleet import ScaledFleet
from simulator.fleets import ServingFleet, fleet_for, machines_of
from simulator.kernel.scaled_fleet import ScaledFastFleet
from simulator.workload.request import TraceRequest
from tests.simulator.kernel.fleet_cases import facts
from tests.simulator.simulated import SMALL, workload

SCALING = ScalingConfig(max_instances=6, low_steps=64, high_steps=256, window_s=1.0, cooldown_s=0.5)
SCALED = dataclasses.replace(SMALL, instances=1, scaling=SCALING, start_delay_s=2.0)
SHRINKING = dataclasses.replace(SCALING, low_steps=-2e9, high_steps=-1e9)
"""However full the fleet is, it is taken to be too large."""
DELAY_NS = 2 * NS_PER_S


def step_load(slow: float, fast: float, seed: int = 0) -> list[TraceRequest]:
    """Ten seconds at a slow rate, ten at a fast one, twenty at the slow one again."""
    requests: list[TraceRequest] = []
    for part, (rate, seconds) in enumerate([(slow, 10), (fast, 10), (slow, 20)]):
        began_s = requests[-1].arrival_s if requests else 0.0
        drawn = workload(round(rate * seconds), rate, seed * 3 + part)
        requests += [
            dataclasses.replace(one, arrival_s=began_s + one.arrival_s, index=len(requests) + at)
            for at, one in enumerate(drawn)
        ]
    return requests


def serve(
    requests: Sequence[TraceRequest],
    config: SimulatorConfig = SCALED,
    *,
    policy: str = "freeness",
    migration: bool = True,
    outages: Sequence[Outage] = (),
) -> tuple[ScaledFleet, list[Life]]:
    """Serve a workload by a fleet that is scaled."""
    classes = (PriorityClass("high"), PriorityClass("normal"))
    scheduler = SchedulerConfig(classes=classes, dispatch=PolicySpec(policy), migration=migration)
    fleet = ScaledFleet(config, scheduler, MigrationConfig(cooldown_s=0.1), outages=outages)
    return fleet, fleet.run(requests)


def check_all_ended(fleet: SimulatedFleet, lives: Sequence[Life]) -> None:
    """Every request ended once, with what it asked for, and left nothing behind."""
    for life in lives:
        assert life.fate in (Fate.FINISHED, Fate.REJECTED)
        assert life.tokens == (life.request.output_tokens if life.finished else 0)
    assert len(fleet.scheduler.ledger) == 0
    for instance in fleet.wiring.instances.values():
        assert not instance.engine.requests()
        assert instance.engine.blocks.allocated_blocks == 0
        assert instance.engine.blocks.reserved_blocks == 0


def check_machines(fleet: ScaledFleet) -> None:
    """At no moment are there more than the most, and no fewer serve or start than the least."""
    scaling = fleet.config.scaling
    assert scaling.max_instances is not None
    changes = sorted({0} | {at for one in fleet.machines for at in span(one) if at is not None})
    for at_ns in changes:
        held = [one for one in fleet.machines if holds(one, at_ns)]
        assert scaling.min_instances <= len(held) <= scaling.max_instances
    assert len({one.instance_id for one in fleet.machines}) == len(fleet.machines)


def span(machine: Machine) -> tuple[int, int | None]:
    """Say from when to when it was held."""
    return machine.ordered_ns, machine.returned_ns


def holds(machine: Machine, at_ns: int) -> bool:
    """Say whether it was held right after a moment."""
    return machine.ordered_ns <= at_ns and (
        machine.returned_ns is None or at_ns < machine.returned_ns
    )


def test_a_load_step_is_answered_after_the_delay_and_undone_by_draining() -> None:
    """With nobody lost, begun anew, or served by a machine that is not there."""
    requests = step_load(5, 60)
    fleet, lives = serve(requests)
    check_all_ended(fleet, lives)
    check_machines(fleet)
    assert all(life.finished and not life.restarts for life in lives)

    step_ns = round(requests[50].arrival_s * NS_PER_S)
    calm_ns = round(requests[50 + 600].arrival_s * NS_PER_S)
    first, *ordered = fleet.machines
    assert (first.ordered_ns, first.ready_ns) == (0, 0)
    for machine in ordered:
        assert machine.ordered_ns > step_ns
        assert machine.ready_ns == machine.ordered_ns + DELAY_NS
    assert sum(holds(one, calm_ns) for one in fleet.machines) >= 4
    assert sum(holds(one, fleet.events.now_ns) for one in fleet.machines) <= 2
    moved = Counter[tuple[str, str]]((event.kind, event.reason) for _, event in fleet.moves.log)
    assert moved["committed", "drain"] > 0


def test_an_instance_serves_only_while_it_is_ready() -> None:
    """From its delay on until it is returned; moves to and from it lie within as well."""
    fleet, lives = serve(step_load(5, 60, seed=1))
    spans = {one.instance_id: one for one in fleet.machines}
    served = Counter[InstanceId]()
    for life in lives:
        assert life.instance_id is not None
        machine = spans[life.instance_id]
        served[life.instance_id] += 1
        assert machine.ready_ns is not None
        assert life.last_token_ns >= machine.ready_ns
        assert machine.returned_ns is None or life.last_token_ns <= machine.returned_ns
        for move in life.moves:
            source, destination = spans[move.source], spans[move.destination]
            assert destination.ready_ns is not None
            assert destination.ready_ns <= move.started_ns
            assert source.returned_ns is None or move.committed_ns <= source.returned_ns
    assert len(served) > 3


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**9))
def test_every_request_ends_once_and_every_machine_is_accounted_for(seed: int) -> None:
    """Whatever is scaled by, moved or not, in short memory, and with instances dying."""
    draws = random.Random(seed)
    least, most = draws.choice([(1, 3), (2, 5), (1, 8)])
    low, high = draws.choice([(64, 256), (0, 1), (-2e9, -1e9), (1e8, 2e8), (200, 900)])
    scaling = ScalingConfig(
        most, least, low, high, draws.choice([0.0, 0.5, 2.0]), draws.choice([0.0, 0.3, 1.0])
    )
    config = dataclasses.replace(
        SMALL,
        instances=draws.randint(least, most),
        capacity_tokens=draws.choice([None, 1024]),
        queue_limit=draws.choice([20, 100_000]),
        message_latency_us=draws.choice([0, 300, 20_000]),
        scaling=scaling,
        start_delay_s=draws.choice([0.0, 0.7, 3.0]),
    )
    outages = [
        Outage(draws.choice(config.names()), draws.uniform(0, 8), draws.choice([None, 0.5, 3.0]))
        for _ in range(draws.choice([0, 0, 2]))
    ]
    requests = workload(draws.randint(50, 250), draws.choice([10, 40]), seed)
    policy = draws.choice(["freeness", "round-robin", "load-aware"])
    fleet, lives = serve(
        requests, config, policy=policy, migration=draws.random() < 0.7, outages=outages
    )
    assert [life.request for life in lives] == requests
    check_all_ended(fleet, lives)
    if not outages:
        assert not any(life.restarts for life in lives)
        check_machines(fleet)
    assert {one.instance_id for one in fleet.machines if one.returned_ns is None} >= set(
        fleet.wiring.instances
    )
    end_ns = fleet.events.now_ns
    changes = sorted({0, end_ns} | {at for one in fleet.machines for at in span(one) if at})
    area_ns = sum(
        sum(holds(one, before) for one in fleet.machines) * (after - before)
        for before, after in itertools.pairwise(changes)
    )
    assert held_ns(fleet.machines, end_ns) == area_ns


class CountingFleet(ScaledFleet):
    """Counts the requests that were sent back to the frontend, by what they had by then."""

    def requeued(self, request_id: RequestId) -> None:
        """See Ward."""
        self.sent_back = [*getattr(self, "sent_back", []), self.lives[request_id].tokens]
        super().requeued(request_id)


def test_what_is_queued_at_a_drained_instance_goes_back_to_the_front() -> None:
    """Round robin queues everywhere; whoever has not begun begins elsewhere, and nobody twice."""
    config = dataclasses.replace(
        SMALL, instances=4, max_num_seqs=2, scaling=SHRINKING, start_delay_s=1.0
    )
    scheduler = SchedulerConfig(dispatch=PolicySpec("round-robin"))
    fleet = CountingFleet(config, scheduler, MigrationConfig())
    lives = fleet.run(workload(120, 40))
    assert len(fleet.sent_back) > 5
    assert not any(fleet.sent_back)
    check_all_ended(fleet, lives)
    assert all(life.finished and not life.restarts for life in lives)
    assert sum(one.returned_ns is not None for one in fleet.machines) == 3


def test_without_migration_a_drained_instance_stops_when_its_requests_are_done() -> None:
    config = dataclasses.replace(SMALL, instances=3, scaling=SHRINKING, start_delay_s=1.0)
    fleet, lives = serve(workload(150, 30), config, migration=False)
    check_all_ended(fleet, lives)
    assert all(life.finished and not life.restarts and not life.moves for life in lives)
    assert sum(one.returned_ns is not None for one in fleet.machines) == 2


def test_scaling_that_never_acts_changes_nothing() -> None:
    """The lives are those of the fleet that keeps its size, to the nanosecond."""
    never = dataclasses.replace(SCALING, low_steps=-1e9, high_steps=1e9)
    config = dataclasses.replace(SMALL, scaling=never, capacity_tokens=1024)
    requests = workload(200, 60)
    fleet, lives = serve(requests, config)
    classes = (PriorityClass("high"), PriorityClass("normal"))
    plain = dataclasses.replace(config, scaling=ScalingConfig())
    scheduler = SchedulerConfig(classes=classes)
    fixed = SimulatedFleet(plain, scheduler, MigrationConfig(cooldown_s=0.1))
    assert [facts(life) for life in lives] == [facts(life) for life in fixed.run(requests)]
    assert fleet.moves.log == fixed.moves.log
    assert fleet.machines == machines_of(fixed)


def test_equal_arguments_give_equal_lives() -> None:
    """INV-7."""
    first, second = serve(step_load(5, 30)), serve(step_load(5, 30))
    assert first[0].machines == second[0].machines
    assert [facts(life) for life in first[1]] == [facts(life) for life in second[1]]


def test_one_that_died_for_good_is_replaced_and_one_that_comes_back_is_not() -> None:
    """The machine of the one is returned at once, that of the other is held on."""
    always = dataclasses.replace(SCALING, min_instances=2, low_steps=-1e9, high_steps=1e9)
    config = dataclasses.replace(SMALL, instances=2, scaling=always, start_delay_s=1.0)
    name = InstanceId("instance-1")
    fleet, lives = serve(workload(100, 20), config, outages=[Outage(name, 1.0)])
    check_all_ended(fleet, lives)
    _, dead, other = fleet.machines
    assert dead.returned_ns == NS_PER_S
    assert other.ordered_ns - NS_PER_S <= NS_PER_S // 4  # the next decision
    fleet, lives = serve(workload(100, 20), config, outages=[Outage(name, 1.0, 1.5)])
    check_all_ended(fleet, lives)
    assert [one.returned_ns for one in fleet.machines] == [None, None]


def test_a_machine_counts_from_its_order_to_its_return() -> None:
    """The time in which it starts is paid for; what comes after the end is not."""
    machines = [
        Machine(InstanceId("a")),
        Machine(InstanceId("b"), ordered_ns=3, ready_ns=5, returned_ns=9),
        Machine(InstanceId("c"), ordered_ns=8, ready_ns=None),
        Machine(InstanceId("d"), ordered_ns=12),
    ]
    assert held_ns(machines, 10) == 10 + 6 + 2
    assert held_ns(machines, 7) == 7 + 4


@given(
    st.lists(
        st.tuples(st.integers(0, 9), st.integers(0, 5), st.none() | st.integers(0, 9)), max_size=6
    ),
    st.integers(0, 30),
)
def test_sizes_over_time_are_the_machines_held_at_that_time(
    drawn: list[tuple[int, int, int | None]], end_ns: int
) -> None:
    """Their area is the time all of them were held; no more have started than are held."""
    machines = [
        Machine(
            InstanceId(f"i{at}"),
            ordered_ns,
            ordered_ns + delay_ns,
            None if kept_ns is None else ordered_ns + delay_ns + kept_ns,
        )
        for at, (ordered_ns, delay_ns, kept_ns) in enumerate(drawn)
    ]
    found = sizes(machines, end_ns)
    bounds = [*(size.at_ns for size in found), end_ns]
    area_ns = sum(
        size.held * (after - before)
        for size, (before, after) in zip(found, itertools.pairwise(bounds), strict=True)
    )
    assert area_ns == held_ns(machines, end_ns)
    assert all(0 <= size.started <= size.held for size in found)


@pytest.mark.parametrize(("kernel", "scaled"), [("steps", ScaledFleet), ("auto", ScaledFastFleet)])
def test_a_fleet_is_scaled_where_its_size_may_change(
    kernel: str, scaled: type[ServingFleet]
) -> None:
    scheduler, migration = SchedulerConfig(), MigrationConfig()
    config = dataclasses.replace(SCALED, kernel=kernel)
    assert isinstance(fleet_for(config, scheduler, migration, requests=10), scaled)
    still = dataclasses.replace(config, scaling=ScalingConfig(max_instances=1))
    assert not isinstance(fleet_for(still, scheduler, migration, requests=10), scaled)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"start_delay_s": -1.0}, "start_delay_s must be 0 or more"),
        ({"start_delay_s": float("inf")}, "start_delay_s must be 0 or more"),
        ({"instances": 7}, "a fleet of 7 instances cannot be kept between 1 and 6"),
        ({"scaling": ScalingConfig(9, 2)}, "a fleet of 1 instances cannot be kept between 2 and 9"),
    ],
)
def test_nonsense_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(SCALED, **changes).shape(2)  # type: ignore[arg-type]
