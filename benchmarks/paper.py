"""The Llumnix paper's experiments, simulated, with the paper's own figure beside each.

16 engines of LLaMA-7B on A10s serve the paper's traces at rates below and above the knee, under
round-robin, the load-aware policy (INFaaS++), Llumnix as in the paper, and this project's own
default, over several seeds; then the downtime of a move by context length, and priorities under
bursty arrivals. `--docs docs` writes docs/paper.md and its pictures. `--keep FOLDER` keeps every
run's figures there, so that an interrupted run can be continued.
"""

import argparse
import json
import os
import sys
from pathlib import Path

import numpy as np

from harness import Bar, finish
from paper_parts.downtime import downtimes_ms
from paper_parts.plan import plan
from paper_parts.plots import draw_all
from paper_parts.results import Results, run_all
from paper_parts.tables import Downtimes
from paper_parts.text import document
from paper_parts.verdicts import all_verdicts, tally


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one trace, few requests, < 60 s")
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs in parallel")
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="keep every run's figures there"
    )
    parser.add_argument("--docs", type=Path, metavar="FOLDER", help="write paper.md there")
    parser.add_argument(
        "--format", choices=("svg", "png"), default="svg", help="format of the pictures"
    )
    args = parser.parse_args()
    if args.quick:
        args.requests, args.seeds = min(args.requests, 300), 1
    return args


def downtimes(kept: Path | None, phases: int) -> Downtimes:
    """Measure the downtimes of moves, or take them from the file kept."""
    if kept is not None and kept.exists():
        known: Downtimes = json.loads(kept.read_text())
        return known
    found = {
        mode: {str(length): values for length, values in by_length.items()}
        for mode, by_length in downtimes_ms(phases=phases).items()
    }
    if kept is not None:
        kept.write_text(json.dumps(found))
    return found


def bars_of(results: Results, gaps: Downtimes) -> list[Bar]:
    """Hold every claim's direction against the paper; what is not certain is no contradiction."""
    bars = [
        Bar(
            one.name,
            None if one.ours is None else round(one.ours.value, 3),
            f"direction as the paper's {one.paper:.3g}x",
            one.direction != "no",
        )
        for one in all_verdicts(results)
    ]
    for mode in ("blocking copy", "recompute"):
        factor = float(np.mean(gaps[mode]["8192"]) / np.mean(gaps["live"]["8192"]))
        name = f"downtime of {mode} over live, 8k tokens"
        bars.append(Bar(name, round(factor, 1), "above 1x", factor > 1))
    return bars


def main() -> int:
    args = arguments()
    if args.keep is not None:
        args.keep.mkdir(parents=True, exist_ok=True)
    gaps = downtimes(args.keep and args.keep / "downtimes.json", 1 if args.quick else 11)
    runs = plan(args.requests, args.seeds, quick=args.quick)
    results = run_all(runs, args.jobs, args.keep and args.keep / "runs.jsonl")
    if args.docs is not None:
        draw_all(results, gaps, args.docs / "paper", f".{args.format}")
        page = document(results, gaps, args.requests, args.format)
        (args.docs / "paper.md").write_text(page)
    figures = {
        "requests": args.requests,
        "seeds": args.seeds,
        "verdicts": tally(all_verdicts(results)),
        "downtime_ms": {
            mode: {length: round(float(np.mean(values)), 1) for length, values in by.items()}
            for mode, by in gaps.items()
        },
    }
    return finish("paper", bars_of(results, gaps), figures)


if __name__ == "__main__":
    sys.exit(main())
