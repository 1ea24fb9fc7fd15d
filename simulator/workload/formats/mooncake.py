"""Mooncake FAST'25 traces: JSON lines of milliseconds, lengths, and ids of blocks of the prompt."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from policies.types import FloatColumn
from simulator.streams import stream
from simulator.workload.readers import TraceArrival, trace_format
from simulator.workload.rows import Row, json_rows

# A trace is quantised when its timestamps repeat this often on average (the conversation trace:
# 12,031 requests on 1,180 timestamps; the synthetic one: 3,993 on 3,982).
QUANTISED_BATCH = 2.0
BLOCK_TOKENS = 512


def _spread_out(arrivals: list[TraceArrival]) -> list[TraceArrival]:
    times_s = spread([arrival.time_s for arrival in arrivals])
    return [
        dataclasses.replace(arrival, time_s=time_s)
        for arrival, time_s in zip(arrivals, times_s.tolist(), strict=True)
    ]


@trace_format(
    "mooncake",
    # Qwen-Bailian's rows have the same names, but seconds; theirs belong to a chat.
    lambda line: line.startswith("{") and '"input_length"' in line and '"chat_id"' not in line,
    rows=json_rows,
    together=_spread_out,
)
def arrival(row: Row) -> TraceArrival:
    """Read a row; quantised timestamps are spread over their slots afterwards (see `spread`)."""
    return TraceArrival(
        row.number("timestamp") / 1000.0,
        row.tokens("input_length"),
        row.tokens("output_length"),
        prompt_blocks=row.prompt_blocks("hash_ids", BLOCK_TOKENS),
    )


def spread(times_s: Sequence[float] | FloatColumn) -> FloatColumn:
    """Undo quantised timestamps: spread each batch of equal ones over the slot it stands for.

    The timestamps of the conversation trace are multiples of 3 s, so that arrivals look like bursts
    of ten that never were. Each batch is spread uniformly from its timestamp to the next, at most
    one usual slot, keeping its order. The same file always gives the same times. Times that hardly
    repeat are returned unchanged.
    """
    times = np.asarray(times_s, dtype=np.float64)
    stamps, batch_of, sizes = np.unique(times, return_inverse=True, return_counts=True)
    if len(stamps) < 2 or len(times) < QUANTISED_BATCH * len(stamps):
        return times
    gaps = np.diff(stamps)
    usual = float(np.median(gaps))
    slots = np.minimum(np.append(gaps, usual), usual)
    order = np.argsort(batch_of, kind="stable")
    draws = stream(0, "mooncake/spread").random(len(times))
    offsets = np.concatenate([np.sort(part) for part in np.split(draws, np.cumsum(sizes)[:-1])])
    spread_out = times.copy()
    spread_out[order] += offsets * slots[batch_of[order]]
    return spread_out
