"""`llumnix sweep`: a grid of configurations, or the highest rate a fleet serves within its SLOs."""

import argparse
import csv
import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from llumnix.config import Config
from llumnix.errors import ConfigError
from llumnix.flags import add_slo, group_of, slo_of
from llumnix.planning import simulate
from llumnix.planning.compare import FIGURES
from llumnix.planning.idle_seed import refuse_idle_seed
from llumnix.planning.idle_settings import refuse_idle, refuse_idle_keys, refuse_varied
from llumnix.planning.jobs import Draw, Job, run_all, run_one, spread
from llumnix.planning.worker_pools import WorkerPool, add_pool_arguments
from llumnix.results.json_output import write_json
from llumnix.results.result import RunResult, Slo

OF_THE_WORKLOAD = ("rate", "seed", "requests", "high_share")
GOOD_SHARE = 0.9
"""A rate is served if this share of requests meets both SLOs (docs/glossary.md, capacity)."""
_CLOSE = 0.02
_HIDDEN = ("TTFT mean, s", "TPOT mean, s", "E2E p99, s", "rejected", "instance-seconds")
"""Columns only in files: a terminal is 80 characters wide."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One dimension of a grid: a setting, `policy`, or a property of the workload."""

    key: str
    values: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> "Axis":
        """Parse KEY=VALUE,VALUE,… ; raises ConfigError."""
        key, equals, listed = text.partition("=")
        values = tuple(filter(None, listed.split(",")))
        if not key or not equals or not values:
            raise ConfigError(f"--vary must be KEY=VALUE,VALUE,…, not {text!r}")
        if len(set(values)) < len(values):
            raise ConfigError(f"--vary {key}: give each value once")
        return cls(key, values)


