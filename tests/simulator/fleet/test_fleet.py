"""A fleet in virtual time: nothing lost, nothing left, and the same again for the same seed."""

import dataclasses

import pytest

from policies.types import InstanceId
from simulator.costs.presets import preset
from simulator.events import NS_PER_S
from simulator.fleet.life import Fate, Life
from simulator.fleet.options import Outage, SimulatorConfig
from simulator.workload.request import TraceRequest
from tests.simulator.simulated import SMALL, make_fleet, simulate, workload

TIGHT = dataclasses.replace(SMALL, capacity_tokens=1024)


def story(life: Life) -> tuple[object, ...]:
    """All of a life that a result could show."""
    moves = [(move.source, move.destination, move.gap_ns, move.stages) for move in life.moves]
    return (
        life.request_id,
        life.fate,
        life.instance_id,
        life.first_token_ns,
        life.last_token_ns,
        life.longest_gap_ns,
        life.preemptions,
        tuple(moves),
    )


def test_a_request_alone_takes_what_its_steps_cost() -> None:
    """Two chunks of the prompt, then one step a token, each summed up from the cost model."""
    costs = preset("toy").costs
    _, (life,) = simulate([TraceRequest(0, 0.0, 100, 5)])
    prefill_ns = costs.step_ns([(0, 64)], 0, 0) + costs.step_ns([(64, 36)], 0, 0)
    decodes_ns = [costs.step_ns((), 1, 100 + tokens) for tokens in range(1, 5)]
    assert life.first_token_ns == prefill_ns
    assert life.last_token_ns == prefill_ns + sum(decodes_ns)
    assert life.tokens == 5


@pytest.mark.parametrize("policy", ["freeness", "round-robin", "load-aware"])
@pytest.mark.parametrize("migration", [True, False])
def test_every_request_ends_and_nothing_is_left(policy: str, migration: bool) -> None:
    """INV-8 and INV-3, where memory is short and requests are preempted and moved."""
    requests = workload(300, rate=60)
    fleet, lives = simulate(requests, TIGHT, policy=policy, migration=migration)
    assert [life.request for life in lives] == requests
    assert all(life.finished and life.tokens == life.request.output_tokens for life in lives)
    assert sum(life.preemptions for life in lives) > 0
    for instance in fleet.wiring.instances.values():
        blocks = instance.engine.blocks
        assert (blocks.allocated_blocks, blocks.free_blocks) == (0, blocks.total_blocks)
        assert not instance.engine.requests()
        assert instance.copies == 0
    assert len(fleet.scheduler.ledger) == 0


