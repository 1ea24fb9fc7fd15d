"""Refuse options of `llumnix workload` that have no effect on its sources."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from llumnix.errors import ConfigError
from llumnix.planning.idle_seed import is_trace, refuse_idle_seed
from llumnix.workloads import find_workload


def refuse_idle_options(args: argparse.Namespace) -> None:
    """Raise ConfigError for an option of a verb that affects none of its sources."""
    sources = sources_of(args)
    of_a_profile = getattr(args, "duration_s", None) is not None
    if args.format is not None and (of_a_profile or not any(map(_is_file, sources))):
        raise ConfigError(f"--format has no effect: {_listed(sources)} is not read as a trace file")
    if args.skip_bad_rows and (of_a_profile or not any(map(_has_rows, sources))):
        raise ConfigError(f"--skip-bad-rows has no effect: {_listed(sources)} has no rows")
    if getattr(args, "seed", 0) and all(map(is_trace, sources)):
        share = getattr(args, "high_share", 0.0)
        refuse_idle_seed("--seed", sources[0], getattr(args, "requests", None), share)


def sources_of(args: argparse.Namespace) -> list[str | Path]:
    """Return the sources that a verb reads."""
    if "workloads" in args:
        return list(args.workloads)
    return [args.trace if "trace" in args else args.workload]


def _is_file(source: str | Path) -> bool:
    found = find_workload(source)
    return isinstance(found, Path) and found.is_file()


def _has_rows(source: str | Path) -> bool:
    found = find_workload(source)
    return isinstance(found, Path) and (found.is_dir() or is_trace(source))


def _listed(sources: Sequence[str | Path]) -> str:
    return ", ".join(map(str, sources))