def add_arguments(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the `sweep` command."""
    parser = commands.add_parser(
        "sweep",
        help="simulate a grid of configurations",
        description="Simulate every combination of the values given, all on the same workload, "
        "and print one row for each. With --capacity, find for each combination the highest rate "
        f"at which {GOOD_SHARE:.0%} of the requests meet both SLOs. Ctrl-C keeps what is finished.",
    )
    grid = parser.add_argument_group("grid")
    grid.add_argument(
        "--vary",
        action="append",
        default=[],
        metavar="KEY=VALUE,…",
        help="values to try for `policy`, `rate`, `seed`, `requests`, `high_share` or any key of "
        "`llumnix config`, such as scheduler.rebalance.low_steps=32,64; repeatable",
    )
    grid.add_argument(
        "--capacity",
        action="store_true",
        help="find the highest rate within the SLOs (needs --slo-ttft-s or --slo-tpot-s)",
    )
    add_slo(parser)
    simulate.add_workload_arguments(parser)
    simulate.add_policy_argument(parser)
    simulate.add_fleet_arguments(parser)
    add_pool_arguments(group_of(parser, "simulation"))
    output = group_of(parser, "output")
    output.add_argument("--json", metavar="FILE", help="write all rows as JSON; - is stdout")
    output.add_argument("--csv", type=Path, metavar="FILE", help="write all rows as CSV")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Simulate, print and write one row per combination, and return the exit status."""
    axes = [Axis.parse(text) for text in args.vary]
    slo = slo_of(args)
    if args.capacity and slo is None:
        raise ConfigError("--capacity needs --slo-ttft-s or --slo-tpot-s")
    if args.capacity and any(axis.key == "rate" for axis in axes):
        raise ConfigError("--capacity finds the rate: it cannot be varied as well")
    points = list(combinations(axes))
    jobs = [job_of(args, point, slo) for point in points]
    refuse_what_is_idle(args, [axis.key for axis in axes], [job.config for job in jobs])
    rows = (capacity_rows if args.capacity else grid_rows)(points, jobs, WorkerPool.of(args))
    if args.json != "-":
        Console().print(table(rows))
    write_json(args.json, rows)
    if args.csv is not None:
        write_csv(args.csv, rows)
    return 0 if len(rows) == len(points) else 130


def refuse_what_is_idle(
    args: argparse.Namespace, varied: Sequence[str], configs: Sequence[Config]
) -> None:
    """Raise ConfigError for a setting given or varied that changes no combination."""
    refuse_varied(args, varied)
    refuse_idle(args, configs)
    refuse_idle_keys("--vary", varied, configs)
    drawn = {"requests", "high_share"} & set(varied)
    if not drawn and (args.seed or "seed" in varied):
        flag = "--seed" if args.seed else "--vary seed"
        refuse_idle_seed(flag, args.workload, args.requests, args.high_share, configs)


def combinations(axes: Sequence[Axis]) -> Iterator[dict[str, str]]:
    """Return every combination of values, the last axis changing fastest."""
    for values in itertools.product(*(axis.values for axis in axes)):
        yield dict(zip((axis.key for axis in axes), values, strict=True))


def job_of(args: argparse.Namespace, point: Mapping[str, str], slo: Slo | None) -> Job:
    """Return the simulation of one combination; raises ConfigError."""
    settings = [f"{k}={v}" for k, v in point.items() if k not in (*OF_THE_WORKLOAD, "policy")]
    prefix = "simulator."
    flags = {key.removeprefix(prefix): None for key in point if key.startswith(prefix)}
    chosen = argparse.Namespace(
        **{
            **vars(args),
            **flags,  # a flag would win over what is varied
            "set": [*args.set, *settings],
            "policy": point.get("policy", args.policy),
        }
    )
    config: Config = simulate.settings_of(chosen)
    draw = dataclasses.replace(Draw.of(args), **_drawn(point))
    return Job(config, draw, slo)


def _drawn(point: Mapping[str, str]) -> dict[str, Any]:
    kinds = {"rate": float, "high_share": float, "seed": int, "requests": int}
    values = {}
    for key, kind in kinds.items():
        if key in point:
            try:
                values[key] = kind(point[key])
            except ValueError:
                raise ConfigError(f"--vary {key}: {point[key]!r} is not a number") from None
    return values


def grid_rows(
    points: Sequence[Mapping[str, str]], jobs: Sequence[Job], pool: WorkerPool
) -> list[dict[str, Any]]:
    """Simulate all combinations; return the rows of those that finished, in order."""
    found = run_all(jobs, pool, "sweeping")
    return [{**points[at], **row_of(found[at])} for at in sorted(found)]


def row_of(result: RunResult) -> dict[str, Any]:
    """Return the figures of a row."""
    row: dict[str, Any] = {name: take(result) for name, take in FIGURES.items()}
    if result.goodput is not None:
        row["good share"] = result.goodput.share
    return row


def capacity_rows(
    points: Sequence[Mapping[str, str]], jobs: Sequence[Job], pool: WorkerPool
) -> list[dict[str, Any]]:
    """Find the highest rate of each combination, one search per task."""
    found = spread(highest_rate, jobs, pool, "searching")
    return [{**points[at], "capacity, requests/s": round(found[at], 4)} for at in sorted(found)]


def highest_rate(job: Job, most: int = 40) -> float:
    """Bisect on the rate, to within two per cent; 0 if not even a very low one is served."""
    low, high = 0.0, job.draw.rate or 1.0
    for _ in range(most):
        if served(job, high):
            low, high = high, 2 * high
        elif low:
            break
        elif high < 1e-3:
            return 0.0
        else:
            high /= 2
    while high - low > _CLOSE * low:
        middle = (low + high) / 2
        low, high = (middle, high) if served(job, middle) else (low, middle)
    return low


def served(job: Job, rate: float) -> bool:
    """Return whether enough requests meet the SLOs at a rate."""
    result = run_one(dataclasses.replace(job, draw=dataclasses.replace(job.draw, rate=rate)))
    return result.goodput is not None and result.goodput.share >= GOOD_SHARE


def table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """Return a table of the main figures, one row per combination."""
    shown = Table(show_edge=False, pad_edge=False)
    columns = [name for name in (rows[0] if rows else ()) if name not in _HIDDEN]
    for name in columns:
        shown.add_column(name.rpartition(".")[2].replace(", ", ",\n"), justify="right")
    for row in rows:
        cells = [row[name] for name in columns]
        shown.add_row(*(f"{v:.4g}" if isinstance(v, float) else str(v) for v in cells))
    return shown


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write all rows; raises ConfigError."""
    try:
        with path.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]) if rows else [])
            writer.writeheader()
            writer.writerows(rows)
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error
