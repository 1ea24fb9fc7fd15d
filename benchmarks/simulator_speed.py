"""How fast is the simulator, beside the fastest others? Requests and decode tokens per CPU second.

Every tool serves the same requests (Azure conversation lengths, Poisson arrivals), each run in a
separate process on one core. The measure is the CPU time to read the requests and simulate them:
the whole process's less that of a run with next to no requests, or the process's own clock where it
reports both. Beside it stands the time to simulate alone, which our bars are about. Each tool has
its own model of step durations, so that numbers of steps differ: only requests and decode tokens
are comparable. Dynamo and Vidur are installed in environments of their own, once. `--quick` leaves
out the larger races, Vidur (a minute), compiling anew and most of the sweep.
"""

import argparse
import dataclasses
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from harness import Bar, finish
from speed_parts import dynamo, vidur
from speed_parts.contestants import DOOR, TINY, Contestant, Row, Track, race, run_ours
from speed_parts.preset import MANY_TOKENS, write_preset
from speed_parts.process import RunFailedError
from speed_parts.sweep import Swept, sweep
from speed_parts.workload import Workload, default_source, drawn

DOOR_PER_S = 20_000
PLAIN_PER_S, COMPILED_PER_S, AIM_PER_S, AIM_TOKENS_PER_S = 5_000, 100_000, 200_000, 40_000_000
PEAK_MIB = 2048.0
SWEEP_S = 300.0
SWEEP_CONFIGURATIONS = 1_000


@dataclass(frozen=True, slots=True)
class Race:
    """So many requests at a rate on so many instances; each contestant runs `repeats` times.

    `capacity_tokens` is an instance's memory, unless it is the preset's.
    """

    requests: int
    rate_per_s: float
    instances: int
    repeats: int
    capacity_tokens: int | None = None


RACES = (
    Race(20_000, 96.0, 16, 3),
    Race(100_000, 96.0, 16, 1),
    Race(1_000_000, 384.0, 64, 1, MANY_TOKENS),
)
ROUTERS: tuple[dynamo.Router, ...] = ("round_robin", "kv_router")
EVERY = max(one.requests for one in RACES)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="the first race once, < 60 s")
    parser.add_argument("--trace", default=default_source(), help="trace to draw lengths from")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=2, help="processes for the sweep")
    parser.add_argument("--no-others", action="store_true", help="leave other tools out")
    return parser.parse_args()


def contestants(track: Track, args: argparse.Namespace, notes: dict[str, str]) -> list[Contestant]:
    """List the contestants; reasons for absence go to the notes."""
    found = []
    if find_spec("numba") is not None:
        found += [
            track.ours("compiled", "freeness", True, EVERY),
            track.ours("compiled", "round-robin", False, EVERY),
            track.ours("compiled", "freeness", True, 20_000, tight=True),
            track.ours("compiled", "freeness", True, EVERY, ask_door=True),
        ]
    else:
        notes["compiled"] = "numba is not installed: pip install 'llumnix-scheduler[fast]'"
    found += [
        track.ours("plain", "freeness", True, 100_000),
        track.ours("plain", "round-robin", False, 100_000),
    ]
    if args.no_others:
        return found
    try:
        python = dynamo.installed()
        found += [track.dynamo(python, router, 100_000) for router in ROUTERS]
    except RunFailedError as error:
        notes["dynamo"] = str(error)
    if args.quick:
        return found
    try:
        found.append(track.vidur(vidur.installed(), 20_000))
    except RunFailedError as error:
        notes["vidur"] = str(error)
    return found


def bars_of(rows: Sequence[Row]) -> list[Bar]:
    """Judge our rows with all features on, and the memory of the largest."""
    bars = []
    for row in rows:
        kernel = row.contestant.split()[1].rstrip(",")
        asks = row.contestant.endswith(DOOR)
        full = row.contestant.removesuffix(DOOR).endswith("migration")
        if not row.contestant.startswith("llumnix") or not full:
            continue
        least = COMPILED_PER_S if kernel == "compiled" else PLAIN_PER_S
        if asks:
            kernel, least = kernel + DOOR, DOOR_PER_S
        name = f"{kernel}, {row.requests:,} requests on {row.instances}: requests/s"
        ok = row.own_requests_per_s >= least and row.finished == row.requests
        bars.append(Bar(name, round(row.own_requests_per_s), f">= {least:,}", ok))
        if row.requests == EVERY and not asks:
            ok = row.peak_mib <= PEAK_MIB
            bars.append(Bar("peak memory, MiB", round(row.peak_mib), f"<= {PEAK_MIB:g}", ok))
    return bars


