"""`llumnix workload convert`, `scale`, `slice` and `merge`: make workloads from workloads.

Each takes any source, lets it begin at 0, and writes a trace in our own format.
"""

import argparse
import math

from llumnix.workloads import SOURCE_HELP, add_reading, add_seed, load_workload
from simulator.workload.formats.llumnix import dump
from simulator.workload.request import TraceRequest
from simulator.workload.transforms import (
    at_rate,
    between_s,
    from_zero,
    merged,
    numbered,
    with_lengths,
)


def add_verbs(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the four verbs; each sets `act`, which returns the lines of a trace."""
    convert = verbs.add_parser(
        "convert",
        help="write a workload in our own format (JSON lines on stdout)",
        description="Write a workload from any source in our own format. Reading it back gives the "
        "same requests. Equal arguments give equal bytes.",
    )
    _add_source(convert)
    convert.set_defaults(act=lambda args: list(dump(_loaded(args))))
    _add_scale(verbs)
    _add_slice(verbs)
    merge = verbs.add_parser(
        "merge",
        help="merge workloads into one by arrival (JSON lines on stdout)",
        description="Merge workloads into one by arrival: each begins at 0, and no request is "
        "lost. Workloads that are generated get different seeds: SEED for the first workload, "
        "SEED+1 for the second, and so on.",
    )
    merge.add_argument("workloads", nargs="+", metavar="WORKLOAD", help=SOURCE_HELP)
    add_seed(merge)
    add_reading(merge)
    merge.set_defaults(act=_merge)


def _add_scale(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = verbs.add_parser(
        "scale",
        help="change a workload's rate or lengths (JSON lines on stdout)",
        description="Change the mean rate of a workload, stretching all gaps by one factor, or its "
        "lengths, which are rounded to whole tokens.",
    )
    _add_source(parser)
    parser.add_argument(
        "--rate",
        type=float,
        metavar="RPS",
        help="new mean arrival rate, requests per second (default: unchanged)",
    )
    for side in ("prompt", "output"):
        parser.add_argument(
            f"--{side}-factor",
            type=float,
            default=1.0,
            metavar="F",
            help=f"multiply {side} lengths by this (default: 1)",
        )
    parser.set_defaults(act=_scale)


def _add_slice(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = verbs.add_parser(
        "slice",
        help="cut a part out of a workload (JSON lines on stdout)",
        description="Cut a part out of a workload, by time or by request numbers; its first "
        "request arrives at 0. FROM is included, TO is not; either may be omitted.",
    )
    _add_source(parser)
    part = parser.add_mutually_exclusive_group(required=True)
    part.add_argument(
        "--time-s", type=_seconds, metavar="FROM:TO", help="seconds since the start of the workload"
    )
    part.add_argument(
        "--numbers", type=_numbers, metavar="FROM:TO", help="request numbers, counted from 0"
    )
    parser.set_defaults(act=_slice)


def _add_source(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("workload", metavar="WORKLOAD", help=SOURCE_HELP)
    parser.add_argument(
        "--requests", type=int, metavar="N", help="number of requests to take (default: all)"
    )
    add_seed(parser)
    add_reading(parser)


def _scale(args: argparse.Namespace) -> list[str]:
    requests = _loaded(args)
    if args.rate is not None:
        requests = at_rate(requests, args.rate)
    return list(dump(with_lengths(requests, args.prompt_factor, args.output_factor)))


def _slice(args: argparse.Namespace) -> list[str]:
    if args.time_s is not None:
        return list(dump(between_s(_loaded(args), *args.time_s)))
    return list(dump(numbered(_loaded(args), *args.numbers)))


def _merge(args: argparse.Namespace) -> list[str]:
    workloads = [
        load_workload(
            source, seed=args.seed + place, format_name=args.format, bad_rows=args.bad_rows
        )
        for place, source in enumerate(args.workloads)
    ]
    return list(dump(merged(from_zero(workload) for workload in workloads)))


def _loaded(args: argparse.Namespace) -> list[TraceRequest]:
    requests = load_workload(
        args.workload,
        args.requests,
        seed=args.seed,
        format_name=args.format,
        bad_rows=args.bad_rows,
    )
    return from_zero(requests)


def _seconds(text: str) -> tuple[float, float]:
    """Parse `60:120`, `60:` or `:120`."""
    start, colon, end = text.partition(":")
    try:
        bounds = float(start or 0.0), float(end or math.inf)
    except ValueError:
        bounds = (math.nan, math.nan)
    if not colon or not 0.0 <= bounds[0] < bounds[1]:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not FROM:TO in seconds, such as 60:120, 60: or :120"
        )
    return bounds


def _numbers(text: str) -> tuple[int, int | None]:
    """Parse `100:200`, `100:` or `:200`."""
    start, colon, end = text.partition(":")
    if not colon or not all(part == "" or part.isdecimal() for part in (start, end)):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not FROM:TO in request numbers, such as 100:200, 100: or :200"
        )
    return int(start or 0), int(end) if end else None
