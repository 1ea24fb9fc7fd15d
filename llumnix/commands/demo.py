"""`llumnix demo`: the same workload under several policies, side by side."""

import argparse
import importlib.metadata
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path

import uvloop
from rich.console import Console

from llumnix import __version__
from llumnix.config import load_config
from llumnix.emulator.model.answer import expected_output
from llumnix.emulator.model.vocabulary import decode
from llumnix.errors import ConfigError
from llumnix.loadgen import OutputChecker, PromptSource
from llumnix.report import RunReport, require_plots, write_report
from llumnix.results.json_output import write_json
from llumnix.results.progress import RunProgress
from llumnix.results.table import results_table
from llumnix.testbed import demo as real
from llumnix.testbed.environment import VERSIONS
from llumnix.testbed.trial import FleetShape, Launchable, PolicyChoice, TrialOutcome, run_trial
from llumnix.workloads import SOURCE_HELP, load_workload
from policies.dispatch import dispatch_policies
from policies.registry import PolicyError
from simulator.costs.capacity import fluid_rate_per_s
from simulator.costs.presets import PRESETS, preset
from simulator.workload.request import TraceRequest

POLICIES = ("round-robin", "load-aware", "freeness")
DEFAULT_LOAD = 0.8
"""Of the fluid bound: about 85 % of the rate at which queues begin to grow (the knee)."""
CHECKERS = 2


