"""What two workers carry, against one.

On two cores, two busy workers, the servers and the client cannot all run at once, so requests per
second would measure the load tools. What bounds a frontend of several processes is the busiest of
them, once each has a core: so this is the CPU time per request of the only process of one worker,
divided by that of the busiest process (a worker, or the scheduler) of two under the same load.
An uneven split between workers counts against it, as it should.
"""

import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from frontend_parts.rounds import GAP_US, Measured, Stage, measure
from frontend_parts.targets import commands, running
from frontend_parts.tools import say

WORKERS = 2
_CONNS = 512


def _stages(scale: float) -> tuple[Stage, ...]:
    return (
        Stage(
            "requests",
            "not streamed",
            {"stream": 0, "conns": _CONNS, "requests": int(8000 * scale)},
        ),
        Stage("streams of 16 tokens", "", {"conns": _CONNS, "requests": int(4000 * scale)}),
        Stage(
            "paced tokens",
            "",
            {
                "conns": _CONNS,
                "requests": _CONNS,
                "gap_us": 3 * GAP_US,
                "ramp_us": 25 * GAP_US,
                "tokens": int(60 * scale) + 10,
            },
        ),
    )


def capacity_ratio(
    upstreams: Sequence[int], cores: Sequence[int], folder: Path, rounds: int, scale: float
) -> dict[str, float]:
    """Return how many times what one worker carries two do, by load: the median over rounds."""
    seen: dict[str, list[float]] = {}
    with ExitStack() as stack:
        one, two = (
            stack.enter_context(
                running(commands([name], folder, WORKERS), upstreams, cores, folder)
            )[0]
            for name in ("llumnix", "llumnix-workers")
        )
        for _ in range(max(2, rounds // 2)):
            for stage in _stages(scale):
                alone, shared = measure(one, stage, cores), measure(two, stage, cores)
                seen.setdefault(stage.name, []).append(_busiest_us(alone) / _busiest_us(shared))
                busy = sorted(1e6 * each / shared.load.requests for each in shared.cpu_s.values())
                say(
                    f"{stage.name}: one {_busiest_us(alone):.0f} µs; {WORKERS} workers: "
                    + ", ".join(f"{each:.0f}" for each in busy)
                )
    return {name: statistics.median(ratios) for name, ratios in seen.items()}


def _busiest_us(seen: Measured) -> float:
    return 1e6 * max(seen.cpu_s.values()) / seen.load.requests
