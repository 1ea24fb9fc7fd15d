"""A server's measurements of its requests: when each was queued, scheduled, and got its tokens.

The file has one JSON object per line, with the fields that vLLM keeps of a finished request:
`input_toks`, `output_toks`, `queued_ts`, `scheduled_ts`, `first_token_ts`, `last_token_ts` (seconds
on the engine's clock) and `arrival_time` (seconds on the frontend's clock).
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from simulator.workload.request import WorkloadError
from simulator.workload.rows import Row, json_rows

Floats: TypeAlias = npt.NDArray[np.float64]
Ints: TypeAlias = npt.NDArray[np.int64]

TIMES = ("queued_ts", "scheduled_ts", "first_token_ts", "last_token_ts")
# Timestamps of one event may be taken this far apart.
CLOCK_S = 1e-6


@dataclass(frozen=True, slots=True)
class Measured:
    """Requests of one server in order of arrival; columns of one length, times in seconds."""

    prompt_tokens: Ints
    output_tokens: Ints
    arrived_s: Floats
    scheduled_s: Floats
    first_s: Floats
    last_s: Floats

    def __len__(self) -> int:
        return len(self.prompt_tokens)

    @property
    def ttft_s(self) -> Floats:
        """From arrival to the first token."""
        return self.first_s - self.arrived_s

    @property
    def e2e_s(self) -> Floats:
        """From arrival to the last token."""
        return self.last_s - self.arrived_s

    @property
    def tpot_s(self) -> Floats:
        """Mean time between tokens; 0 for a request of one token."""
        return (self.last_s - self.first_s) / np.maximum(1, self.output_tokens - 1)


def read_measured(path: Path) -> Measured:
    """Read a file of requests; raises WorkloadError naming file, line and column."""
    rows = list(json_rows(path))
    if not rows:
        raise WorkloadError(f"{path} holds no requests")
    times = np.array([_times(row) for row in rows])
    arrival = np.array([row.number("arrival_time") for row in rows])
    # Two clocks, aligned at the request that was queued soonest after it arrived.
    arrived = arrival + np.min(times[:, 0] - arrival)
    order = np.argsort(arrived, kind="stable")
    origin = arrived[order[0]]
    prompts = np.array([row.tokens("input_toks") for row in rows], dtype=np.int64)
    outputs = np.array([row.tokens("output_toks") for row in rows], dtype=np.int64)
    scheduled, first, last = (times[order, column] - origin for column in (1, 2, 3))
    return Measured(prompts[order], outputs[order], arrived[order] - origin, scheduled, first, last)


def _times(row: Row) -> list[float]:
    times = [row.number(column) for column in TIMES]
    for column, before, after in zip(TIMES[1:], times, times[1:], strict=False):
        if after < before - CLOCK_S:
            row.refuse(column, f"a time not before {before}")
    return times
