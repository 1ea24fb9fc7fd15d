"""BurstGPT: CSV of seconds, model, request and response tokens.

A row without response tokens is a failed request of unknown output length, so it is left out, as
the trace's own tools do. Sessions, models and log types are not read.
"""

from simulator.workload.readers import TraceArrival, has_columns, trace_format
from simulator.workload.rows import Row


@trace_format("burstgpt", has_columns("Timestamp", "Request tokens", "Response tokens"))
def arrival(row: Row) -> TraceArrival | None:
    """Read a row, unless its request failed."""
    request = TraceArrival(
        row.number("Timestamp"), row.tokens("Request tokens"), row.tokens("Response tokens")
    )
    return request if row.number("Response tokens") > 0 else None
