"""What two workers carry, against one.

On two cores, two busy workers, the servers and the client cannot all run at once, so requests per
second would measure the load tools. What bounds a frontend of several processes is the busiest of
them, once each has a core: so this is the CPU time per request of the only process of one worker,
divided by that of the busiest process (a worker, or the scheduler) of two that are given twice as
much: a process with less to do wakes more often for each token. An uneven split between workers
counts against it, as it should.
"""

import statistics
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from frontend_parts.rounds import GAP_US, Measured, Stage, measure
from frontend_parts.targets import commands, running
from frontend_parts.tools import say

WORKERS = 2
_CONNS = 256


def _stages(scale: float, times: int) -> tuple[Stage, ...]:
    conns = _CONNS * times
    ask = {"conns": conns, "requests": int(4000 * scale) * times}
    paced = {"conns": conns, "requests": conns, "gap_us": 3 * GAP_US, "ramp_us": 25 * GAP_US}
    return (
        Stage("requests", "not streamed, flat out", {**ask, "stream": 0}),
        Stage("streams", "of 16 tokens, flat out", ask),
        Stage("tokens", "one each 60 ms a stream", {**paced, "tokens": int(60 * scale) + 10}),
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
        for _ in range(max(1, rounds // 2)):
            for stage, more in zip(_stages(scale, 1), _stages(scale, WORKERS), strict=True):
                alone, shared = measure(one, stage, cores), measure(two, more, cores)
                seen.setdefault(stage.name, []).append(_busiest_us(alone) / _busiest_us(shared))
                busy = sorted(1e6 * each / shared.load.requests for each in shared.cpu_s.values())
                say(
                    f"{stage.name}: one {_busiest_us(alone):.0f} µs; {WORKERS} workers: "
                    + ", ".join(f"{each:.0f}" for each in busy)
                )
    return {name: statistics.median(ratios) for name, ratios in seen.items()}


def _busiest_us(seen: Measured) -> float:
    return 1e6 * max(seen.cpu_s.values()) / seen.load.requests
