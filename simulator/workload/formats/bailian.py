"""Qwen-Bailian traces: JSON lines of seconds, lengths, and ids of blocks of the prompt.

Each turn of a conversation is a request; chats and types are not read.
"""

from simulator.workload.readers import TraceArrival, trace_format
from simulator.workload.rows import Row, json_rows

BLOCK_TOKENS = 16


@trace_format(
    "bailian",
    lambda line: line.startswith("{") and '"chat_id"' in line and '"input_length"' in line,
    rows=json_rows,
)
def arrival(row: Row) -> TraceArrival:
    """Read a row as it is."""
    return TraceArrival(
        row.number("timestamp"),
        row.tokens("input_length"),
        row.tokens("output_length"),
        prompt_blocks=row.prompt_blocks("hash_ids", BLOCK_TOKENS),
    )
