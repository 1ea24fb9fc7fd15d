"""Vidur's traces: CSV of seconds, prefill and decode tokens; other columns are not read."""

from simulator.workload.readers import TraceArrival, has_columns, trace_format
from simulator.workload.rows import Row


@trace_format("vidur", has_columns("arrived_at", "num_prefill_tokens", "num_decode_tokens"))
def arrival(row: Row) -> TraceArrival:
    """Read a row as it is."""
    return TraceArrival(
        row.number("arrived_at"), row.tokens("num_prefill_tokens"), row.tokens("num_decode_tokens")
    )
