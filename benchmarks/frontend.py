"""What the frontend costs, beside vllm-router, nginx and a bare aiohttp proxy.

The router that is measured has one core to itself; the servers (a stub that computes nothing but
answers as an untouched vLLM does, token ids included) and the client share another. All targets
run at once, but only one has work; loads go around them in rounds, in an order drawn anew. CPU time
is the routers' own, from the kernel; it is the figure to believe on a machine that is not quiet.
"""

import argparse
import os
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from frontend_parts.model import check
from frontend_parts.rounds import Results, run_rounds, stages
from frontend_parts.summary import Row, ratio, summarise, table
from frontend_parts.targets import NotStartedError, Target, commands, has_workers, running
from frontend_parts.tools import ToolError, say, stub
from frontend_parts.two_workers import WORKERS, capacity_ratio

from harness import Bar, finish

NAMES = ("llumnix", "vllm-router", "nginx", "bare-aiohttp")
SERVERS = 2
US, THEM = "llumnix", "vllm-router"


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="under a minute")
    parser.add_argument("--rounds", type=int, help="rounds (default: 7; 2 with --quick)")
    parser.add_argument(
        "--targets", default=",".join(NAMES), help="what to measure (default: %(default)s)"
    )
    args = parser.parse_args()
    rounds, scale = args.rounds or (2 if args.quick else 7), 0.3 if args.quick else 1.0
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        print("frontend.py needs two cores: one for the router alone", file=sys.stderr)
        return 2
    try:
        results, workers = measured(args.targets.split(","), rounds, scale, cores)
    except (ToolError, NotStartedError) as error:
        print(f"frontend.py: {error}", file=sys.stderr)
        return 2
    for line in results.broken:
        say(f"BROKEN: {line}")
    rows = summarise(results)
    say(table(rows))
    figures: dict[str, Any] = {
        name: {key: asdict(each) for key, each in row.items() if each} for name, row in rows.items()
    }
    say(f"not the routers' own: {100 * results.others_share:.0f} % of their core")
    checked = check(results, rows, US) if US in rows else None
    if checked:
        say(
            f"the model: {checked.per_request_us:.0f} µs per stream and {checked.per_token_us:.1f}"
            f" per token; {checked.requests_per_s:.0f} streams/s, {checked.tokens_per_s:.0f}"
            f" tokens/s: predicted {checked.predicted_cores:.3f} cores, measured"
            f" {checked.measured_cores:.3f}"
        )
        figures["model"] = asdict(checked)
    figures |= {"rounds": rounds, "workers": workers, "others_share": results.others_share}
    return finish("frontend", bars(rows, results, workers), figures)


def measured(
    names: list[str], rounds: int, scale: float, cores: list[int]
) -> tuple[Results, dict[str, float] | None]:
    """Run the rounds, then two workers against one. Raises ToolError, NotStartedError."""
    router, tools = cores[-1:], cores[:1]
    with (
        tempfile.TemporaryDirectory(prefix="llumnix-bench-") as folder,
        stub(tools, SERVERS) as ups,
    ):
        found = commands(names, Path(folder))
        with running(found, ups, router, Path(folder)) as targets:
            everyone = [Target("direct", ups[0], None), *targets]
            results = run_rounds(
                everyone, stages(scale), rounds, tools, idle_s=2.0 * scale, router_core=router[0]
            )
        workers = None
        if US in found and has_workers():
            try:
                workers = capacity_ratio(ups, cores, Path(folder), rounds, scale)
            except (ToolError, NotStartedError) as error:
                results.broken.append(f"{US} with {WORKERS} workers: {error}")
    return results, workers


def bars(rows: dict[str, Row], results: Results, workers: dict[str, float] | None) -> list[Bar]:
    """Judge our figures; None, which fails, where there is nothing to compare with."""
    found = []
    for key, name, limit in (
        ("request_cpu_us", "CPU per request, to vllm-router's", 1.5),
        ("streamed_cpu_us", "CPU per stream of 16 tokens, to vllm-router's", 1.5),
        ("token_cpu_us", "CPU per token, to vllm-router's", 1.0),
        ("forward_p99_ms", "forward p99 at 256 paced streams, to vllm-router's", 2.0),
    ):
        value = ratio(rows, US, THEM, key)
        found.append(Bar(name, value, f"<= {limit}", value is not None and value <= limit))
    for key, name, limit in (
        ("added_p50_ms", "TTFT added at 64 x 16 tokens, p50, ms", 1.0),
        ("added_p99_ms", "TTFT added at 64 x 16 tokens, p99, ms", 10.0),
    ):
        seen = rows.get(US, {}).get(key)
        found.append(
            Bar(
                name,
                seen.median if seen else None,
                f"<= {limit}",
                bool(seen and seen.median <= limit),
            )
        )
    least = min(workers.values()) if workers else None
    found.append(
        Bar(f"{WORKERS} workers, to one", least, ">= 1.8", least is not None and least >= 1.8)
    )
    broken = float(sum(line.startswith(US) for line in results.broken))
    found.append(Bar("loads with a failed request", broken, "= 0", broken == 0))
    return found


if __name__ == "__main__":
    sys.exit(main())
