"""`llumnix compare`: several policies on the same workloads, with paired confidence intervals."""

import argparse
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from llumnix.errors import ConfigError
from llumnix.flags import group_of
from llumnix.planning import simulate
from llumnix.planning.estimate import Estimate, estimate
from llumnix.planning.idle_seed import refuse_idle_seed
from llumnix.planning.idle_settings import refuse_idle
from llumnix.planning.jobs import Draw, Job, run_all
from llumnix.planning.worker_pools import WorkerPool, add_pool_arguments
from llumnix.results.json_output import write_json
from llumnix.results.result import RunResult

POLICIES = ("round-robin", "load-aware", "freeness")
"""The policies compared by default."""
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
    "instance-seconds": lambda result: result.instance_seconds,
}


def add_arguments(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the `compare` command."""
    parser = commands.add_parser(
        "compare",
        help="simulate several policies on the same workloads",
        description="Simulate each policy on the same workloads, one per seed, and report how it "
        "differs from the first, with 95 % confidence intervals over the seeds. Differences are "
        "taken seed by seed, so that whatever is common to all policies cancels out. Ctrl-C keeps "
        "the seeds that are finished.",
    )
    simulate.add_workload_arguments(parser)
    group_of(parser, "workload").add_argument(
        "--seeds",
        type=int,
        default=5,
        metavar="N",
        help="number of workloads, with random seeds from --seed on (default: 5)",
    )
    group_of(parser, "scheduling").add_argument(
        "--policy",
        action="append",
        metavar="NAME",
        help=f"{simulate.POLICY_HELP}; repeatable (default: {', '.join(POLICIES)})",
    )
    simulate.add_fleet_arguments(parser)
    add_pool_arguments(group_of(parser, "simulation"))
    group_of(parser, "output").add_argument(
        "--json", metavar="FILE", help="write all figures as JSON; - is stdout"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Simulate, print a table of differences, and return the exit status."""
    policies = args.policy or list(POLICIES)
    if args.seeds < 1:
        raise ConfigError(f"--seeds must be 1 or more, not {args.seeds}")
    if len(set(policies)) < len(policies):
        raise ConfigError(f"give each policy once: {', '.join(policies)}")
    places = [(name, seed) for seed in seeds_of(args) for name in policies]
    found = run_all(jobs_of(args, places), WorkerPool.of(args), "comparing")
    done = {place: found[at] for at, place in enumerate(places) if at in found}
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
    """Return the seeds to simulate."""
    return range(args.seed, args.seed + args.seeds)


def jobs_of(args: argparse.Namespace, places: Sequence[tuple[str, int]]) -> list[Job]:
    """Return one simulation per pair of policy and seed."""
    configs = {
        name: simulate.settings_of(argparse.Namespace(**{**vars(args), "policy": name}))
        for name, _ in places
    }
    refuse_idle(args, list(configs.values()))
    if args.seeds > 1 or args.seed:
        flag = "--seeds above 1" if args.seeds > 1 else "--seed"
        source, drawn = args.workload, (args.requests, args.high_share)
        refuse_idle_seed(flag, source, *drawn, configs=list(configs.values()))
    draw = Draw.of(args)
    return [Job(configs[name], dataclasses.replace(draw, seed=seed)) for name, seed in places]


def figures_of(result: RunResult) -> dict[str, float]:
    """Return the figures to compare, without unknown ones."""
    values = {name: take(result) for name, take in FIGURES.items()}
    return {name: float(value) for name, value in values.items() if value is not None}


def differences(
    figures: Mapping[str, Sequence[Mapping[str, float]]],
) -> dict[str, dict[str, Estimate]]:
    """Estimate each policy's difference from the first, by figure."""
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
    """Return the policies side by side: means of the first, differences of the others."""
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
    """Return every figure of every seed, and the estimates derived from them."""
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