def test_requests_are_moved_and_hardly_anybody_waits_for_it() -> None:
    """A committed move has two stages at least, and costs its stream a few steps at most."""
    fleet, lives = simulate(workload(300, rate=60), TIGHT)
    moves = [move for life in lives for move in life.moves if move.gap_ns]
    assert len(moves) > 3
    assert all(move.stages >= 2 for move in moves)
    gaps_ms = sorted(move.gap_ns / 1e6 for move in moves)
    assert gaps_ms[len(gaps_ms) // 2] < 20
    committed = [event for _, event in fleet.moves.log if event.kind == "committed"]
    assert len(committed) >= len(moves)


def test_equal_arguments_give_equal_lives() -> None:
    """INV-7."""
    first = simulate(workload(200, rate=60), TIGHT)[1]
    second = simulate(workload(200, rate=60), TIGHT)[1]
    assert [story(life) for life in first] == [story(life) for life in second]


def test_time_and_number_agree() -> None:
    """Little's law: the integral of the number in the system is the sum of the times in it."""
    _, lives = simulate(workload(200, rate=40))
    changes = sorted(
        [(life.arrived_ns, 1) for life in lives] + [(life.last_token_ns, -1) for life in lives]
    )
    area = number = last_ns = 0
    for at_ns, change in changes:
        area += number * (at_ns - last_ns)
        number, last_ns = number + change, at_ns
    assert number == 0
    assert area == sum(life.last_token_ns - life.arrived_ns for life in lives)


def test_within_a_class_nobody_overtakes() -> None:
    """First come, first dispatched, and the urgent class before all others."""
    requests = [
        dataclasses.replace(one, class_name="high" if one.index % 5 == 0 else "normal")
        for one in workload(200, rate=80)
    ]
    _, lives = simulate(requests, TIGHT)
    for name in ("high", "normal"):
        dispatched = [life.dispatched_ns for life in lives if life.request.class_name == name]
        assert dispatched == sorted(dispatched)
    assert all(life.dispatched_ns >= life.arrived_ns for life in lives)


def test_the_requests_of_a_dead_instance_are_computed_elsewhere() -> None:
    """Nobody is lost; those who were there begin again with what they had."""
    outages = [Outage(InstanceId("instance-1"), 1.0, 2.0), Outage(InstanceId("instance-2"), 2.0)]
    fleet, lives = simulate(workload(300, rate=60), TIGHT, outages=outages)
    assert all(life.fate is Fate.FINISHED for life in lives)
    assert sum(life.restarts for life in lives) > 0
    assert set(fleet.wiring.instances) == {"instance-0", "instance-1", "instance-3"}
    for instance in fleet.wiring.instances.values():
        assert (
            instance.engine.blocks.allocated_blocks == instance.engine.blocks.reserved_blocks == 0
        )


def test_a_request_too_long_for_any_instance_is_rejected() -> None:
    _, (life,) = simulate([TraceRequest(0, 0.0, 3000, 5)])
    assert (life.fate, "never fit" in life.reason) == (Fate.REJECTED, True)


def test_a_full_queue_rejects() -> None:
    config = dataclasses.replace(TIGHT, instances=1, queue_limit=3)
    requests = [TraceRequest(index, 0.0, 200, 200) for index in range(30)]
    _, lives = simulate(requests, config)
    fates = [life.fate for life in lives]
    assert fates.count(Fate.REJECTED) > 0
    assert fates.count(Fate.REJECTED) + fates.count(Fate.FINISHED) == 30


def test_an_unknown_class_is_named() -> None:
    request = TraceRequest(0, 0.0, 10, 1, class_name="urgent")
    with pytest.raises(ValueError, match="'urgent'; known: high, normal"):
        make_fleet().run([request])


def test_deterministic_service_waits_as_theory_says() -> None:
    """M/D/1: one request at a time, all alike; the mean wait is rho / (2 mu (1 - rho))."""
    config = SimulatorConfig(instances=1, preset="toy", max_num_seqs=1, token_budget=64)
    service_s = preset("toy").costs.step_ns([(0, 32)], 0, 0) / NS_PER_S
    load, count = 0.7, 4000
    means = []
    for seed in range(5):
        requests = workload(count, load / service_s, seed, prompt=(32, 32), output=(1, 1))
        _, lives = simulate(requests, config, policy="round-robin", migration=False)
        waits = [(life.last_token_ns - life.arrived_ns) / NS_PER_S - service_s for life in lives]
        means.append(sum(waits[count // 10 :]) / len(waits[count // 10 :]))
    theory_s = load * service_s / (2 * (1 - load))
    mean_s = sum(means) / len(means)
    error_s = (sum((one - mean_s) ** 2 for one in means) / (len(means) - 1) / len(means)) ** 0.5
    assert abs(mean_s - theory_s) < 3 * error_s + 0.02 * theory_s


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"instances": 0}, "instances must be positive"),
        ({"preset": "abacus"}, "unknown cost preset"),
        ({"copy_slowdown": 2.0}, "copy_slowdown"),
        ({"capacity_tokens": 0}, "capacity_tokens must be positive"),
    ],
)
def test_nonsense_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(SMALL, **changes)  # type: ignore[arg-type]
