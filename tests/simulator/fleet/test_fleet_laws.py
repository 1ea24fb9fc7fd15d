"""Laws that every simulated fleet obeys, whatever it serves and by whatever policy."""

import dataclasses
from functools import partial

import pytest

from policies.types import InstanceId
from simulator.costs.presets import preset
from simulator.events import NS_PER_S, Priority
from simulator.fleet.life import Life
from simulator.fleet.options import Outage
from simulator.streams import stream
from simulator.workload.request import TraceRequest
from simulator.workload.transforms import with_high_class
from tests.simulator.simulated import SMALL, make_fleet, simulate, workload

TIGHT = dataclasses.replace(SMALL, capacity_tokens=1024)


@pytest.mark.parametrize("policy", ["freeness", "round-robin"])
@pytest.mark.parametrize("migration", [True, False])
def test_what_follows_comes_later(policy: str, migration: bool) -> None:
    """Causality: arrived, dispatched, admitted, first token, last; moves lie between the last two.

    With preemption, outages and short memory; a token takes time, so the first comes strictly
    after the admission.
    """
    outages = [Outage(InstanceId("instance-1"), 1.0, 1.0)]
    _, lives = simulate(
        workload(300, rate=60), TIGHT, policy=policy, migration=migration, outages=outages
    )
    assert sum(life.preemptions for life in lives) > 0
    assert sum(life.restarts for life in lives) > 0
    assert any(life.moves for life in lives) is migration
    for life in lives:
        assert life.arrived_ns <= life.dispatched_ns <= life.admitted_ns < life.first_token_ns
        assert life.first_token_ns <= life.last_token_ns
        for move in life.moves:
            assert life.first_token_ns <= move.started_ns <= move.committed_ns
            assert move.committed_ns <= life.last_token_ns


@pytest.mark.parametrize("policy", ["freeness", "round-robin", "random"])
def test_no_instance_idles_while_it_has_a_request(policy: str) -> None:
    """Work conservation: an instance is busy from a request's dispatch to its last token.

    To the nanosecond: its steps take up the union of these spans, no more and no less, however
    long a request waits in its queue and however often it is preempted.
    """
    config = dataclasses.replace(TIGHT, copy_slowdown=0.0)
    fleet, lives = simulate(workload(300, rate=45), config, policy=policy, migration=False)
    assert sum(life.preemptions for life in lives) > 0
    assert sum(life.admitted_ns > life.dispatched_ns for life in lives) > 100
    for name, instance in fleet.wiring.instances.items():
        here = [life for life in lives if life.instance_id == name]
        assert instance.busy_ns == occupied_ns(here)
    end_ns = max(life.last_token_ns for life in lives)
    assert any(instance.busy_ns < end_ns for instance in fleet.wiring.instances.values())


def occupied_ns(lives: list[Life]) -> int:
    """The length of the union of the spans from dispatch to last token."""
    total = until_ns = 0
    for life in sorted(lives, key=lambda one: one.dispatched_ns):
        begin_ns = max(until_ns, life.dispatched_ns)
        total += max(0, life.last_token_ns - begin_ns)
        until_ns = max(until_ns, life.last_token_ns)
    return total


@pytest.mark.parametrize("policy", ["freeness", "round-robin"])
def test_a_flooded_fleet_yields_what_full_batches_yield(policy: str) -> None:
    """Saturation: B / step(B) tokens a second and instance, within 1 %.

    Twice as much is offered. The batch is always full, its contexts are of the mean length at a
    random moment of a request, and prompts are short enough to add nothing to a step.
    """
    config = dataclasses.replace(SMALL, instances=2, capacity_tokens=16_384)
    costs, batch = preset("toy").costs, config.shape(1).limits.max_num_seqs

    def drawn_at(rate: float) -> list[TraceRequest]:
        return workload(2500, rate, prompt=(1, 8), output=(50, 150))

    drawn = drawn_at(1.0)
    tokens = sum(one.output_tokens for one in drawn)
    held = sum(
        one.output_tokens * (one.prompt_tokens + one.output_tokens / 2 + 0.5) for one in drawn
    )
    step_s = costs.step_ns((), batch, round(batch * held / tokens)) / NS_PER_S
    bound = config.instances * batch / step_s
    flood = drawn_at(2 * bound * len(drawn) / tokens)
    _, lives = simulate(flood, config, policy=policy, migration=False)
    assert yielded_per_s(lives) == pytest.approx(bound, rel=0.01)


def yielded_per_s(lives: list[Life]) -> float:
    """Tokens a second while requests wait: those that end in the middle of all admissions."""
    admitted = sorted(life.admitted_ns for life in lives)
    begin_ns, end_ns = admitted[len(lives) // 10], admitted[-1]
    ended = [one for one in lives if begin_ns < one.last_token_ns <= end_ns]
    tokens = sum(one.request.output_tokens for one in ended)
    return tokens / (end_ns - begin_ns) * NS_PER_S


def test_another_consumer_of_chance_shifts_nobody() -> None:
    """Common seeds: classes drawn by chance leave arrivals, lengths and random dispatch as is.

    Dispatch by chance looks at nothing else, so that each request lands where it would have.
    """
    plain = workload(200, rate=20)
    classed = with_high_class(workload(200, rate=20), 0.3, seed=0)
    assert {one.class_name for one in classed} == {"high", "normal"}
    assert [sizes(one) for one in classed] == [sizes(one) for one in plain]

    places = [
        [life.instance_id for life in simulate(requests, policy="random", migration=False)[1]]
        for requests in (plain, classed)
    ]
    assert len(set(places[0])) == SMALL.instances
    assert places[0] == places[1]


def sizes(request: TraceRequest) -> tuple[float, int, int]:
    """All of a request but its class."""
    return request.arrival_s, request.prompt_tokens, request.output_tokens


def test_an_observer_that_draws_changes_nothing() -> None:
    """Common seeds: a stream opened and used amid a run leaves every life as it was."""

    def run(*, newcomer: bool) -> list[tuple[object, ...]]:
        fleet = make_fleet(TIGHT, policy="power-of-two")
        if newcomer:
            draws = stream(0, "newcomer")
            for at_ms in range(0, 3000, 7):
                at_ns = at_ms * 1_000_000
                fleet.events.at(at_ns, Priority.DECISION, partial(draws.shuffle, [1, 2, 3]))
        lives = fleet.run(workload(200, rate=60))
        return [(life.instance_id, life.first_token_ns, life.last_token_ns) for life in lives]

    assert run(newcomer=True) == run(newcomer=False)
