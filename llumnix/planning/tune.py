"""`llumnix tune`: search the scheduler's settings offline, and write the best as YAML."""

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.console import Console

from llumnix.config import merged
from llumnix.errors import ConfigError
from llumnix.flags import group_of
from llumnix.planning import simulate
from llumnix.planning.compare import FIGURES
from llumnix.planning.estimate import Estimate, estimate
from llumnix.planning.idle_seed import refuse_idle_seed
from llumnix.planning.idle_settings import refuse_idle, refuse_idle_keys
from llumnix.planning.jobs import Draw, Job, run_all
from llumnix.planning.worker_pools import WorkerPool, add_pool_arguments
from llumnix.results.result import RunResult
from simulator.streams import stream

OBJECTIVES = {
    name.partition(",")[0].lower().replace(" ", "-"): take
    for name, take in FIGURES.items()
    if name.endswith(", s")
}
DEFAULT_SPACE = (
    "scheduler.rebalance.low_steps=8:128",
    "scheduler.rebalance.high_steps=64:400",
    "scheduler.rebalance.min_gain_steps=0:32",
    "scheduler.dispatch.params.growth_steps=0:128",
)
_DISPATCH = "scheduler.dispatch."
_KEPT = 3
"""One in this many candidates goes on to further seeds."""
_DRAWS = 200


@dataclass(frozen=True, slots=True)
class Range:
    """A setting and its search bounds; only whole numbers if both bounds are whole."""

    key: str
    low: float
    high: float
    whole: bool

    @classmethod
    def parse(cls, text: str) -> "Range":
        """Parse KEY=LOW:HIGH; raises ConfigError."""
        key, _, bounds = text.partition("=")
        low, colon, high = bounds.partition(":")
        try:
            bound = (float(low), float(high))
        except ValueError:
            bound = (0.0, 0.0)
        if not key or not colon or bound[1] <= bound[0]:
            raise ConfigError(f"--param must be KEY=LOW:HIGH with LOW below HIGH, not {text!r}")
        return cls(key, *bound, whole=low.lstrip("-").isdigit() and high.isdigit())

    def draw(self, draws: np.random.Generator) -> float:
        """Draw a value, uniformly."""
        value = float(draws.uniform(self.low, self.high))
        return round(value) if self.whole else round(value, 4)


Settings = Mapping[str, float]
"""A candidate's settings, by key; without any, it is the given configuration."""


