"""`llumnix compare`: several policies on the same workloads, with paired confidence intervals."""

import argparse
import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from llumnix import simulate
from llumnix.config import Config
from llumnix.errors import ConfigError
from llumnix.intervals import Estimate, estimate
from llumnix.json_output import write_json
from llumnix.results import RunResult
from llumnix.run_progress import RunProgress
from llumnix.simulated import result_of
from llumnix.workload import load_workload
from policies.registry import PolicyError
from simulator.cluster.fleet import SimulatedFleet

FIGURES: Mapping[str, Callable[[RunResult], float | None]] = {
    "TTFT mean, s": lambda result: result.ttft_s.mean,
    "TTFT p99, s": lambda result: result.ttft_s.p99,
    "TPOT mean, s": lambda result: result.tpot_s.mean,
    "TPOT p99, s": lambda result: result.tpot_s.p99,
    "E2E mean, s": lambda result: result.e2e_s.mean,
    "E2E p99, s": lambda result: result.e2e_s.p99,
    "preemptions": lambda result: result.preemptions,
    "migrations": lambda result: result.migrations_committed,
    "rejected": lambda result: result.rejected,
}


@dataclass(frozen=True, slots=True)
class Job:
    """One simulation: a policy on the workload drawn with a seed."""

    policy: str
    seed: int
    config: Config
    source: str
    requests: int | None
    rate: float | None
    high_share: float


def add_arguments(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the `compare` command."""
    parser = commands.add_parser(
        "compare",
        help="simulate several policies on the same workloads",
        description="Simulate each policy on the same workloads, one a seed, and say how they "
        "differ from the first, with 95 % confidence intervals over the seeds: differences are "
        "taken seed by seed, so that what is common to all cancels out. Ctrl-C keeps the seeds "
        "that are finished.",
    )
    simulate.add_workload_arguments(parser)
    parser.add_argument(
        "--policy",
        action="append",
        metavar="NAME",
        help="as for `simulate`; repeatable (default: round-robin, load-aware, freeness)",
    )
    parser.add_argument(
        "--seeds", type=int, default=5, metavar="N", help="workloads, from --seed on (default 5)"
    )
    parser.add_argument(
        "--jobs",
        type=int,
        default=os.cpu_count() or 1,
        metavar="N",
        help="simulations at a time (default: one a core)",
    )
    simulate.add_fleet_arguments(parser)
    parser.add_argument("--json", metavar="FILE", help="write all figures as JSON; - is stdout")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Simulate, print a table of differences, and return the exit status."""
    policies = args.policy or ["round-robin", "load-aware", "freeness"]
    if args.seeds < 1 or args.jobs < 1:
        raise ConfigError("--seeds and --jobs must be 1 or more")
    if len(set(policies)) < len(policies):
        raise ConfigError(f"each policy once, please: {', '.join(policies)}")
    done = run_all(jobs_of(args, policies), args.jobs)
    seeds = [seed for seed in seeds_of(args) if all((name, seed) in done for name in policies)]
    if not seeds:
        return 130
    if len(seeds) < args.seeds:
        text = f"interrupted: {len(seeds)} of {args.seeds} seeds are finished"
        Console(stderr=True).print(text)
    figures = {name: [figures_of(done[name, seed]) for seed in seeds] for name in policies}
    if args.json != "-":
        Console().print(table(figures))
    write_json(args.json, {"seeds": seeds, "policies": as_json(figures)})
    return 0 if len(seeds) == args.seeds else 130


def seeds_of(args: argparse.Namespace) -> range:
    """List the seeds asked for."""
    return range(args.seed, args.seed + args.seeds)


def jobs_of(args: argparse.Namespace, policies: Sequence[str]) -> list[Job]:
    """List the simulations, the first seed of every policy first."""
    configs = {}
    for name in policies:
        configs[name] = simulate.settings_of(argparse.Namespace(**{**vars(args), "policy": name}))
    return [
        Job(name, seed, configs[name], args.workload, args.requests, args.rate, args.high_share)
        for seed in seeds_of(args)
        for name in policies
    ]


def run_all(jobs: Sequence[Job], processes: int) -> dict[tuple[str, int], RunResult]:
    """Run them side by side; after Ctrl-C, give what is finished."""
    done: dict[tuple[str, int], RunResult] = {}
    run_one(dataclasses.replace(jobs[0], requests=1))  # what is wrong is said before all begins
    pool = ProcessPoolExecutor(min(processes, len(jobs)))
    try:
        with RunProgress("comparing") as progress:
            waiting = {pool.submit(run_one, job): job for job in jobs}
            for future in as_completed(waiting):
                job = waiting[future]
                done[job.policy, job.seed] = future.result()
                left = len(jobs) - len(done)
                progress(len(done), len(jobs), min(processes, left))
    except KeyboardInterrupt:
        pass
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
    return done


def run_one(job: Job) -> RunResult:
    """Run one simulation; in a process of its own. Raises ConfigError."""
    requests = load_workload(job.source, job.requests, job.rate, job.seed, job.high_share)
    config = job.config
    try:
        fleet = SimulatedFleet(config.simulator, config.scheduler, config.migration, seed=job.seed)
        lives = fleet.run(requests)
    except (PolicyError, ValueError) as error:
        raise ConfigError(str(error)) from error
    return result_of(fleet, lives, policy=job.policy, seed=job.seed)


def figures_of(result: RunResult) -> dict[str, float]:
    """Take the figures compared; what is unknown is left out."""
    values = {name: take(result) for name, take in FIGURES.items()}
    return {name: float(value) for name, value in values.items() if value is not None}


def differences(
    figures: Mapping[str, Sequence[Mapping[str, float]]],
) -> dict[str, dict[str, Estimate]]:
    """Estimate, by policy and figure, how much more it is than with the first policy."""
    first = next(iter(figures))
    return {
        name: {
            what: estimate(
                [one[what] - other[what] for one, other in zip(runs, figures[first], strict=True)]
            )
            for what in FIGURES
            if all(what in one for one in (*runs, *figures[first]))
        }
        for name, runs in figures.items()
        if name != first
    }


def table(figures: Mapping[str, Sequence[Mapping[str, float]]]) -> Table:
    """Lay the policies side by side: the first one's means, and the others' differences."""
    first, *others = figures
    found = differences(figures)
    seeds = len(figures[first])
    shown = Table(
        caption=f"{seeds} workload{'s' if seeds > 1 else ''}; differences with their 95 % "
        "intervals, n.s. where these contain 0",
        caption_justify="left",
        show_edge=False,
        pad_edge=False,
    )
    shown.add_column("")
    shown.add_column(first, justify="right", no_wrap=True)
    for name in others:
        shown.add_column(f"{name} - {first}", justify="right")
    for what in FIGURES:
        if not all(what in one for one in figures[first]):
            continue
        mean = estimate([one[what] for one in figures[first]]).mean
        cells = [str(found[name][what]) if what in found[name] else "-" for name in others]
        shown.add_row(what, f"{mean:.4g}", *cells)
    return shown


def as_json(figures: Mapping[str, Sequence[Mapping[str, float]]]) -> dict[str, Any]:
    """Give every figure of every seed, and what was estimated from them."""
    found = differences(figures)
    return {
        name: {
            "runs": [dict(one) for one in runs],
            "difference_from_first": {
                what: dataclasses.asdict(value) for what, value in found.get(name, {}).items()
            },
        }
        for name, runs in figures.items()
    }
