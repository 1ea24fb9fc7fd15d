"""One run of our simulator in a separate process; prints its cost as a JSON object.

`kernel`: `compiled` and `plain` are the fast fleet with numba and without; `stepped` is the fleet
that makes one event of every engine step.
"""

import dataclasses
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from migration.config import MigrationConfig
from policies.registry import PolicySpec
from policies.scheduler import SchedulerConfig
from simulator.fleet.fleet import SimulatedFleet
from simulator.fleet.options import SimulatorConfig
from simulator.kernel.fleet import FastFleet
from simulator.kernel.state import FATE, FINISHED, OUT, PREEMPTIONS
from simulator.workload.request import TraceRequest
from speed_parts.workload import read_requests

Kernel = Literal["compiled", "plain", "stepped"]


@dataclass(frozen=True, slots=True)
class Spec:
    """What to run: files of the requests and of the preset, the fleet's size, and the policy."""

    kernel: Kernel
    requests: str
    preset: str
    instances: int
    dispatch: str
    migration: bool
    max_num_seqs: int
    token_budget: int
    capacity_tokens: int
    ask_door: bool = False


@dataclass(frozen=True, slots=True)
class Said:
    """The result. Times are CPU time of this process; loading the kernel is in neither."""

    read_s: float
    simulation_s: float
    finished: int
    decode_tokens: int
    preemptions: int
    migrations: int


@dataclass(frozen=True, slots=True)
class FleetTotals:
    """What a fleet reports at its end."""

    finished: int
    decode_tokens: int
    preemptions: int
    migrations: int


def simulated(spec: Spec, requests: Sequence[TraceRequest]) -> FleetTotals:
    """Serve the requests."""
    simulator = SimulatorConfig(
        instances=spec.instances,
        preset=spec.preset,
        max_num_seqs=spec.max_num_seqs,
        token_budget=spec.token_budget,
        queue_limit=len(requests),
        capacity_tokens=spec.capacity_tokens,
    )
    scheduler = SchedulerConfig(dispatch=PolicySpec(spec.dispatch), migration=spec.migration)
    if spec.kernel == "stepped":
        return _stepped(SimulatedFleet(simulator, scheduler, MigrationConfig()), requests)
    fleet = FastFleet(
        simulator,
        scheduler,
        MigrationConfig(),
        compile_it=spec.kernel == "compiled",
        ask_door=spec.ask_door,
    )
    fleet.serve(requests)
    columns = fleet.state.req
    return FleetTotals(
        finished=int(np.count_nonzero(np.asarray(columns[FATE]) == FINISHED)),
        decode_tokens=int(np.sum(columns[OUT])),
        preemptions=int(np.sum(columns[PREEMPTIONS])),
        migrations=_committed(fleet),
    )


def _stepped(fleet: SimulatedFleet, requests: Sequence[TraceRequest]) -> FleetTotals:
    lives = fleet.run(requests)
    return FleetTotals(
        finished=sum(life.finished for life in lives),
        decode_tokens=sum(life.tokens for life in lives),
        preemptions=sum(life.preemptions for life in lives),
        migrations=_committed(fleet),
    )


def _committed(fleet: SimulatedFleet | FastFleet) -> int:
    return sum(event.kind == "committed" for _, event in fleet.moves.log)


def warm_up(spec: Spec) -> None:
    """Serve a few requests so badly placed that some are preempted and some moved.

    This loads (or compiles) all of the kernel before any clock starts.
    """
    requests = [
        TraceRequest(at, 0.02 * at, 100 if at % 4 else 1_500, output_tokens=300)
        for at in range(100)
    ]
    small = dataclasses.replace(
        spec, instances=4, capacity_tokens=4_096, dispatch="round-robin", migration=True
    )
    told = simulated(small, requests)
    assert told.migrations, "nothing was moved: the warm-up warms too little"
    assert told.preemptions, "nothing was preempted: the warm-up warms too little"


def main() -> None:
    spec = Spec(**json.loads(sys.argv[1]))
    warm_up(spec)
    began_s = time.process_time()
    requests = read_requests(Path(spec.requests))
    read_s = time.process_time()
    told = simulated(spec, requests)
    done_s = time.process_time()
    said = Said(read_s - began_s, done_s - read_s, **dataclasses.asdict(told))
    print(json.dumps(dataclasses.asdict(said)))


if __name__ == "__main__":
    main()