def sweep_bars(swept: Swept) -> list[Bar]:
    """Judge the sweep; a smaller one does not count, because it mostly measures start-up."""
    if swept.configurations != SWEEP_CONFIGURATIONS:
        return []
    name = f"sweep of {swept.configurations:,} on {swept.jobs} cores, s"
    return [Bar(name, round(swept.wall_s, 1), f"<= {SWEEP_S:g}", swept.wall_s <= SWEEP_S)]


def ratios(rows: Sequence[Row]) -> dict[str, float]:
    """Compare our rows with each other tool's of the same race, by the CPU time of processes.

    All serve the same requests, so that it is one ratio for requests and for decode tokens.
    """
    ours = [row for row in rows if row.contestant.startswith("llumnix")]
    others = [row for row in rows if not row.contestant.startswith("llumnix")]
    return {
        f"{one.contestant} / {other.contestant}, {one.requests:,}": round(
            one.requests_per_s / other.requests_per_s, 2
        )
        for one in ours
        for other in others
        if one.requests == other.requests
    }


def compile_s(track: Track, workload: Workload, instances: int, *, anew: bool) -> float | None:
    """Compile the kernel; return the CPU time that takes, where it is compiled anew.

    That is the time of a tiny run without cached code, less that with it.
    """
    spec = track.spec(workload.head(TINY), instances, "compiled", "freeness", migration=True)
    warm_s = min(run_ours(spec).ran.cpu_s for _ in range(2))
    if not anew:
        return None
    with tempfile.TemporaryDirectory() as cache:
        return run_ours(spec, {"XDG_CACHE_HOME": cache}).ran.cpu_s - warm_s


def say(rows: Sequence[Row]) -> None:
    """Print a table on stderr: reading and simulating, then simulating alone (own)."""
    heads = ("requests/s", "tokens/s", "own r/s", "own t/s", "start s", "MiB", "moved", "preempted")
    print("\n" + " " * 63 + "".join(f"{head:>11}" for head in heads), file=sys.stderr)
    for row in rows:
        name = f"{row.requests:>9,} on {row.instances} {row.contestant}"
        cells = [
            f"{row.requests_per_s:,.0f}",
            f"{row.decode_tokens_per_s / 1e6:.2f} M",
            f"{row.own_requests_per_s:,.0f}",
            f"{row.own_decode_tokens_per_s / 1e6:.2f} M",
            f"{row.startup_s:.2f}",
            f"{row.peak_mib:,.0f}",
            "-" if row.migrations is None else f"{row.migrations:,}",
            "-" if row.preemptions is None else f"{row.preemptions:,}",
        ]
        print(f"{name:<63}" + "".join(f"{cell:>11}" for cell in cells), file=sys.stderr)
    sys.stderr.flush()


def measured(args: argparse.Namespace, folder: Path) -> tuple[list[Bar], dict[str, Any]]:
    """Run everything; return bars and figures."""
    preset, error = write_preset(folder / "preset.json")
    track = Track(preset, folder / "preset.json", folder, preset.capacity_tokens)
    first = drawn(args.trace, RACES[0].requests, RACES[0].rate_per_s, args.seed)
    notes: dict[str, str] = {}
    figures: dict[str, Any] = {
        "source": first.source,
        "load_average": os.getloadavg(),
        "preset": preset.name,
        "linear_costs_off_by": round(error, 5),
        "races": [dataclasses.asdict(one) for one in RACES],
        "notes": notes,
    }
    if find_spec("numba") is not None:
        figures["compile_s"] = compile_s(track, first, RACES[0].instances, anew=not args.quick)
    rows: list[Row] = []
    for one in RACES[:1] if args.quick else RACES:
        workload = drawn(args.trace, one.requests, one.rate_per_s, args.seed)
        capacity = one.capacity_tokens or preset.capacity_tokens
        running = contestants(dataclasses.replace(track, capacity_tokens=capacity), args, notes)
        rows += race(workload, one.instances, running, 1 if args.quick else one.repeats, notes)
    say(rows)
    jobs = min(args.jobs, len(os.sched_getaffinity(0)))
    values = 2 if args.quick else 10
    swept = sweep(first, RACES[0].instances, track.preset_path, jobs, values, folder)
    figures |= {
        "rows": [dataclasses.asdict(row) for row in rows],
        "ratios": ratios(rows),
        "sweep": dataclasses.asdict(swept),
        "aims": {"requests/s": AIM_PER_S, "decode tokens/s": AIM_TOKENS_PER_S},
    }
    everybody = Bar("contestants that could not take part", len(notes), "0", not notes)
    return [*bars_of(rows), *sweep_bars(swept), everybody], figures


def main() -> int:
    args = arguments()
    with tempfile.TemporaryDirectory() as name:
        bars, figures = measured(args, Path(name))
    return finish("simulator_speed", bars, figures)


if __name__ == "__main__":
    sys.exit(main())