def add_arguments(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the `tune` command."""
    parser = commands.add_parser(
        "tune",
        help="search the scheduler's settings, offline",
        description="Draw candidates for some settings, simulate all of them on one workload, the "
        "better third on more workloads, and so on. Compare the best one with the settings as they "
        "were, on workloads that were not searched on, and write it as YAML for `llumnix serve "
        "--config` if it is better. Exit status: 0 if it is, 1 if nothing better was found, 2 if "
        "the search did not start.",
    )
    _add_search(parser)
    simulate.add_workload_arguments(parser)
    simulate.add_policy_argument(parser)
    simulate.add_fleet_arguments(parser)
    add_pool_arguments(group_of(parser, "simulation"))
    group_of(parser, "output").add_argument(
        "--out",
        type=Path,
        default=Path("tuned.yaml"),
        metavar="FILE",
        help="where to write the settings (default: tuned.yaml)",
    )
    parser.set_defaults(run=run)


def _add_search(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("search")
    group.add_argument(
        "--param",
        action="append",
        metavar="KEY=LOW:HIGH",
        help="setting to search, with its bounds; repeatable "
        f"(default: {', '.join(DEFAULT_SPACE)})",
    )
    group.add_argument(
        "--objective",
        choices=sorted(OBJECTIVES),
        default="ttft-p99",
        metavar="FIGURE",
        help=f"figure to minimise: {', '.join(sorted(OBJECTIVES))} (default: ttft-p99)",
    )
    group.add_argument(
        "--candidates",
        type=int,
        default=27,
        metavar="N",
        help="number of candidates, the given settings included (default: 27)",
    )
    group.add_argument(
        "--check-seeds",
        type=int,
        default=5,
        metavar="N",
        help="number of workloads to check the best candidate on (default: 5)",
    )


def run(args: argparse.Namespace) -> int:
    """Search, check, write the YAML, and return the exit status (1: nothing better was found)."""
    space = [Range.parse(text) for text in args.param or DEFAULT_SPACE]
    if args.candidates < 2 or args.check_seeds < 2:
        raise ConfigError("--candidates and --check-seeds must be 2 or more")
    given = [simulate.settings_of(args)]
    refuse_idle(args, given)
    refuse_idle_keys("--param", [each.key for each in space], given)
    refuse_idle_seed("--check-seeds", args.workload, args.requests, args.high_share, given)
    candidates = [{}, *drawn(args, space)]
    best, seeds = search(args, candidates)
    gain = checked(args, best, seeds) if best else None
    better = gain is not None and gain.certain and gain.mean < 0
    settings = best if better else {}
    write_yaml(args.out, merged(args.config, overrides(args, settings)))
    Console().print(_verdict(args, best, gain, better=better), highlight=False, soft_wrap=True)
    return 0 if better else 1


def drawn(args: argparse.Namespace, space: Sequence[Range]) -> list[dict[str, float]]:
    """Draw candidates whose settings fit together; raises ConfigError if hardly any do."""
    draws = stream(args.seed, "tune/candidates")
    found: list[dict[str, float]] = []
    last: ConfigError | None = None
    for _ in range(_DRAWS + 10 * args.candidates):
        if len(found) == args.candidates - 1:
            break
        candidate = {each.key: each.draw(draws) for each in space}
        try:
            settings_of(args, candidate)
        except ConfigError as error:
            last = error
        else:
            found.append(candidate)
    if not found and last is not None:
        raise last
    return found


def search(args: argparse.Namespace, candidates: Sequence[Settings]) -> tuple[Settings, int]:
    """Search by successive halving; return the best candidate and the number of seeds used."""
    scores: dict[int, list[float]] = {at: [] for at in range(len(candidates))}
    alive, seeds, due = list(scores), 0, 1
    while True:
        places = [(at, args.seed + seeds + more) for at in alive for more in range(due)]
        for (at, _), value in zip(places, run_places(args, candidates, places), strict=True):
            scores[at].append(value)
        seeds, due = seeds + due, due * 2
        alive.sort(key=lambda at: (float(np.mean(scores[at])), at))
        if len(alive) <= _KEPT:
            return candidates[alive[0]], seeds
        alive = alive[: max(1, len(alive) // _KEPT)]


def run_places(
    args: argparse.Namespace, candidates: Sequence[Settings], places: Sequence[tuple[int, int]]
) -> list[float]:
    """Simulate candidates on workloads; return the objective of each."""
    configs = {at: settings_of(args, candidates[at]) for at, _ in places}
    draw = Draw.of(args)
    jobs = [Job(configs[at], dataclasses.replace(draw, seed=seed)) for at, seed in places]
    found = run_all(jobs, WorkerPool.of(args), "tuning")
    if len(found) < len(jobs):
        raise KeyboardInterrupt
    return [objective_of(args, found[at]) for at in range(len(jobs))]


def checked(args: argparse.Namespace, best: Settings, seeds_seen: int) -> Estimate:
    """Estimate how tuning changes the objective, on seeds that the search did not use."""
    first = args.seed + seeds_seen
    seeds = range(first, first + args.check_seeds)
    places = [(at, seed) for seed in seeds for at in (0, 1)]
    values = run_places(args, [{}, best], places)
    return estimate(
        [after - before for before, after in zip(values[::2], values[1::2], strict=True)]
    )


def objective_of(args: argparse.Namespace, result: RunResult) -> float:
    """Return the objective of a result; infinite if nothing finished."""
    value = OBJECTIVES[args.objective](result)
    return float("inf") if value is None else float(value)


def settings_of(args: argparse.Namespace, settings: Settings) -> Any:
    """Return the configuration of a candidate; raises ConfigError if it is inconsistent."""
    changed = {**vars(args), "set": overrides(args, settings)}
    return simulate.settings_of(argparse.Namespace(**changed))


def overrides(args: argparse.Namespace, settings: Settings) -> list[str]:
    """Return a candidate's settings as arguments of `--set`, after those given."""
    changes = [f"{key}={value}" for key, value in settings.items()]
    if any(key.startswith(_DISPATCH) for key in settings):  # parameters need their policy's name
        name = simulate.settings_of(args).scheduler.dispatch.name
        changes.insert(0, f"{_DISPATCH}name={name}")
    return [*args.set, *changes]


def write_yaml(path: Path, data: Mapping[str, Any]) -> None:
    """Write a configuration; raises ConfigError."""
    try:
        path.write_text(yaml.safe_dump(dict(data), sort_keys=False), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error


def _verdict(
    args: argparse.Namespace, best: Settings, gain: Estimate | None, *, better: bool
) -> str:
    if gain is None:
        return f"no candidate beats the given settings; {args.out} keeps them"
    lines = [f"  {key}: {value:g}" for key, value in best.items()]
    text = f"{args.objective} changes by {gain} on {args.check_seeds} workloads not searched on"
    end = (
        f"written to {args.out}" if better else f"not certain; {args.out} keeps the given settings"
    )
    return "\n".join(["best candidate:", *lines, text, end])
