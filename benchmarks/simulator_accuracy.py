"""Is the simulator right? Its predictions beside measurements, in three parts.

- `fleet`: the same requests go through a real frontend to emulated instances (real HTTP, scheduler
  and migrations, on a real clock) and through the simulator, at several shares of the fluid bound
  and with several seeds. Runs whose emulated engines fell behind their clock are invalid; they are
  repeated once, then left out.
- `measured`: a real vLLM's timestamps, one half for calibration, the other predicted.
- `migrations`: stages and downtime of single migrations, by context length.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from accuracy_parts import fleet, measured, migrations
from harness import Bar, finish

PARTS = ("fleet", "measured", "migrations")
MEASURED = (
    Path(__file__).parents[2]
    / "shared/traces/vllm_measured/vllm_measured_RTXPRO6000_Llama-3.1-8B.requests.jsonl"
)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a little of each part, < 60 s")
    parser.add_argument("--part", action="append", choices=PARTS, help="repeatable (default: all)")
    fleet.add_arguments(parser)
    parser.add_argument(
        "--measured", type=Path, default=MEASURED, metavar="FILE", help="timestamps of a vLLM"
    )
    parser.add_argument("--moves", type=int, default=5, help="migrations per length and state")
    args = parser.parse_args()
    args.part = args.part or list(PARTS)
    if args.quick:
        args.requests, args.seeds, args.loads, args.speed = 60, 1, [0.7], 4.0
    return args


def main() -> int:
    args = arguments()
    bars: list[Bar] = []
    figures: dict[str, Any] = {}
    if "measured" in args.part:
        if args.measured.exists():
            more, figures["measured"] = measured.measure(args.measured)
            bars += more
        else:
            print(f"{args.measured} is not there: part `measured` is left out", file=sys.stderr)
    if "migrations" in args.part:
        contexts = (256, 2048) if args.quick else migrations.CONTEXTS
        moves = 2 if args.quick else args.moves
        figures["migrations"] = migrations.compare(contexts, moves)
    if "fleet" in args.part:
        more, figures["fleet"] = fleet.measure(args)
        bars += more
    return finish("simulator_accuracy", bars, figures)


if __name__ == "__main__":
    sys.exit(main())
