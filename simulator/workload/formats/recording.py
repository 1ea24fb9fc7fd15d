"""Our own recordings: the CSV that `llumnix simulate --out FILE.csv` writes, a row per request.

A request that was rejected, or lost before its first token, has no output length and is left out;
one that was cut short keeps the length it reached.
"""

from simulator.workload.readers import TraceArrival, has_columns, trace_format
from simulator.workload.rows import Row


@trace_format(
    "recording", has_columns("request", "class", "arrived_s", "prompt_tokens", "output_tokens")
)
def arrival(row: Row) -> TraceArrival | None:
    """Read a row, unless nothing was served."""
    request = TraceArrival(
        row.number("arrived_s"),
        row.tokens("prompt_tokens"),
        row.tokens("output_tokens"),
        row.text("class") or "normal",
        row.text("tenant"),
    )
    return request if row.number("output_tokens") > 0 else None
