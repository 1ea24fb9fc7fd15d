"""Many simulations: described, distributed over processes, and collected as they finish."""

import argparse
from collections.abc import Callable, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeVar

from llumnix.config import Config
from llumnix.errors import ConfigError
from llumnix.planning.outcome import result_of
from llumnix.planning.worker_pools import WorkerPool
from llumnix.results.progress import RunProgress
from llumnix.results.result import RunResult, Slo
from llumnix.workloads import load_workload
from policies.registry import PolicyError
from simulator.fleets import fleet_for, prepare
from simulator.workload.request import TraceRequest

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Draw:
    """A workload: what to draw, and by which seed. Equal draws give equal requests."""

    source: str
    requests: int | None
    rate: float | None
    high_share: float
    seed: int

    @classmethod
    def of(cls, args: argparse.Namespace) -> "Draw":
        """Read it from a command line (`simulate.add_workload_arguments`)."""
        return cls(args.workload, args.requests, args.rate, args.high_share, args.seed)


@dataclass(frozen=True, slots=True)
class Job:
    """One simulation: a fleet, a workload, and the SLO that judges it."""

    config: Config
    draw: Draw
    slo: Slo | None = None


def run_all(jobs: Sequence[Job], pool: WorkerPool, label: str) -> dict[int, RunResult]:
    """Run jobs in parallel; return results by position. After Ctrl-C: those that are finished.

    Raises ConfigError for a job that cannot run, before any long work begins.
    """
    return spread(run_one, jobs, pool, label)


def spread(
    work: Callable[[Job], T], jobs: Sequence[Job], pool: WorkerPool, label: str
) -> dict[int, T]:
    """Apply a function to each item, in parallel as `run_all` does."""
    prepare_all(jobs)
    for config in {id(job.config): job for job in jobs}.values():
        run_one(replace(config, draw=replace(config.draw, requests=1, rate=None)))
    done: dict[int, T] = {}
    executor, width = pool.open(len(jobs))
    try:
        with RunProgress(label) as progress:
            waiting = {executor.submit(work, job): at for at, job in enumerate(jobs)}
            for future in as_completed(waiting):
                done[waiting[future]] = future.result()
                progress(len(done), len(jobs), min(width, len(jobs) - len(done)))
    except KeyboardInterrupt:
        pass
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
    return done


def prepare_all(jobs: Sequence[Job]) -> None:
    """Compile before starting processes that would all do so, if there is enough work."""
    sizes = {job.draw.source: job for job in jobs if job.draw.requests is None}
    whole = {source: len(drawn(job.draw)) for source, job in sizes.items()}
    requests = sum(job.draw.requests or whole[job.draw.source] for job in jobs)
    for first in {job.config.simulator.kernel: job for job in jobs}.values():
        prepare(first.config.simulator, first.config.scheduler, requests)


@lru_cache(maxsize=4)
def drawn(draw: Draw) -> Sequence[TraceRequest]:
    """Load or draw a workload; the last few are cached, for jobs that differ in their fleets."""
    return load_workload(draw.source, draw.requests, draw.rate, draw.seed, draw.high_share)


def run_one(job: Job) -> RunResult:
    """Run one simulation, in this process. Raises ConfigError."""
    draw, config = job.draw, job.config
    requests = drawn(draw)
    try:
        fleet = fleet_for(
            config.simulator,
            config.scheduler,
            config.migration,
            draw.seed,
            requests=len(requests),
        )
        lives = fleet.run(requests)
    except (PolicyError, ValueError) as error:
        raise ConfigError(str(error)) from error
    name = config.scheduler.dispatch.name
    return result_of(fleet, lives, policy=name, seed=draw.seed, slo=job.slo)
