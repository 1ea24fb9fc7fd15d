"""`llumnix demo`: the same workload under several policies, side by side."""

import argparse
import math
import time
from collections.abc import Sequence
from pathlib import Path

import uvloop
from rich.console import Console

from llumnix.commands.demo_report import Demo, facts, run_report, title
from llumnix.config import load_config
from llumnix.emulator.model.answer import expected_output
from llumnix.emulator.model.vocabulary import decode
from llumnix.errors import ConfigError
from llumnix.loadgen import OutputChecker, PromptSource
from llumnix.report import require_plots, write_report
from llumnix.results.json_output import write_json
from llumnix.results.progress import RunProgress
from llumnix.results.validity import VALID_LATENESS
from llumnix.testbed import demo as real
from llumnix.testbed.environment import VERSIONS
from llumnix.testbed.pace import (
    FASTEST,
    SLOWEST,
    Pace,
    RunPlan,
    TimeBudget,
    expected_ends_s,
)
from llumnix.testbed.rehearsal import PATIENCE_S, REHEARSED_S, rehearse
from llumnix.testbed.series import PolicyRun, Series
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
TIME_S = 240.0
CHECK_S = 4.0
"""What a run takes more than a rehearsal for the comparison of its outputs: a first guess."""


def add_arguments(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the `demo` command."""
    parser = commands.add_parser(
        "demo",
        help="see it work: three policies on one workload, on emulated GPUs or real vLLM",
        description="Start emulated LLaMA-7B/A10 instances and a frontend, replay the same "
        "workload under several policies, each on a fresh fleet, compare every output token with "
        "what it must be, and print a table that grows and an HTML report. A busy machine gets a "
        "slower emulation and fewer requests; a run that was too late all the same is repeated, "
        "or marked. Exit status: 0 if every token is right, 1 if any is not, 2 if the demo did not "
        "start.",
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
        "--requests",
        type=int,
        metavar="N",
        help="how many (default: up to 500, as many as there is time for; with vLLM 80)",
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
    _add_pace_arguments(parser)
    _add_load_arguments(parser)
    parser.add_argument("--json", metavar="FILE", help="write the results as JSON; - is stdout")
    parser.add_argument(
        "--report",
        default="llumnix-demo.html",
        metavar="FILE",
        help="where to write the HTML report (default llumnix-demo.html)",
    )
    parser.set_defaults(run=run)


def _add_pace_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--speed",
        type=float,
        metavar="X",
        help="emulated seconds per wall second to begin with (default: what this machine is found "
        f"to carry, at most {FASTEST:g}); lowered when a run is too late to be valid",
    )
    parser.add_argument(
        "--retries",
        type=int,
        default=2,
        metavar="N",
        help="how often a run that this machine was too busy for is repeated, more slowly "
        "(default 2)",
    )
    parser.add_argument(
        "--time-s",
        type=float,
        metavar="S",
        help=f"wall seconds to get by with (default {TIME_S:g}; without bound if --requests is "
        "given, or with vLLM)",
    )


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
    began_s = time.monotonic()
    require_plots()  # now, not when four minutes are over
    _settle(args)
    report = Path(args.report)
    for target in (report, Path(args.json or "-")):
        if not target.parent.is_dir():
            raise ConfigError(f"there is no folder {target.parent} to write {target.name} into")
    demo = Demo(args, _choices(args), Console(stderr=args.json == "-"), began_s)
    requests, runs = uvloop.run(_on_vllm(demo) if args.engine == "vllm" else _on_emulators(demo))
    demo.close(runs)
    write_report(
        report, [run_report(one) for one in runs], title(args), facts(args, requests, runs)
    )
    demo.console.print(f"report: {report}", highlight=False)
    write_json(args.json, {"runs": [one.to_json() for one in runs]})
    return 0 if all(one.outcome.right for one in runs) else 1


def _settle(args: argparse.Namespace) -> None:
    """Fill in what depends on the engine, and refuse what makes no sense."""
    on_cpu = args.engine == "vllm"
    if on_cpu and args.speed is not None:
        raise ConfigError("--speed is for emulated instances: real ones run as fast as they do")
    if args.requests is None and args.time_s is None and not on_cpu:
        args.time_s = TIME_S
    for name, emulated, cpu in (("requests", 500, 80), ("instances", 4, 2)):
        if getattr(args, name) is None:
            setattr(args, name, cpu if on_cpu else emulated)
    positive = (args.requests, args.instances, args.load, args.speed, args.time_s)
    if any(value is not None and value <= 0 for value in positive):
        raise ConfigError("--requests, --instances, --speed, --load and --time-s must be positive")
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


Ran = tuple[Sequence[TraceRequest], list[PolicyRun]]


async def _on_emulators(demo: Demo) -> Ran:
    args = demo.args
    gpu = preset(args.preset)
    workload = _workload(args)
    checker = OutputChecker(PromptSource(args.seed), expected_output, decode, processes=CHECKERS)

    def shape(speed: float) -> FleetShape:
        return FleetShape(args.instances, speed, args.preset, tuple(args.set), args.log_dir)

    async def trial(choice: PolicyChoice, plan: RunPlan) -> TrialOutcome:
        requests = workload[: plan.requests]
        return await _trial(demo, choice, shape(plan.speed), requests, checker)

    pace = Pace(
        expected_ends_s(workload, gpu.costs.decode_base_ns / 1e9),
        TimeBudget.within(args.time_s or math.inf),
        args.retries,
        fastest=args.speed or FASTEST,
        slowest=min(SLOWEST, args.speed or FASTEST),
    )
    series = Series(pace, trial, demo.show, demo.elapsed_s)
    speed = args.speed or await _rehearsed(demo, series, shape(pace.fastest), workload)
    plan = series.first_plan(len(demo.choices), speed)
    demo.headline(workload[: plan.requests], len(workload))
    runs = await series.run(demo.choices, plan)
    return workload[: runs[0].outcome.result.requests], runs


async def _rehearsed(
    demo: Demo, series: Series, shape: FleetShape, workload: Sequence[TraceRequest]
) -> float:
    """Choose the speed to begin with by a rehearsal, and say why."""
    demo.say(f"finding out what this machine carries: {REHEARSED_S:g} s of load")
    began_s = demo.elapsed_s()
    hardest = max(demo.choices, key=lambda choice: choice.migration)
    late_steps = await rehearse(shape, hardest, workload, PromptSource(demo.args.seed))
    series.overhead_s = demo.elapsed_s() - began_s - REHEARSED_S + CHECK_S
    speed = series.pace.carried(shape.speed, math.inf if late_steps is None else late_steps)
    if late_steps is None:
        demo.say(f"speed {speed:g}, because even that took longer than {PATIENCE_S:g} s")
    else:
        demo.say(
            f"speed {speed:g}, because at speed {shape.speed:g} one step in a hundred was "
            f"{late_steps:.1f} decode steps late or more (a valid run may have {VALID_LATENESS:g})"
        )
    return speed


async def _on_vllm(demo: Demo) -> Ran:
    args = demo.args
    drawn = load_workload(args.trace, args.requests, args.rate, args.seed, args.high_share)
    requests = real.cut_down(drawn)
    settings = tuple(args.set)
    async with real.launched_fleet(VERSIONS[0], args.instances, settings, args.log_dir) as fleet:
        rehearsal = await real.rehearse(fleet, requests, args.seed)
        if args.rate is None:
            requests = real.at_load(requests, rehearsal, args.load)

        async def trial(choice: PolicyChoice, _plan: RunPlan) -> TrialOutcome:
            return await _trial(demo, choice, fleet, requests, rehearsal.checker)

        ends_s = [each.arrival_s for each in requests]
        pace = Pace(
            ends_s,
            TimeBudget.within(math.inf),
            args.retries,
            fastest=fleet.speed,
            slowest=fleet.speed,
        )
        series = Series(pace, trial, demo.show, demo.elapsed_s)
        demo.headline(requests, len(requests))
        return requests, await series.run(demo.choices, RunPlan(fleet.speed, len(requests)))


async def _trial(
    demo: Demo,
    choice: PolicyChoice,
    shape: Launchable,
    requests: Sequence[TraceRequest],
    checker: OutputChecker,
) -> TrialOutcome:
    label = f"{choice.dispatch}{' + migration' if choice.migration else ''}"
    with RunProgress(f"{label:<22}") as progress:
        return await run_trial(choice, shape, requests, checker, demo.args.seed, progress)


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
