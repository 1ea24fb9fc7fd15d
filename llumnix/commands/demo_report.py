"""What the demo shows of its runs: lines and tables while it goes on, then the report."""

import argparse
import importlib.metadata
import os
import platform
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from llumnix import __version__
from llumnix.loadgen.probe import LATE_STEPS_SHARE
from llumnix.report import RunReport
from llumnix.results.table import UNKNOWN, results_table
from llumnix.testbed.environment import VERSIONS
from llumnix.testbed.pace import RunPlan
from llumnix.testbed.series import PolicyRun
from llumnix.testbed.trial import PolicyChoice
from simulator.costs.presets import preset
from simulator.workload.request import TraceRequest


@dataclass(frozen=True, slots=True)
class Demo:
    """What is asked for, where it is shown, and when it began."""

    args: argparse.Namespace
    choices: Sequence[PolicyChoice]
    console: Console
    began_s: float

    def elapsed_s(self) -> float:
        """Wall seconds since it began."""
        return time.monotonic() - self.began_s

    def say(self, text: str) -> None:
        """Print a line."""
        self.console.print(text, highlight=False, markup=False)

    def headline(self, requests: Sequence[TraceRequest], asked: int) -> None:
        """Say what is replayed, on what."""
        args = self.args
        span_s = requests[-1].arrival_s - requests[0].arrival_s
        rate = f"{(len(requests) - 1) / span_s:.2f} a second" if span_s > 0 else "at once"
        cut = f" (of {asked}: there is no time for more)" if len(requests) < asked else ""
        self.say(
            f"{len(requests)} requests{cut} of {args.trace}, {rate}, on {args.instances} "
            f"{instances_text(args)}; every output is checked"
        )

    def show(self, runs: Sequence[PolicyRun], repeat: RunPlan | None) -> None:
        """Print the table so far, and what is repeated."""
        results = [one.outcome.result for one in runs]
        self.console.print(results_table(results, more=[trust_cells(one) for one in runs]))
        if repeat is not None:
            late = runs[-1].outcome.validity.late_steps_share
            why = "sent its requests late" if late is None else f"had {late:.1%} of its steps late"
            self.say(
                f"{results[-1].policy} {why}: once more at speed {repeat.speed:g}, "
                f"with {repeat.requests} requests"
            )

    def close(self, runs: Sequence[PolicyRun]) -> None:
        """Say what is wrong with the runs that were kept, if anything is."""
        for one in runs:
            result = one.outcome.result
            for problem in (*result.invalid_reasons, *result.errors):
                self.say(f"{result.policy}: {problem}")
        if any(one.outcome.validity.late for one in runs):
            self.say(
                "This machine was too busy: the times of runs marked NO are its own as well as "
                "the fleet's. With more time (--time-s) the emulation can be slower."
            )


def trust_cells(run: PolicyRun) -> dict[str, str]:
    """Cells that say how far to trust a run; unknown where nothing is emulated."""
    late = run.outcome.validity.late_steps_share
    return {
        f"late steps (valid: ≤ {LATE_STEPS_SHARE:.0%})": UNKNOWN if late is None else f"{late:.2%}",
        "speed": UNKNOWN if late is None else f"{run.outcome.result.speed:g}",
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
