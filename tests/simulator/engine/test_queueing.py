"""Degenerate fleets, for which queueing theory has the answer.

With a batch of one and steps that all take the same, a request is served for as many steps as it
has output tokens, and a fleet is a queue before servers.
"""

import heapq
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from llumnix.planning.estimate import estimate
from migration.config import MigrationConfig
from policies.registry import PolicySpec
from policies.scheduler import SchedulerConfig
from policies.types import PriorityClass
from simulator.costs.files import preset_document
from simulator.costs.presets import LinearCosts, Preset
from simulator.events import NS_PER_S
from simulator.fleet.fleet import SimulatedFleet
from simulator.fleet.life import Life
from simulator.fleet.options import SimulatorConfig
from simulator.streams import stream
from simulator.workload.request import TraceRequest

STEP_NS = 1_000_000
MEAN_STEPS = 20
LOAD = 0.7


@pytest.fixture
def one_by_one(tmp_path: Path) -> SimulatorConfig:
    """An instance that serves one request at a time, a token a millisecond, prompts included."""
    costs = LinearCosts(
        prefill_base_ns=0,
        prefill_per_token_ns=0,
        prefill_quadratic_ps=0,
        decode_base_ns=STEP_NS,
        decode_per_context_ns=0,
        decode_per_sequence_ns=0,
    )
    known = Preset("constant", "invented", costs, 16_384, 16, 16_384, 1, 1)
    path = tmp_path / "constant.json"
    path.write_text(json.dumps(preset_document(known)), encoding="utf-8")
    return SimulatorConfig(
        instances=1,
        preset=str(path),
        max_num_seqs=1,
        token_budget=16,
        report_interval_s=STEP_NS / NS_PER_S,
    )


def poisson(count: int, servers: int, seed: int) -> list[TraceRequest]:
    """Draw Poisson arrivals and geometric lengths; the prompt's one token yields the first."""
    rate = LOAD * servers / (MEAN_STEPS * STEP_NS / NS_PER_S)
    at_s = stream(seed, "tests/arrivals").exponential(1 / rate, count).cumsum()
    lengths = stream(seed, "tests/lengths").geometric(1 / MEAN_STEPS, count)
    drawn = zip(at_s.tolist(), lengths.tolist(), strict=True)
    return [TraceRequest(index, at, 1, length) for index, (at, length) in enumerate(drawn)]


def served(
    config: SimulatorConfig, requests: Sequence[TraceRequest], dispatch: PolicySpec
) -> list[Life]:
    """Run a fleet without migration or headroom."""
    normal = (PriorityClass("normal"),)
    scheduler = SchedulerConfig(classes=normal, dispatch=dispatch, migration=False)
    return SimulatedFleet(config, scheduler, MigrationConfig()).run(requests)


def waits_ns(lives: Sequence[Life]) -> list[int]:
    """How long each request waited for its first step."""
    return [life.admitted_ns - life.arrived_ns for life in lives]


def queue_waits_ns(lives: Sequence[Life], servers: int, longer_ns: int = 0) -> list[int]:
    """The waits of the same requests before servers (Kiefer and Wolfowitz), first come first.

    `longer_ns` is what every service takes on top of its steps.
    """
    free_ns = [0] * servers
    waits = []
    for life in lives:
        start_ns = max(life.arrived_ns, free_ns[0])
        service_ns = life.request.output_tokens * STEP_NS + longer_ns
        heapq.heapreplace(free_ns, start_ns + service_ns)
        waits.append(start_ns - life.arrived_ns)
    return waits


def erlang_c(servers: int, erlangs: float) -> float:
    """The probability that a request has to wait in M/M/c."""
    full = erlangs**servers / math.factorial(servers) * servers / (servers - erlangs)
    return full / (full + sum(erlangs**k / math.factorial(k) for k in range(servers)))


def mmc_wait_s(servers: int, rate: float, service_s: float) -> float:
    """The mean wait in M/M/c."""
    erlangs = rate * service_s
    return erlang_c(servers, erlangs) * service_s / (servers - erlangs)


def test_erlang_c_is_right() -> None:
    """M/M/1 waits with probability rho; two servers at one erlang with probability a third."""
    assert erlang_c(1, 0.7) == pytest.approx(0.7)
    assert erlang_c(2, 1.0) == pytest.approx(1 / 3)
    assert mmc_wait_s(1, 0.5, 1.0) == pytest.approx(1.0)


@pytest.mark.parametrize("seed", range(3))
def test_one_instance_is_a_queue_before_a_server(one_by_one: SimulatorConfig, seed: int) -> None:
    """Every request waits as long as in G/G/1 (Lindley), to the nanosecond."""
    lives = served(one_by_one, poisson(300, 1, seed), PolicySpec("round-robin"))
    assert waits_ns(lives) == queue_waits_ns(lives, 1)


# Late binding: room to grow for more than an instance has, so that none joins another there.
ONE_AN_INSTANCE = PolicySpec("freeness", {"growth_steps": 1e6})
SERVERS = 4


def pool_of(config: SimulatorConfig) -> SimulatorConfig:
    """The same instance several times, behind one queue in the frontend."""
    return replace(config, instances=SERVERS)


@pytest.mark.parametrize("seed", range(3))
def test_a_late_bound_fleet_is_a_queue_before_servers(
    one_by_one: SimulatorConfig, seed: int
) -> None:
    """Every wait lies between those of G/G/c with services as they are and a report longer.

    Waits in such a queue only grow with its services. That an instance is empty again is known
    from its next report, a step later at most.
    """
    lives = served(pool_of(one_by_one), poisson(400, SERVERS, seed), ONE_AN_INSTANCE)
    waits = waits_ns(lives)
    least, most = queue_waits_ns(lives, SERVERS), queue_waits_ns(lives, SERVERS, STEP_NS)
    assert sum(least) > 0
    assert all(low <= wait <= high for low, wait, high in zip(least, waits, most, strict=True))


def test_a_late_bound_fleet_waits_as_theory_says(one_by_one: SimulatorConfig) -> None:
    """M/M/c: Erlang's mean wait is within the 95 % interval of eight independent runs.

    Lengths are geometric, the exponential's counterpart in whole steps, whose squared coefficient
    of variation falls short of 1 by 1 / mean: Lee and Longton's factor allows for that. What a
    report may add to a service is allowed for as well. The interval is narrow enough to tell this
    queue from queues of their own, and from services of equal length.
    """
    count = 400
    service_s = MEAN_STEPS * STEP_NS / NS_PER_S
    rate = LOAD * SERVERS / service_s
    means = []
    for seed in range(8):
        lives = served(pool_of(one_by_one), poisson(count, SERVERS, seed), ONE_AN_INSTANCE)
        settled = waits_ns(lives)[count // 10 :]
        means.append(sum(settled) / len(settled) / NS_PER_S)
    found = estimate(means)
    assert found.half_width is not None
    factor = (2 - 1 / MEAN_STEPS) / 2
    least_s = factor * mmc_wait_s(SERVERS, rate, service_s)
    most_s = factor * mmc_wait_s(SERVERS, rate, service_s + STEP_NS / NS_PER_S)
    assert found.mean - found.half_width <= most_s
    assert found.mean + found.half_width >= least_s
    assert found.mean + found.half_width < mmc_wait_s(1, rate / SERVERS, service_s)
    assert found.mean - found.half_width > mmc_wait_s(SERVERS, rate, service_s) / 2
