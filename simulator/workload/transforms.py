"""Changing a workload: a window of it, another rate, classes for its requests."""

import dataclasses
from collections.abc import Sequence

from simulator.streams import stream
from simulator.workload.request import TraceRequest, WorkloadError


def take(requests: Sequence[TraceRequest], count: int, seed: int) -> list[TraceRequest]:
    """A window of `count` consecutive requests, its first at 0, renumbered from 0.

    Seed 0 takes the start of the workload; any other seed chooses where the window begins.
    Lengths are left as they are. Raises WorkloadError when there are too few requests.
    """
    if not 0 < count <= len(requests):
        raise WorkloadError(
            f"cannot take {count} requests of {len(requests)}: ask for 1 to {len(requests)}, or "
            "make a profile of the trace (`llumnix workload profile`), which generates any number"
        )
    start = 0
    if seed:
        start = int(stream(seed, "workload/window").integers(len(requests) - count + 1))
    origin_s = requests[start].arrival_s
    return [
        dataclasses.replace(request, index=index, arrival_s=round(request.arrival_s - origin_s, 6))
        for index, request in enumerate(requests[start : start + count])
    ]


def mean_rate_rps(requests: Sequence[TraceRequest]) -> float:
    """Requests per second: the inverse of the mean gap; 0 where there is none."""
    span_s = requests[-1].arrival_s - requests[0].arrival_s if requests else 0.0
    return (len(requests) - 1) / span_s if span_s > 0 else 0.0


def at_rate(requests: Sequence[TraceRequest], rate_rps: float) -> list[TraceRequest]:
    """The same requests with time stretched or squeezed to a mean rate.

    All gaps change by one factor, so that burstiness (the CV of the gaps) stays as it was.
    """
    if rate_rps <= 0:
        raise WorkloadError(f"a rate must be above 0 requests per second, not {rate_rps}")
    if len(requests) < 2:
        return list(requests)
    rate_now_rps = mean_rate_rps(requests)
    if rate_now_rps == 0:
        raise WorkloadError("all requests arrive at once: there is no rate to change")
    factor = rate_now_rps / rate_rps
    return [
        dataclasses.replace(request, arrival_s=round(request.arrival_s * factor, 6))
        for request in requests
    ]


def with_high_class(
    requests: Sequence[TraceRequest], share: float, seed: int
) -> list[TraceRequest]:
    """Make each request `high` with a probability (the paper's priority runs: 0.1)."""
    if not 0.0 <= share <= 1.0:
        raise WorkloadError(f"the share of high-class requests must be 0 to 1, not {share}")
    if share == 0.0:
        return list(requests)
    draws = stream(seed, "workload/class").random(len(requests))
    return [
        dataclasses.replace(request, class_name="high") if draw < share else request
        for request, draw in zip(requests, draws, strict=True)
    ]
