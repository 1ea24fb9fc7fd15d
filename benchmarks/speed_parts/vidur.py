"""Vidur, in its published package, on the race's workload."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from simulator.costs.model import LinearCosts, Preset
from speed_parts.process import Ran, environment_with, run_pinned
from speed_parts.workload import Workload, vidur_lines

VERSION = "0.0.26"
_TIMEOUT_S = 900.0


@dataclass(frozen=True, slots=True)
class Simulated:
    """The cost of a simulation, and what it reports. `own_s` is CPU time of its event loop."""

    ran: Ran
    own_s: float
    finished: int
    restarts: int
    mean_e2e_s: float


def installed() -> Path:
    """Install it, once; return its interpreter. Raises RunFailedError."""
    return environment_with(f"vidur-{VERSION}", [f"vidur=={VERSION}"])


def simulate(
    python: Path,
    workload: Workload,
    preset: Preset,
    instances: int,
    limits: tuple[int, int],
    folder: Path,
) -> Simulated:
    """Simulate a workload; `limits` are sequences and tokens per step. Raises RunFailedError.

    Engines have our preset's step times (see `vidur_child`) and twice its memory, because a
    preemption in this package ends in an assertion of its own: a restart does not forget what it
    had computed.
    """
    trace = folder / f"vidur-{len(workload)}.csv"
    if not trace.is_file():
        with trace.open("w") as file:
            file.writelines(vidur_lines(workload))
    assert isinstance(preset.costs, LinearCosts)
    given = {
        "requests": str(trace),
        "costs": asdict(preset.costs),
        "instances": instances,
        "block_tokens": preset.block_tokens,
        "blocks": 2 * preset.capacity_tokens // preset.block_tokens,
        "max_num_seqs": limits[0],
        "token_budget": limits[1],
        "folder": str(folder / "vidur"),
    }
    child = Path(__file__).with_name("vidur_child.py")
    ran = run_pinned(
        [python, child, json.dumps(given)],
        timeout_s=_TIMEOUT_S,
        folder=folder,
        environment={"WANDB_MODE": "disabled"},
    )
    said: dict[str, Any] = json.loads(ran.output.splitlines()[-1])
    return Simulated(
        ran, said["simulation_s"], said["finished"], said["restarts"], said["mean_e2e_s"]
    )
