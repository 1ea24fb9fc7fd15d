"""What the demo shows of its runs: cells of the table, and the report."""

import argparse
import importlib.metadata
import os
import platform
from collections.abc import Sequence
from pathlib import Path

from llumnix import __version__
from llumnix.loadgen.probe import LATE_STEPS_SHARE
from llumnix.report import RunReport
from llumnix.testbed.environment import VERSIONS
from llumnix.testbed.series import PolicyRun
from simulator.costs.presets import preset
from simulator.workload.request import TraceRequest


def trust_cells(run: PolicyRun) -> dict[str, str]:
    """Cells that say how far to trust a run."""
    late = run.outcome.validity.late_steps_share
    if late is None:
        return {}
    return {
        f"late steps (valid: ≤ {LATE_STEPS_SHARE:.0%})": f"{late:.2%}",
        "speed": f"{run.outcome.result.speed:g}",
    }


def instances_text(args: argparse.Namespace) -> str:
    """Name the kind of instances."""
    if args.engine == "vllm":
        return f"vLLM {VERSIONS[0]} servers (CPU, a tiny model with paced steps, lengths cut down)"
    return f"emulated instances ({args.preset})"


def run_report(run: PolicyRun) -> RunReport:
    """Give the report what it draws of a run."""
    outcome = run.outcome
    done = [record for record in outcome.records if record.finish_reason]
    return RunReport(
        result=run.to_json(),
        ttft_s=[record.ttft_s for record in done if record.ttft_s is not None],
        tpot_s=[record.tpot_s for record in done if record.tpot_s is not None],
        downtime_ms=list(outcome.downtimes_ms),
        freeness=outcome.watch.freeness,
        kv_used=outcome.watch.kv_tokens,
        migrations=outcome.watch.moves,
    )


def title(args: argparse.Namespace) -> str:
    """Name the whole report."""
    return f"{Path(str(args.trace)).name.split('.')[0]} on {args.instances} instances"


def facts(
    args: argparse.Namespace, requests: Sequence[TraceRequest], runs: Sequence[PolicyRun]
) -> dict[str, str]:
    """List what the runs have in common, for the report's footer."""
    speeds = sorted({one.outcome.result.speed for one in runs}, reverse=True)
    span_s = requests[-1].arrival_s
    return {
        "workload": f"{Path(str(args.trace)).name}, {len(requests)} requests over {span_s:.0f} s",
        "instances": f"{args.instances} {instances_text(args)}"
        + (f": {preset(args.preset).source}" if args.engine == "emulated" else ""),
        "speed": f"{' and '.join(f'{one:g}' for one in speeds)} emulated seconds per wall second"
        if args.engine == "emulated"
        else "real time",
        "seed": str(args.seed),
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores",
        "versions": f"llumnix {__version__}, Python {platform.python_version()}, "
        f"aiohttp {importlib.metadata.version('aiohttp')}",
    }
