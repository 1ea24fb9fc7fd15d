"""Qwen-Bailian traces: JSON lines of seconds, input and output length.

Each turn of a conversation is a request; chats, types and prefix blocks are not read.
"""

from simulator.workload.readers import Arrival, trace_format
from simulator.workload.rows import Row, json_rows


@trace_format(
    "bailian",
    lambda line: line.startswith("{") and '"chat_id"' in line and '"input_length"' in line,
    rows=json_rows,
)
def arrival(row: Row) -> Arrival:
    """Read a row as it is."""
    return Arrival(row.number("timestamp"), row.tokens("input_length"), row.tokens("output_length"))
