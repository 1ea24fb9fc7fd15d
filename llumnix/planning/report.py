"""A simulation as an HTML report, like that of any other run."""

import math
from collections.abc import Sequence
from pathlib import Path

from llumnix import __version__
from llumnix.config import Config
from llumnix.planning.outcome import SimulatedRecord
from llumnix.report import RunReport, write_report
from llumnix.results.result import RunResult
from simulator.costs.presets import preset
from simulator.events import NS_PER_S
from simulator.fleet.life import Life
from simulator.fleet.machines import sizes
from simulator.fleet.virtual_fleet import FleetSample
from simulator.fleets import ServingFleet, machines_of

_POINTS = 1200
"""The most points of a line that are drawn: more than a screen is wide."""


def report_of(fleet: ServingFleet, lives: Sequence[Life], result: RunResult) -> RunReport:
    """Return the report data of a run."""
    done = [SimulatedRecord(life) for life in lives if life.finished]
    moves = [move for life in lives for move in life.moves if move.committed_ns]
    looks = fleet.looks or []
    end_ns = round(result.duration_s * NS_PER_S)
    return RunReport(
        result=result.to_json(),
        ttft_s=[record.ttft_s for record in done if record.ttft_s is not None],
        tpot_s=[record.tpot_s for record in done if record.tpot_s is not None],
        downtime_ms=[move.downtime_ns / 1e6 for move in moves if move.gap_ns],
        freeness=_series([(look, look.freeness) for look in looks]),
        kv_used=_series([(look, look.kv_tokens) for look in looks]),
        migrations=[
            (
                move.started_ns / NS_PER_S,
                move.committed_ns / NS_PER_S,
                str(move.source),
                str(move.destination),
                life.request_id,
            )
            for life in lives
            for move in life.moves
            if move.committed_ns
        ],
        sizes=[
            (size.at_ns / NS_PER_S, size.held, size.started)
            for size in sizes(machines_of(fleet), end_ns)
        ],
    )


def write_simulation(
    path: Path, reports: Sequence[RunReport], config: Config, workload: str, seed: int
) -> None:
    """Write the page; raises ConfigError."""
    shape, gpu = config.simulator, preset(config.simulator.preset)
    scaled = f", scaled to {shape.scaling.max_instances} at most" if shape.scaling.on else ""
    meta = {
        "workload": workload,
        "instances": f"{shape.instances} simulated{scaled} ({gpu.name}): {gpu.source}",
        "time": "virtual",
        "seed": str(seed),
        "versions": f"llumnix {__version__}",
    }
    write_report(path, list(reports), f"{workload} on {shape.instances} instances", meta)


def _series(
    rows: Sequence[tuple[FleetSample, Sequence[float]]],
) -> dict[str, list[tuple[float, float]]]:
    """Turn samples into one line per instance, thinned out evenly.

    An instance being drained has no finite freeness, so it has no point then.
    """
    every = -(-len(rows) // _POINTS) or 1
    lines: dict[str, list[tuple[float, float]]] = {}
    for look, values in rows[::every]:
        for name, value in zip(look.ids, values, strict=True):
            if not math.isfinite(value):
                continue
            lines.setdefault(str(name), []).append((look.at_s, float(value)))
    return lines
