"""Transforming a workload: a slice, another rate, other lengths or classes; joining several."""

import dataclasses
import heapq
import math
from collections.abc import Iterable, Iterator, Sequence

from simulator.streams import stream
from simulator.workload.request import PromptBlocks, TraceRequest, WorkloadError
from simulator.workload.rows import MAX_TOKENS


def take(requests: Sequence[TraceRequest], count: int, seed: int) -> list[TraceRequest]:
    """A window of `count` consecutive requests, its first at 0, renumbered from 0.

    Seed 0 takes the start of the workload; any other seed chooses where the window begins. Lengths
    are unchanged. Raises WorkloadError when there are too few requests.
    """
    if not 0 < count <= len(requests):
        raise WorkloadError(
            f"cannot take {count} requests of {len(requests)}: ask for 1 to {len(requests)}, or "
            "make a profile of the trace (`llumnix workload profile`), which generates any number"
        )
    start = 0
    if seed:
        start = int(stream(seed, "workload/window").integers(len(requests) - count + 1))
    return from_zero(requests[start : start + count])


def from_zero(requests: Sequence[TraceRequest]) -> list[TraceRequest]:
    """The same requests, the first of them at 0, numbered from 0."""
    return [
        dataclasses.replace(
            request, index=index, arrival_s=round(request.arrival_s - requests[0].arrival_s, 6)
        )
        for index, request in enumerate(requests)
    ]


def between_s(
    requests: Sequence[TraceRequest], from_s: float = 0.0, to_s: float = math.inf
) -> list[TraceRequest]:
    """The requests that arrive from `from_s` on and before `to_s`, the first of them at 0.

    Raises WorkloadError when there are none.
    """
    part = [request for request in requests if from_s <= request.arrival_s < to_s]
    if not part:
        raise WorkloadError(
            f"no request arrives from {from_s:g} s on and before {to_s:g} s: the workload ends at "
            f"{requests[-1].arrival_s:g} s"
        )
    return from_zero(part)


def numbered(
    requests: Sequence[TraceRequest], first: int = 0, end: int | None = None
) -> list[TraceRequest]:
    """The requests from number `first` on and before number `end`, the first of them at 0.

    Raises WorkloadError when there are none, or the workload has no such number.
    """
    end = len(requests) if end is None else end
    if not 0 <= first < end <= len(requests):
        raise WorkloadError(
            f"no requests from number {first} on and before {end}: the workload has numbers 0 to "
            f"{len(requests) - 1}"
        )
    return from_zero(requests[first:end])


def merged(workloads: Iterable[Sequence[TraceRequest]]) -> list[TraceRequest]:
    """All requests of several workloads by arrival, numbered from 0; times stay as they are.

    Requests that arrive at once keep the order of their workloads. Prompts of different workloads
    have nothing in common, even where the ids of their blocks are equal.
    """
    in_order = heapq.merge(*_apart(workloads), key=lambda request: request.arrival_s)
    return [dataclasses.replace(request, index=index) for index, request in enumerate(in_order)]


def _apart(workloads: Iterable[Sequence[TraceRequest]]) -> Iterator[list[TraceRequest]]:
    """Continue the numbering of prompt blocks from workload to workload."""
    next_id = 0
    for workload in workloads:
        first_id = next_id
        apart = []
        for request in workload:
            blocks = request.prompt_blocks
            if blocks is not None:
                ids = [(first_id + one) % 2**64 for one in blocks.ids]
                next_id = max(next_id, 1 + max(ids, default=0))
                blocks = PromptBlocks.of(blocks.block_tokens, ids)
            apart.append(dataclasses.replace(request, prompt_blocks=blocks))
        yield apart


def mean_rate_rps(requests: Sequence[TraceRequest]) -> float:
    """Requests per second: the inverse of the mean gap; 0 where there is none."""
    span_s = requests[-1].arrival_s - requests[0].arrival_s if requests else 0.0
    return (len(requests) - 1) / span_s if span_s > 0 else 0.0


def at_rate(requests: Sequence[TraceRequest], rate_rps: float) -> list[TraceRequest]:
    """The same requests with time stretched or squeezed to a mean rate.

    All gaps change by one factor, so that burstiness (the CV of the gaps) is unchanged.
    """
    if not 0.0 < rate_rps < math.inf:
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


def with_lengths(
    requests: Sequence[TraceRequest], prompt_factor: float = 1.0, output_factor: float = 1.0
) -> list[TraceRequest]:
    """The same requests with lengths multiplied: rounded to whole tokens, at least one.

    Which prompts of the new lengths begin alike is no longer known.
    """
    for factor in (prompt_factor, output_factor):
        if not 0.0 < factor < math.inf:
            raise WorkloadError(f"a length factor must be above 0, not {factor}")

    def times(tokens: int, factor: float) -> int:
        if tokens * factor >= MAX_TOKENS:
            raise WorkloadError(f"{factor:g} times {tokens} tokens are more than 10^9")
        return max(1, round(tokens * factor))

    return [
        dataclasses.replace(
            request,
            prompt_tokens=times(request.prompt_tokens, prompt_factor),
            output_tokens=times(request.output_tokens, output_factor),
            prompt_blocks=request.prompt_blocks if prompt_factor == 1.0 else None,
        )
        for request in requests
    ]


def with_high_class(
    requests: Sequence[TraceRequest], share: float, seed: int
) -> list[TraceRequest]:
    """Make each request `high` with a probability (the paper's priority runs: 0.1)."""
    if not 0.0 <= share <= 1.0:
        raise WorkloadError(
            f"the share of high-class requests must be between 0 and 1, not {share}"
        )
    if share == 0.0:
        return list(requests)
    draws = stream(seed, "workload/class").random(len(requests))
    return [
        dataclasses.replace(request, class_name="high") if draw < share else request
        for request, draw in zip(requests, draws, strict=True)
    ]
