"""Small simulated fleets for tests."""

import dataclasses
from collections.abc import Sequence

from migration.config import MigrationConfig
from policies.registry import PolicySpec
from policies.scheduler import SchedulerConfig
from policies.types import PriorityClass
from simulator.fleet.fleet import SimulatedFleet
from simulator.fleet.life import Life
from simulator.fleet.options import Outage, SimulatorConfig
from simulator.streams import stream
from simulator.workload.request import TraceRequest

SMALL = SimulatorConfig(instances=4, preset="toy", max_num_seqs=16, token_budget=64)


def workload(
    count: int,
    rate: float,
    seed: int = 0,
    prompt: tuple[int, int] = (8, 300),
    output: tuple[int, int] = (1, 300),
) -> list[TraceRequest]:
    """Draw requests: Poisson arrivals, even lengths."""
    draws = stream(seed, "tests/workload")
    at_s = draws.exponential(1 / rate, count).cumsum()
    return [
        TraceRequest(
            index,
            float(at_s[index]),
            int(draws.integers(prompt[0], prompt[1] + 1)),
            int(draws.integers(output[0], output[1] + 1)),
        )
        for index in range(count)
    ]


def make_fleet(
    config: SimulatorConfig = SMALL,
    *,
    policy: str = "freeness",
    migration: bool = True,
    outages: Sequence[Outage] = (),
    classes: tuple[PriorityClass, ...] = (PriorityClass("high"), PriorityClass("normal")),
) -> SimulatedFleet:
    """Make a fleet ready for one run."""
    scheduler = SchedulerConfig(classes=classes, dispatch=PolicySpec(policy), migration=migration)
    moving = dataclasses.replace(MigrationConfig(), cooldown_s=0.1)
    return SimulatedFleet(config, scheduler, moving, outages=outages)


def simulate(
    requests: Sequence[TraceRequest], config: SimulatorConfig = SMALL, **options: object
) -> tuple[SimulatedFleet, list[Life]]:
    """Run one."""
    fleet = make_fleet(config, **options)  # type: ignore[arg-type]
    return fleet, fleet.run(requests)