def add_arguments(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the `demo` command."""
    parser = commands.add_parser(
        "demo",
        help="see it work: three policies on one workload, on emulated GPUs or real vLLM",
        description="Start emulated LLaMA-7B/A10 instances and a frontend, replay the same "
        "workload under several policies, each on a fresh fleet, compare every output token with "
        "what it must be, and print a table and an HTML report. Exit status: 0 every run valid "
        "and every token right, 1 otherwise, 2 not run.",
    )
    parser.add_argument(
        "--engine",
        default="emulated",
        choices=("emulated", "vllm"),
        help="what the instances are: emulated GPUs, or real vLLM servers with a tiny model on "
        "this machine's CPU (the first time, their environment is built: minutes, about 3 GB)",
    )
    parser.add_argument("--trace", default="azure-conv-2023", metavar="WORKLOAD", help=SOURCE_HELP)
    parser.add_argument(
        "--requests", type=int, metavar="N", help="how many (default 500; with vLLM 80)"
    )
    parser.add_argument(
        "--instances", type=int, metavar="N", help="how many (default 4; with vLLM 2)"
    )
    parser.add_argument(
        "--policy",
        action="append",
        metavar="NAME[+migration|-migration]",
        help="a dispatch policy to run, repeatable; `freeness` migrates, others do not, unless "
        f"said (default: {', '.join(POLICIES)})",
    )
    parser.add_argument(
        "--speed",
        type=float,
        metavar="X",
        help="emulated seconds per wall second (default 6; a run too fast for this machine is "
        "marked invalid)",
    )
    parser.add_argument(
        "--retries",
        type=int,
        default=1,
        metavar="N",
        help="how often a run that this machine was too busy for is repeated (default 1)",
    )
    _add_load_arguments(parser)
    parser.add_argument("--json", metavar="FILE", help="write the results as JSON; - is stdout")
    parser.add_argument(
        "--report",
        default="llumnix-demo.html",
        metavar="FILE",
        help="where to write the HTML report (default llumnix-demo.html)",
    )
    parser.set_defaults(run=run)


def _add_load_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--load",
        type=float,
        default=DEFAULT_LOAD,
        help="arrival rate as a share of what perfectly placed instances could do "
        f"(default {DEFAULT_LOAD}: about 85 %% of the knee)",
    )
    parser.add_argument("--rate", type=float, metavar="RPS", help="requests per second, instead")
    parser.add_argument("--seed", type=int, default=0, help="another seed, another draw")
    parser.add_argument(
        "--high-share", type=float, default=0.0, metavar="SHARE", help="share of class `high`"
    )
    parser.add_argument(
        "--preset", default="llama-7b-a10", choices=sorted(PRESETS), help="the emulated GPU"
    )
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="a setting of the fleet (see `llumnix config`)",
    )
    parser.add_argument("--log-dir", type=Path, help="keep the fleets' logs in this folder")


def run(args: argparse.Namespace) -> int:
    """Run every policy, then report."""
    require_plots()  # now, not when four minutes are over
    _settle(args)
    report = Path(args.report)
    for target in (report, Path(args.json or "-")):
        if not target.parent.is_dir():
            raise ConfigError(f"there is no folder {target.parent} to write {target.name} into")
    choices = _choices(args)
    console = Console(stderr=args.json == "-")
    on_engine = _on_vllm if args.engine == "vllm" else _on_emulators
    requests, outcomes = uvloop.run(on_engine(args, choices, console))
    console.print(results_table([outcome.result for outcome in outcomes]))
    for outcome in outcomes:
        for problem in (*outcome.result.invalid_reasons, *outcome.result.errors):
            console.print(f"{outcome.result.policy}: {problem}", highlight=False, markup=False)
    write_report(report, [_report(one) for one in outcomes], _title(args), _meta(args, requests))
    console.print(f"report: {report}", highlight=False)
    write_json(args.json, {"runs": [outcome.result.to_json() for outcome in outcomes]})
    return 0 if all(outcome.result.ok for outcome in outcomes) else 1


def _settle(args: argparse.Namespace) -> None:
    """Fill in what depends on the engine, and refuse what makes no sense."""
    on_cpu = args.engine == "vllm"
    if on_cpu and args.speed is not None:
        raise ConfigError("--speed is for emulated instances: real ones run as fast as they do")
    for name, emulated, cpu in (("requests", 500, 80), ("instances", 4, 2), ("speed", 6.0, 1.0)):
        if getattr(args, name) is None:
            setattr(args, name, cpu if on_cpu else emulated)
    if args.requests < 1 or args.instances < 1 or args.speed <= 0 or args.load <= 0:
        raise ConfigError("--requests, --instances, --speed and --load must be positive")
    if args.retries < 0:
        raise ConfigError("--retries must be 0 or more")


def _choices(args: argparse.Namespace) -> list[PolicyChoice]:
    """Read the policies and check all settings, before the first run rather than in the last."""
    choices = [PolicyChoice.parse(text) for text in args.policy or POLICIES]
    load_config(None, args.set)
    try:
        for choice in choices:
            dispatch_policies.params(choice.dispatch)
    except PolicyError as error:
        raise ConfigError(str(error)) from error
    return choices


Ran = tuple[Sequence[TraceRequest], list[TrialOutcome]]


async def _on_emulators(
    args: argparse.Namespace, choices: Sequence[PolicyChoice], console: Console
) -> Ran:
    requests = _workload(args)
    _headline(args, requests, console)
    shape = FleetShape(args.instances, args.speed, args.preset, tuple(args.set), args.log_dir)
    checker = OutputChecker(PromptSource(args.seed), expected_output, decode, processes=CHECKERS)
    return requests, await _run_all(args, choices, requests, shape, checker)


async def _on_vllm(
    args: argparse.Namespace, choices: Sequence[PolicyChoice], console: Console
) -> Ran:
    drawn = load_workload(args.trace, args.requests, args.rate, args.seed, args.high_share)
    requests = real.cut_down(drawn)
    settings = tuple(args.set)
    async with real.launched_fleet(VERSIONS[0], args.instances, settings, args.log_dir) as fleet:
        rehearsal = await real.rehearse(fleet, requests, args.seed)
        if args.rate is None:
            requests = real.at_load(requests, rehearsal, args.load)
        _headline(args, requests, console)
        return requests, await _run_all(args, choices, requests, fleet, rehearsal.checker)


async def _run_all(
    args: argparse.Namespace,
    choices: Sequence[PolicyChoice],
    requests: Sequence[TraceRequest],
    shape: Launchable,
    checker: OutputChecker,
) -> list[TrialOutcome]:
    outcomes = []
    for choice in choices:
        label = f"{choice.dispatch}{' + migration' if choice.migration else ''}"
        for tries_left in range(args.retries, -1, -1):
            with RunProgress(f"{label:<22}") as progress:
                outcome = await run_trial(choice, shape, requests, checker, args.seed, progress)
            if outcome.result.valid or not tries_left:
                break
            why = "; ".join(outcome.result.invalid_reasons)
            print(f"{label}: not valid, once more ({why})", file=sys.stderr)
        outcomes.append(outcome)
    return outcomes


def _workload(args: argparse.Namespace) -> list[TraceRequest]:
    requests = load_workload(args.trace, args.requests, None, args.seed, args.high_share)
    if args.rate is not None:
        return load_workload(args.trace, args.requests, args.rate, args.seed, args.high_share)
    gpu = preset(args.preset)
    served = [one for one in requests if one.prompt_tokens + one.output_tokens <= gpu.max_model_len]
    if not served:
        raise ConfigError(f"every request of {args.trace} is longer than the model's limit")
    bound = fluid_rate_per_s(served, gpu.costs, gpu.capacity_tokens, args.instances)
    rate = args.load * bound
    return load_workload(args.trace, args.requests, rate, args.seed, args.high_share)


def _headline(args: argparse.Namespace, requests: Sequence[TraceRequest], console: Console) -> None:
    span_s = requests[-1].arrival_s - requests[0].arrival_s
    rate = f"{(len(requests) - 1) / span_s:.2f} a second" if span_s > 0 else "at once"
    how = f", {args.speed:g} times faster than real time" if args.engine == "emulated" else ""
    console.print(
        f"{len(requests)} requests of {args.trace}, {rate}, on {args.instances} "
        f"{_instances(args)}{how}; every output is checked",
        highlight=False,
    )


def _instances(args: argparse.Namespace) -> str:
    if args.engine == "vllm":
        return f"vLLM {VERSIONS[0]} servers (CPU, a tiny model with paced steps, lengths cut down)"
    return f"emulated instances ({args.preset})"


def _report(outcome: TrialOutcome) -> RunReport:
    done = [record for record in outcome.records if record.finish_reason]
    return RunReport(
        result=outcome.result.to_json(),
        ttft_s=[record.ttft_s for record in done if record.ttft_s is not None],
        tpot_s=[record.tpot_s for record in done if record.tpot_s is not None],
        downtime_ms=list(outcome.downtimes_ms),
        freeness=outcome.watch.freeness,
        kv_used=outcome.watch.kv_tokens,
        migrations=outcome.watch.moves,
    )


def _title(args: argparse.Namespace) -> str:
    return f"{Path(str(args.trace)).name.split('.')[0]} on {args.instances} instances"


def _meta(args: argparse.Namespace, requests: Sequence[TraceRequest]) -> dict[str, str]:
    span_s = requests[-1].arrival_s
    return {
        "workload": f"{Path(str(args.trace)).name}, {len(requests)} requests over {span_s:.0f} s",
        "instances": f"{args.instances} {_instances(args)}"
        + (f": {preset(args.preset).source}" if args.engine == "emulated" else ""),
        "speed": f"{args.speed:g} emulated seconds per wall second"
        if args.engine == "emulated"
        else "real time",
        "seed": str(args.seed),
        "machine": f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores",
        "versions": f"llumnix {__version__}, Python {platform.python_version()}, "
        f"aiohttp {importlib.metadata.version('aiohttp')}",
    }
