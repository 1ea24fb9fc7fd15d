"""The front door over the columns: what it is asked about changes nothing in what comes of it."""

import dataclasses
from collections.abc import Sequence

import pytest

from migration.config import MigrationConfig
from policies.registry import PolicySpec
from policies.scheduler import SchedulerConfig
from policies.types import PriorityClass
from simulator.fleet.fleet import SimulatedFleet
from simulator.fleet.life import Life, Rejection
from simulator.fleet.options import SimulatorConfig
from simulator.kernel.fleet import FastFleet
from simulator.workload.request import TraceRequest
from tests.simulator.simulated import SMALL, workload

TIGHT = dataclasses.replace(SMALL, capacity_tokens=1200)
SHORT_QUEUE = dataclasses.replace(TIGHT, queue_limit=12)
CLASSES = (PriorityClass("high"), PriorityClass("normal"), PriorityClass("batch"))


def requests(count: int = 250, rate: float = 60.0) -> list[TraceRequest]:
    names = [known.name for known in CLASSES]
    return [
        dataclasses.replace(one, class_name=names[one.index * 7 % 3])
        for one in workload(count, rate, seed=5, prompt=(8, 1400))
    ]


def served(config: SimulatorConfig, policy: str, kernel: str) -> Sequence[Life]:
    scheduler = SchedulerConfig(classes=CLASSES, dispatch=PolicySpec(policy))
    if kernel == "steps":
        return SimulatedFleet(config, scheduler, MigrationConfig()).run(requests())
    fleet = FastFleet(
        config, scheduler, MigrationConfig(), compile_it=False, ask_door=kernel == "asking"
    )
    return fleet.run(requests())


@pytest.mark.parametrize("policy", ["freeness", "load-aware", "power-of-two"])
@pytest.mark.parametrize("config", [TIGHT, SHORT_QUEUE], ids=["tight", "short queue"])
def test_a_door_that_is_asked_about_everything_gives_what_stepping_gives(
    config: SimulatorConfig, policy: str
) -> None:
    walked = [dataclasses.asdict(life) for life in served(config, policy, "steps")]
    for kernel in ("asking", "lined up"):
        assert [dataclasses.asdict(life) for life in served(config, policy, kernel)] == walked


def test_these_fleets_hold_turn_away_and_refuse() -> None:
    """Or the test above would prove little."""
    lives = served(SHORT_QUEUE, "freeness", "lined up")
    why = {life.rejection for life in lives}
    assert why == {None, Rejection.NEVER_FITS, Rejection.QUEUE_FULL}
    waited = [life for life in lives if life.finished and life.dispatched_ns > life.arrived_ns]
    assert len(waited) > 50
