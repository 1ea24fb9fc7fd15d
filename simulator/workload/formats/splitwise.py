"""Traces of splitwise-sim: CSV of seconds, prompt and token (output) sizes, and more.

Only the values that every LLM request in such a trace has are accepted: type 2, batch size 1. Any
other row is a bad row. Applications are models, not tenants: they are not read.
"""

from simulator.workload.readers import TraceArrival, has_columns, trace_format
from simulator.workload.rows import Row


@trace_format("splitwise", has_columns("arrival_timestamp", "prompt_size", "token_size"))
def arrival(row: Row) -> TraceArrival:
    """Read a row; the columns `request_type` and `batch_size` may be absent."""
    if row.text("request_type", "2") != "2":
        row.refuse("request_type", "2, an LLM request")
    if row.text("batch_size", "1") != "1":
        row.refuse("batch_size", "1, a row being one request")
    return TraceArrival(
        row.number("arrival_timestamp"), row.tokens("prompt_size"), row.tokens("token_size")
    )
