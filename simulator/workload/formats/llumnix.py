"""Our own format, one JSON object per line: what `llumnix workload generate` writes."""

import json
from collections.abc import Iterable, Iterator

from simulator.workload.readers import TraceArrival, trace_format
from simulator.workload.request import TraceRequest
from simulator.workload.rows import Row, json_rows


@trace_format(
    "llumnix", lambda line: line.startswith("{") and '"arrival_s"' in line, rows=json_rows
)
def arrival(row: Row) -> TraceArrival:
    """Read a row as it is."""
    block_tokens = row.tokens("block_tokens") if "prompt_blocks" in row.cells else 1
    return TraceArrival(
        row.number("arrival_s"),
        row.tokens("prompt_tokens"),
        row.tokens("output_tokens"),
        row.text("class", "normal"),
        row.text("tenant"),
        row.prompt_blocks("prompt_blocks", block_tokens),
    )


def dump(requests: Iterable[TraceRequest]) -> Iterator[str]:
    """Yield the lines of a trace in this format, line ends included."""
    for request in requests:
        cells: dict[str, object] = {
            "arrival_s": request.arrival_s,
            "prompt_tokens": request.prompt_tokens,
            "output_tokens": request.output_tokens,
        }
        if request.class_name != "normal":
            cells["class"] = request.class_name
        if request.tenant:
            cells["tenant"] = request.tenant
        if request.prompt_blocks is not None:
            cells["block_tokens"] = request.prompt_blocks.block_tokens
            cells["prompt_blocks"] = request.prompt_blocks.ids
        yield json.dumps(cells) + "\n"
