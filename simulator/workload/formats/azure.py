"""Azure LLM inference traces (2023 and 2024): CSV of time, context and generated tokens."""

from collections.abc import Iterator
from pathlib import Path

from simulator.workload.readers import Arrival, trace_format
from simulator.workload.rows import csv_rows


@trace_format("azure", lambda line: line.startswith("TIMESTAMP,ContextTokens,GeneratedTokens"))
def read(path: Path) -> Iterator[Arrival]:
    """Read the rows as they are."""
    for row in csv_rows(path):
        yield Arrival(
            row.moment_s("TIMESTAMP"), row.tokens("ContextTokens"), row.tokens("GeneratedTokens")
        )
