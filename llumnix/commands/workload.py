"""`llumnix workload`: summarise traces, generate workloads, inspect and change them."""

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from llumnix.commands import workload_edits
from llumnix.errors import ConfigError
from llumnix.planning.idle_options import refuse_idle_options
from llumnix.workloads import (
    SOURCE_HELP,
    add_drawing,
    add_reading,
    find_profile,
    find_workload,
    load_workload,
)
from simulator.workload import profiled
from simulator.workload.arrivals import gap_cv
from simulator.workload.formats.llumnix import dump
from simulator.workload.lengths import rank_correlation
from simulator.workload.load import is_profile
from simulator.workload.profile import Origin, measure, read_profile, to_json
from simulator.workload.readers import read_trace
from simulator.workload.request import TraceRequest, WorkloadError
from simulator.workload.rows import BadRows
from simulator.workload.transforms import mean_rate_rps, with_high_class


def describe(requests: Sequence[TraceRequest]) -> list[tuple[str, str]]:
    """Summarise a workload as rows of a table: name and value."""
    prompts = np.array([request.prompt_tokens for request in requests])
    outputs = np.array([request.output_tokens for request in requests])
    times_s = np.array([request.arrival_s for request in requests])
    rows = [
        ("requests", f"{len(requests):,}"),
        ("span", f"{times_s[-1] - times_s[0]:,.1f} s"),
        ("mean rate", f"{mean_rate_rps(requests):.3f} requests/s"),
        ("CV of the gaps", f"{gap_cv(times_s):.2f}  (1: Poisson)"),
    ]
    for name, lengths in (("prompt tokens", prompts), ("output tokens", outputs)):
        p50, p99 = np.quantile(lengths, [0.5, 0.99])
        text = f"mean {lengths.mean():,.1f}  p50 {p50:,.0f}  p99 {p99:,.0f}  max {lengths.max():,}"
        rows.append((name, text))
    rows.append(("rank correlation", f"{rank_correlation(prompts, outputs):+.3f}"))
    for name in sorted({request.class_name for request in requests}):
        share = sum(request.class_name == name for request in requests) / len(requests)
        rows.append((f"class {name}", f"{share:.1%}"))
    return rows


def add_arguments(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the `workload` command and its verbs."""
    parser = commands.add_parser(
        "workload",
        help="summarise, generate, inspect, convert, scale, slice and merge workloads",
        description="Summarise a trace as a small profile, generate workloads like it, inspect "
        "both; convert, scale, slice and merge workloads from any source.",
    )
    verbs = parser.add_subparsers(title="verbs", metavar="VERB", dest="verb", required=True)
    _add_profile(verbs)
    _add_generate(verbs)
    inspect = verbs.add_parser(
        "inspect",
        help="print rate, burstiness and lengths of a workload",
        description="Print how many requests a workload has, how fast and how evenly they arrive, "
        "and how long their prompts and outputs are.",
    )
    inspect.add_argument("workload", metavar="WORKLOAD", help=SOURCE_HELP)
    _add_drawing(inspect)
    inspect.set_defaults(act=_inspect)
    workload_edits.add_verbs(verbs)
    for verb in verbs.choices.values():
        verb.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run one verb; results go to stdout, the count of skipped rows to stderr."""
    refuse_idle_options(args)
    args.bad_rows = BadRows() if args.skip_bad_rows else None
    try:
        lines = args.act(args)
    except WorkloadError as error:
        raise ConfigError(str(error)) from error
    if args.bad_rows is not None:
        first = f"; the first: {args.bad_rows.first}" if args.bad_rows.first else ""
        sys.stderr.write(f"llumnix workload: skipped {args.bad_rows.count:,} bad rows{first}\n")
    sys.stdout.writelines(lines)
    return 0


def _add_profile(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = verbs.add_parser(
        "profile",
        help="summarise a trace as a profile (JSON on stdout)",
        description="Summarise a trace: rate over time, burstiness, quantiles and correlation of "
        "lengths. The profile holds no request of the trace; any number of similar requests can "
        "be generated from it.",
    )
    parser.add_argument(
        "trace", type=Path, metavar="TRACE", help="a trace file, plain or .gz, or a ServeGen folder"
    )
    add_reading(parser)
    origin = parser.add_argument_group("written into the profile")
    origin.add_argument("--name", help="name of the profile (default: that of the file)")
    origin.add_argument(
        "--source", default="", metavar="TEXT", help="where the trace is published (default: empty)"
    )
    origin.add_argument(
        "--licence", default="", metavar="TEXT", help="licence of the trace (default: empty)"
    )
    origin.add_argument(
        "--attribution",
        default="",
        metavar="TEXT",
        help="the credit its licence asks for (default: empty)",
    )
    parser.set_defaults(act=_profile)


def _add_generate(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = verbs.add_parser(
        "generate",
        help="generate a trace (JSON lines on stdout)",
        description="Generate a trace from a profile or a generator. Equal arguments give equal "
        "bytes.",
    )
    parser.add_argument("workload", metavar="PROFILE", help=SOURCE_HELP)
    _add_drawing(parser)
    parser.add_argument(
        "--duration-s", type=float, metavar="S", help="generate this long, instead of --requests"
    )
    parser.set_defaults(act=_generate)


def _add_drawing(parser: argparse.ArgumentParser) -> None:
    add_drawing(parser)
    add_reading(parser)


def _profile(args: argparse.Namespace) -> list[str]:
    if args.trace.is_dir():
        requests = load_workload(args.trace, bad_rows=args.bad_rows)
    else:
        requests = read_trace(args.trace, args.format, args.bad_rows)
    name = args.name or args.trace.name.split(".")[0]
    return [to_json(measure(requests, Origin(name, args.source, args.licence, args.attribution)))]


def _generate(args: argparse.Namespace) -> list[str]:
    if args.duration_s is None:
        return list(dump(_loaded(args)))
    requests = profiled.generate(
        find_profile(args.workload),
        requests=args.requests,
        duration_s=args.duration_s,
        seed=args.seed,
        rate=args.rate,
    )
    return list(dump(with_high_class(requests, args.high_share, args.seed)))


def _inspect(args: argparse.Namespace) -> list[str]:
    rows = describe(_loaded(args))
    source = find_workload(args.workload)
    if isinstance(source, Path) and is_profile(source):
        origin = dataclasses.asdict(read_profile(source).origin)
        rows = [(key, str(value)) for key, value in origin.items() if value] + rows
    return [f"{what:<18} {value}\n" for what, value in rows]


def _loaded(args: argparse.Namespace) -> list[TraceRequest]:
    return load_workload(
        args.workload,
        args.requests,
        args.rate,
        args.seed,
        args.high_share,
        format_name=args.format,
        bad_rows=args.bad_rows,
    )
