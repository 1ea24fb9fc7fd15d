"""NVIDIA Dynamo's offline replay (`dynamo.replay`, a simulator in Rust) on the race's workload."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from speed_parts.process import Ran, environment_with, run_pinned
from speed_parts.workload import HASH_BLOCK_TOKENS, Workload, mooncake_lines

VERSION = "1.4.1"
Router = Literal["round_robin", "kv_router"]
_TIMEOUT_S = 600.0


@dataclass(frozen=True, slots=True)
class Replayed:
    """The cost of a replay, and what it reports. `own_wall_s` is its own figure."""

    ran: Ran
    own_wall_s: float
    finished: int
    decode_tokens: int


def installed() -> Path:
    """Install it, once; return its interpreter. Raises RunFailedError."""
    packages = [f"ai-dynamo=={VERSION}", f"ai-dynamo-runtime=={VERSION}"]
    return environment_with(f"ai-dynamo-{VERSION}", packages)


def replay(
    python: Path,
    workload: Workload,
    block_tokens: int,
    instances: int,
    router: Router,
    limits: tuple[int, int],
    folder: Path,
) -> Replayed:
    """Replay a workload; `limits` are sequences and tokens per step. Raises RunFailedError.

    Step times are those of its own default model, under which our preset's memory would be too
    small and the replay half as fast: so its engines have their default memory. It is faster
    without prefix caching too, and no two requests share a prefix.
    """
    trace = folder / f"mooncake-{len(workload)}.jsonl"
    if not trace.is_file():
        with trace.open("w") as file:
            file.writelines(mooncake_lines(workload))
    report = folder / "dynamo-report.json"
    engine = {
        "block_size": block_tokens,
        "max_num_seqs": limits[0],
        "max_num_batched_tokens": limits[1],
        "enable_prefix_caching": False,
    }
    command: list[str | Path] = [python, "-m", "dynamo.replay", trace, "--replay-mode", "offline"]
    command += ["--trace-block-size", str(HASH_BLOCK_TOKENS)]
    command += ["--num-workers", str(instances), "--router-mode", router]
    command += ["--extra-engine-args", json.dumps(engine), "--report-json", report]
    ran = run_pinned(command, timeout_s=_TIMEOUT_S, folder=folder)
    said: dict[str, Any] = json.loads(report.read_text())
    return Replayed(
        ran=ran,
        own_wall_s=said["wall_time_ms"] / 1000,
        finished=said["completed_requests"],
        decode_tokens=said["total_output_tokens"],
    )
