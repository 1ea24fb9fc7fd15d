"""Azure LLM inference traces (2023 and 2024): CSV of time, context and generated tokens."""

from simulator.workload.readers import TraceArrival, has_columns, trace_format
from simulator.workload.rows import Row


@trace_format("azure", has_columns("TIMESTAMP", "ContextTokens", "GeneratedTokens"))
def arrival(row: Row) -> TraceArrival:
    """Read a row as it is."""
    return TraceArrival(
        row.moment_s("TIMESTAMP"), row.tokens("ContextTokens"), row.tokens("GeneratedTokens")
    )
