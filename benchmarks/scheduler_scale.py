"""What the scheduler costs, from ten instances to a thousand.

A real fleet, scheduler and queue run in one process and one thread, without sockets: 100 requests
on each instance, ten reports a second from each (as bytes, decoded and taken in by the real link),
a rebalance four times a second. First single decisions are measured in a fleet with room, then a
full one runs in real time with 1,000 requests held: all CPU time of the thread counts but the
engines' own. Reading sockets, and what frontends do for streams, are not in it. `--quick` leaves
out sizes and takes less time for each; `--plot FILE` draws the growth (SVG or PNG, by matplotlib).
"""

import argparse
import dataclasses
import sys
from pathlib import Path

from scheduler_parts import answers, decisions, full, plot
from scheduler_parts.engines import BATCH
from scheduler_parts.plot import Size

from harness import Bar, finish
from llumnix.processes.event_loop import calm_collector

SIZES = (10, 30, 100, 300, 1000)
QUICK_SIZES = (10, 100, 1000)
SMALL = (2, 4, 8, 16)
HELD = 1000

DISPATCH_P99_US = 1_000.0
PASS_P99_US = 20_000.0
CORES, CORES_AT_100 = 1.0, 0.1
EXPLANATIONS_MB = 32.0
HOLD_MS = 10.0
SMALL_US = 25.0


def main() -> int:
    """Measure, print, and judge."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under a minute")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="draw the growth: .svg or .png")
    asked = parser.parse_args()
    calm_collector()  # as every server process does
    small = {size: decisions.measure(size, 2_000, 2) for size in SMALL}
    for count, told in small.items():
        print(
            f"{count:5} instances: dispatch {told.dispatch} us, "
            f"after a report {told.after_report} us (p50/p99)",
            file=sys.stderr,
        )
    sizes = [_measure(size, quick=asked.quick) for size in (QUICK_SIZES if asked.quick else SIZES)]
    explained_mb = answers.explanations_mb(SIZES[-1])
    written = answers.answers(SIZES[-1], BATCH)
    for name, answer in written.items():
        print(
            f"{name}: {answer.total_ms} ms in all, {answer.longest_ms} ms at once, "
            f"{answer.size_bytes / 1e6:.2f} MB",
            file=sys.stderr,
        )
    print(f"explanations: {explained_mb:.1f} MB", file=sys.stderr)
    if asked.plot is not None:
        plot.draw(sizes, asked.plot)
    figures = {
        "small": {size: dataclasses.asdict(told) for size, told in small.items()},
        "growth": [dataclasses.asdict(each) for each in sizes],
        "answers": {name: dataclasses.asdict(each) for name, each in written.items()},
        "explanations_mb": round(explained_mb, 1),
    }
    return finish("scheduler_scale", _bars(sizes, small, written, explained_mb), figures)


def _measure(instances: int, *, quick: bool) -> Size:
    told = decisions.measure(instances, 1_000 if quick else 4_000, 20 if quick else 200)
    busy = full.measure(instances, HELD, 3.0 if quick else 15.0, 2.0 if quick else 5.0)
    print(
        f"{instances:5} instances: dispatch {told.dispatch}, after a report {told.after_report}, "
        f"report {told.report}, pass {told.rebalance} us; full: dispatch {busy.dispatch} us, "
        f"{busy.cores:.3f} cores, {busy.reports_per_s:,.0f} reports/s, {busy.placed_per_s:,.0f} "
        f"placed/s, {busy.held:,.0f} held, collector {busy.longest_collection_ms:.0f} ms",
        file=sys.stderr,
    )
    return Size(instances, told, busy)


def _bars(
    sizes: list[Size],
    small: dict[int, decisions.Decisions],
    written: dict[str, answers.Answered],
    explained_mb: float,
) -> list[Bar]:
    largest, hundred = sizes[-1], next(each for each in sizes if each.instances == 100)
    dispatch_us = max(
        each.p99_us
        for each in (
            largest.full.dispatch,
            largest.decisions.dispatch,
            largest.decisions.after_report,
        )
    )
    pass_us = max(largest.decisions.rebalance.p99_us, largest.full.rebalance.p99_us)
    hold_ms = max(each.longest_ms for each in written.values())
    slowest_us = max(each.dispatch.p50_us for each in small.values())
    kept_up = largest.full.behind_s <= 1.0
    return [
        _at_most("dispatch p99 at 1,000 instances, us", dispatch_us, DISPATCH_P99_US),
        _at_most("rebalance pass p99 at 1,000 instances, us", pass_us, PASS_P99_US),
        _at_most("scheduling at 1,000 instances, fleet full, cores", largest.full.cores, CORES),
        Bar(
            "reports taken in at 1,000 instances, per s",
            largest.full.reports_per_s,
            "all there are",
            kept_up,
        ),
        _at_most("scheduling at 100 instances, cores", hundred.full.cores, CORES_AT_100),
        _at_most("explanations at 1,000 instances, MB", explained_mb, EXPLANATIONS_MB),
        _at_most("longest hold of the loop by an answer, ms", hold_ms, HOLD_MS),
        _at_most("dispatch p50 at 2 to 16 instances, us", slowest_us, SMALL_US),
    ]


def _at_most(name: str, value: float, most: float) -> Bar:
    return Bar(name, round(value, 3), f"<= {most:g}", value <= most)


if __name__ == "__main__":
    sys.exit(main())
