"""A simulation's files: one row per request (CSV or Parquet), and a trace for Perfetto."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llumnix.errors import ConfigError
from llumnix.planning.outcome import SimulatedRecord
from simulator.events import NS_PER_S
from simulator.fleet.life import Life
from simulator.fleets import ServingFleet, machines_of

_US = 1000


def row_of(life: Life) -> dict[str, Any]:
    """Return one request as a row; times are in seconds, empty if there is none."""
    record = SimulatedRecord(life)
    return {
        "request": life.request.index,
        "class": life.request.class_name,
        "tenant": life.request.tenant,
        "status": str(record.status),
        "reason": life.reason,
        "arrived_s": life.arrived_ns / NS_PER_S,
        "prompt_tokens": life.request.prompt_tokens,
        "output_tokens": life.tokens,
        "cached_tokens": life.cached_tokens,
        "ttft_s": record.ttft_s,
        "tpot_s": record.tpot_s,
        "e2e_s": record.e2e_s,
        "longest_gap_s": life.longest_gap_ns / NS_PER_S,
        "preemptions": life.preemptions,
        "preemption_loss_s": life.preemption_loss_ns / NS_PER_S,
        "migrations": len(life.moves),
        "downtime_s": sum(move.downtime_ns for move in life.moves) / NS_PER_S,
        "restarts": life.restarts,
        "instance": life.instance_id,
    }


def write_requests(path: Path, lives: Sequence[Life]) -> None:
    """Write one row per request, in the format of the file's suffix; raises ConfigError."""
    rows = [row_of(life) for life in lives]
    try:
        if path.suffix == ".csv":
            with path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.DictWriter(file, list(rows[0]))
                writer.writeheader()
                writer.writerows(rows)
        elif path.suffix == ".parquet":
            _write_parquet(path, rows)
        else:
            raise ConfigError(f"--out {path}: the name must end in .csv or .parquet")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error


def _write_parquet(path: Path, rows: list[dict[str, Any]]) -> None:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise ConfigError(
            "writing Parquet needs pyarrow: pip install llumnix-scheduler[parquet], or give a "
            "name that ends in .csv"
        ) from None
    pq.write_table(pa.Table.from_pylist(rows), path)


def write_perfetto(path: Path, fleet: ServingFleet, lives: Sequence[Life]) -> None:
    """Write a trace in the Chrome format: requests as slices on instances, migrations as arrows.

    Raises ConfigError.
    """
    machines = machines_of(fleet)
    numbers = {one.instance_id: number for number, one in enumerate(machines, start=1)}
    events: list[dict[str, Any]] = [
        {"ph": "M", "name": "process_name", "pid": number, "args": {"name": name}}
        for name, number in numbers.items()
    ]
    for life in lives:
        events += _slices(life, numbers)
    try:
        path.write_text(json.dumps({"traceEvents": events}), encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write {path}: {error.strerror}") from error


def _slices(life: Life, numbers: dict[Any, int]) -> list[dict[str, Any]]:
    """Return a request as one thread: a slice per instance it was on, with arrows between them."""
    if not life.dispatched_ns and not life.tokens:
        return []
    moves = [move for move in life.moves if move.committed_ns]
    places = [move.source for move in moves] + [life.instance_id]
    bounds = [life.dispatched_ns, *(move.committed_ns for move in moves), life.last_token_ns]
    thread = life.request.index
    events: list[dict[str, Any]] = []
    for place, begin_ns, end_ns in zip(places, bounds, bounds[1:], strict=False):
        if place is None:
            continue
        events.append(
            {
                "ph": "X",
                "name": life.request_id,
                "cat": life.request.class_name,
                "pid": numbers[place],
                "tid": thread,
                "ts": begin_ns / _US,
                "dur": max(0, end_ns - begin_ns) / _US,
                "args": {"tokens": life.tokens, "preemptions": life.preemptions},
            }
        )
    for number, move in enumerate(moves):
        arrow = {"name": "migration", "cat": "migration", "id": f"{thread}.{number}", "tid": thread}
        events.append(
            {"ph": "s", **arrow, "pid": numbers[move.source], "ts": move.started_ns / _US}
        )
        events.append(
            {
                "ph": "f",
                "bp": "e",
                **arrow,
                "pid": numbers[move.destination],
                "ts": move.committed_ns / _US,
            }
        )
    return events
