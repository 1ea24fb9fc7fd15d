"""A fleet and what it serves, for the kernels to agree about."""

import dataclasses
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

from migration.config import MigrationConfig
from policies.scheduler import SchedulerConfig
from policies.types import PriorityClass
from simulator.costs.gpus import gpu_named
from simulator.costs.model_shape import read_shape
from simulator.costs.presets import PRESETS
from simulator.costs.roofline import roofline
from simulator.costs.roofline_options import RooflineOptions
from simulator.fleet.fleet import SimulatedFleet
from simulator.fleet.life import Life
from simulator.fleet.options import Outage, SimulatorConfig
from simulator.fleet.scaled_fleet import ScaledFleet
from simulator.fleets import machines_of
from simulator.kernel.fleet import FastFleet
from simulator.kernel.scaled_fleet import ScaledFastFleet
from simulator.workload.request import TraceRequest
from tests.simulator.kernel.test_runs import LLAMA_8B, TABLE

ROOFLINE, MIXTURE, MEASURED = "test-roofline", "test-mixture", "test-table"
Fast = TypeVar("Fast", bound=FastFleet)
CLASSES = (PriorityClass("high", headroom_tokens=600), PriorityClass("normal"))


@contextmanager
def presets_for_cases() -> Iterator[None]:
    """Have presets of rooflines, slowed down to the speed of the others, and of a table."""
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
        return told(self.fleet(made, compile_it=compile_it), self.requests)

    def fleet(self, made: type[Fast], *, compile_it: bool = False) -> Fast:
        """Make the fleet that skips, of a kind that scales if this one is to."""
        arguments = (self.config, self.scheduler, self.migration, self.seed, self.outages)
        return made(*arguments, compile_it=compile_it)


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
