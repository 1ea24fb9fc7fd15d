"""Which fleet in virtual time serves a workload; where several can, their results are equal."""

from collections.abc import Sequence

from migration.config import MigrationConfig
from policies.scheduler import SchedulerConfig
from simulator.fleet.fleet import SimulatedFleet
from simulator.fleet.machines import Machine
from simulator.fleet.options import Outage, SimulatorConfig
from simulator.fleet.scaled_fleet import ScaledFleet
from simulator.kernel.compiled import available, compiled, is_compiled
from simulator.kernel.fleet import FastFleet
from simulator.kernel.scaled_fleet import ScaledFastFleet
from simulator.kernel.setup import refusal

WORTH_LOADING, WORTH_COMPILING = 4_000, 200_000
"""Number of requests above which loading or compiling the kernel pays off."""


ServingFleet = SimulatedFleet | FastFleet


def fleet_for(
    config: SimulatorConfig,
    scheduler: SchedulerConfig,
    migration: MigrationConfig,
    seed: int = 0,
    outages: Sequence[Outage] = (),
    *,
    requests: int,
    can_compile: bool | None = None,
) -> ServingFleet:
    """Make the fleet that serves so many requests soonest, or the one `config.kernel` names.

    Raises ValueError when that one cannot serve this configuration, or must be compiled where numba
    is not installed (`can_compile`; None: check whether it is).
    """
    kernel = config.kernel
    why_not = refusal(config, scheduler)
    if kernel == "steps" or (kernel == "auto" and why_not):
        stepwise = ScaledFleet if config.scaling.on else SimulatedFleet
        walked = stepwise(config, scheduler, migration, seed, outages)
        walked.walked_instead = why_not if kernel == "auto" else None
        return walked
    if why_not:
        raise ValueError(f"kernel {kernel} cannot serve this fleet: {why_not}; leave it to auto")
    if kernel == "compiled" and not (available() if can_compile is None else can_compile):
        raise ValueError("kernel compiled needs numba: pip install llumnix-scheduler[fast]")
    compile_it = kernel == "compiled" or (kernel == "auto" and _pays(requests))
    fast = ScaledFastFleet if config.scaling.on else FastFleet
    return fast(config, scheduler, migration, seed, outages, compile_it=compile_it)


def machines_of(fleet: ServingFleet) -> Sequence[Machine]:
    """List the machines a fleet held: without scaling, all it began with, dead or alive."""
    if isinstance(fleet, ScaledFleet | ScaledFastFleet):
        return fleet.machines
    return [Machine(name) for name in fleet.config.names()]


def _pays(requests: int) -> bool:
    if not available():
        return False
    return requests >= (WORTH_LOADING if is_compiled() else WORTH_COMPILING)


def prepare(config: SimulatorConfig, scheduler: SchedulerConfig, requests: int) -> None:
    """Compile what many simulations, of so many requests in all, will need, if it pays."""
    wanted = config.kernel == "compiled" or (config.kernel == "auto" and _pays(requests))
    if wanted and available() and refusal(config, scheduler) is None:
        compiled()
