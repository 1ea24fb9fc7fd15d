"""How long `llumnix sweep` takes for a grid of configurations."""

import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from speed_parts.contestants import MAX_NUM_SEQS
from speed_parts.preset import TOKEN_BUDGET
from speed_parts.process import run_pinned
from speed_parts.workload import Workload, llumnix_lines

GRID = {
    "scheduler.rebalance.low_steps": [8 * step for step in range(1, 11)],
    "scheduler.rebalance.high_steps": [100 + 20 * step for step in range(10)],
    "scheduler.rebalance.min_gain_steps": [2 * step for step in range(10)],
}
"""A thousand settings of when to migrate."""
_TIMEOUT_S = 1800.0


@dataclass(frozen=True, slots=True)
class Swept:
    """How many configurations were simulated, and how long that took: all cores' time, and wall."""

    configurations: int
    requests: int
    jobs: int
    cpu_s: float
    wall_s: float


def sweep(
    workload: Workload, instances: int, preset: Path, jobs: int, values: int, folder: Path
) -> Swept:
    """Sweep `values` values of each axis, on the command line; raises RunFailedError."""
    trace = folder / "sweep.jsonl"
    with trace.open("w") as file:
        file.writelines(llumnix_lines(workload))
    out = folder / "sweep.json"
    command = [sys.executable, "-m", "llumnix", "sweep", trace, "--json", out, "--jobs", jobs]
    command += ["--instances", instances, "--preset", preset, "--policy", "freeness+migration"]
    command += ["--max-num-seqs", MAX_NUM_SEQS, "--token-budget", TOKEN_BUDGET]
    for key, listed in GRID.items():
        command += ["--vary", f"{key}={','.join(map(str, listed[:values]))}"]
    cores = sorted(os.sched_getaffinity(0))[-jobs:]
    ran = run_pinned(list(map(str, command)), timeout_s=_TIMEOUT_S, cores=cores)
    found = len(json.loads(out.read_text()))
    return Swept(found, len(workload), jobs, ran.cpu_s, ran.wall_s)
