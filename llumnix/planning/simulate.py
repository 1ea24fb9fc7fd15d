"""`llumnix simulate`: serve a workload with a whole fleet in virtual time."""

import argparse
import dataclasses
import sys
from pathlib import Path
from typing import Any

from rich.console import Console

from llumnix.config import Config, flags_given, load_config
from llumnix.errors import ConfigError
from llumnix.flags import add_config, add_flag_groups, add_slo, group_of, slo_of
from llumnix.planning.files import write_perfetto, write_requests
from llumnix.planning.idle_seed import refuse_idle_seed
from llumnix.planning.idle_settings import refuse_idle
from llumnix.planning.outcome import result_of
from llumnix.planning.report import report_of, write_simulation
from llumnix.planning.time_breakdown import explain
from llumnix.report import require_plots
from llumnix.results.json_output import write_json
from llumnix.results.progress import RunProgress
from llumnix.results.table import results_table
from llumnix.testbed.trial import PolicyChoice
from llumnix.workloads import SOURCE_HELP, add_drawing, load_workload
from policies.dispatch import dispatch_policies
from policies.registry import PolicyError, PolicySpec
from policies.types import InstanceId
from simulator.fleet.life import Life
from simulator.fleet.options import Outage, SimulatorConfig
from simulator.fleets import ServingFleet, fleet_for
from simulator.workload.request import TraceRequest

POLICY_HELP = (
    f"dispatch policy: {', '.join(dispatch_policies.names())}; freeness migrates and others do "
    "not, unless written NAME+migration or NAME-migration"
)
FLEET_GROUPS = {
    "fleet": ("instances", "preset", "start_delay_s", "queue_limit", "report_interval_s"),
    "engine": (
        *("capacity_tokens", "block_tokens", "max_num_seqs", "token_budget", "schedules_ahead"),
        *("prefix_caching", "draft_tokens", "acceptance", "draft_us"),
    ),
    "migration": ("link_bytes_per_s", "message_latency_us", "copy_slowdown"),
    "simulation": ("kernel",),
}


def add_arguments(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the `simulate` command."""
    parser = commands.add_parser(
        "simulate",
        help="serve a workload with a fleet in virtual time",
        description="Serve a workload with a whole fleet in virtual time: the scheduler and the "
        "llumlets of a real fleet, over models of engines and network. Equal arguments give equal "
        "results, to the byte. Latencies count from the arrival. Exit status: 0 if every request "
        "was served, 1 if any was not, 2 if the run did not start.",
    )
    add_workload_arguments(parser)
    add_policy_argument(parser)
    add_fleet_arguments(parser)
    group_of(parser, "fleet").add_argument(
        "--outage",
        action="append",
        default=[],
        metavar="INSTANCE@S[+S]",
        help="let an instance die at a time, and return after a while, such as "
        "instance-0@60+30; repeatable (default: none)",
    )
    _add_outputs(parser)
    parser.set_defaults(run=run)


def add_workload_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say which workload is served."""
    group = group_of(parser, "workload")
    group.add_argument(
        "workload",
        nargs="?",
        default="azure-conv-2023",
        metavar="WORKLOAD",
        help=f"{SOURCE_HELP} (default: azure-conv-2023)",
    )
    add_drawing(group)


def add_policy_argument(parser: argparse.ArgumentParser) -> None:
    """Add the flag `policy` of commands that simulate one policy."""
    group_of(parser, "scheduling").add_argument(
        "--policy", metavar="NAME", help=f"{POLICY_HELP} (default: freeness)"
    )


def add_fleet_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say how the fleet is set up."""
    add_flag_groups(parser, SimulatorConfig, FLEET_GROUPS)
    add_config(parser, "read settings from a YAML file, as `llumnix serve` does")


def _add_outputs(parser: argparse.ArgumentParser) -> None:
    add_slo(parser)
    group = group_of(parser, "output")
    group.add_argument("--json", metavar="FILE", help="write the result as JSON; - is stdout")
    group.add_argument(
        "--out",
        type=Path,
        metavar="FILE",
        help="write one row per request to FILE.csv or FILE.parquet",
    )
    group.add_argument("--report", type=Path, metavar="FILE", help="write an HTML report")
    group.add_argument(
        "--perfetto", type=Path, metavar="FILE", help="write a trace for ui.perfetto.dev"
    )
    group.add_argument(
        "--why", type=int, metavar="N", help="explain where the time of request N went"
    )


def run(args: argparse.Namespace) -> int:
    """Simulate, print a table, write what was asked for, and return the exit status."""
    config = settings_of(args)
    refuse_idle(args, [config])
    if args.report is not None:
        require_plots()
    if args.seed:
        refuse_idle_seed("--seed", args.workload, args.requests, args.high_share, [config])
    requests = load_workload(args.workload, args.requests, args.rate, args.seed, args.high_share)
    if args.why is not None and not 0 <= args.why < len(requests):
        raise ConfigError(f"--why {args.why}: the workload has requests 0 to {len(requests) - 1}")
    outages = [outage(text) for text in args.outage]
    fleet, lives = simulate(config, requests, args.seed, outages, watch=args.report is not None)
    result = result_of(
        fleet, lives, policy=config.scheduler.dispatch.name, seed=args.seed, slo=slo_of(args)
    )
    if args.json != "-":
        Console().print(results_table([result]))
    write_json(args.json, result.to_json())
    if args.out is not None:
        write_requests(args.out, lives)
    if args.report is not None:
        report = report_of(fleet, lives, result)
        name = Path(args.workload).name.split(".")[0]
        write_simulation(args.report, [report], config, name, args.seed)
    if args.perfetto is not None:
        write_perfetto(args.perfetto, fleet, lives)
    if args.why is not None:
        Console().print(explain(lives[args.why]))
    return 0 if result.ok and not result.rejected else 1


def settings_of(args: argparse.Namespace) -> Config:
    """Merge file, `--set` and flags; raises ConfigError."""
    config = load_config(args.config, args.set)
    changes: dict[str, Any] = flags_given(args, SimulatorConfig)
    try:
        simulator = dataclasses.replace(config.simulator, **changes)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    scheduler = config.scheduler
    if args.policy:
        choice = PolicyChoice.parse(args.policy)
        spec = scheduler.dispatch
        if spec.name != choice.dispatch:
            spec = PolicySpec(choice.dispatch)
        scheduler = dataclasses.replace(scheduler, dispatch=spec, migration=choice.migration)
    return dataclasses.replace(config, simulator=simulator, scheduler=scheduler)


def simulate(
    config: Config,
    requests: list[TraceRequest],
    seed: int,
    outages: list[Outage],
    *,
    watch: bool = False,
) -> tuple[ServingFleet, list[Life]]:
    """Run one simulation, with a progress bar; raises ConfigError if it cannot be run."""
    try:
        fleet = fleet_for(
            config.simulator,
            config.scheduler,
            config.migration,
            seed,
            outages,
            requests=len(requests),
        )
        if fleet.walked_instead:
            sys.stderr.write(f"simulated step by step instead: {fleet.walked_instead}\n")
        fleet.looks = [] if watch else None
        with RunProgress("simulating") as progress:
            lives = fleet.run(requests, lambda done: progress(done, len(requests), fleet.running))
        return fleet, lives
    except (PolicyError, ValueError) as error:
        raise ConfigError(str(error)) from error


def outage(text: str) -> Outage:
    """Parse INSTANCE@S or INSTANCE@S+S."""
    name, at, times = text.partition("@")
    began, plus, down = times.partition("+")
    try:
        assert name
        assert at
        return Outage(InstanceId(name), float(began), float(down) if plus else None)
    except (AssertionError, ValueError):
        raise ConfigError(
            f"--outage must be INSTANCE@S or INSTANCE@S+S, such as instance-0@60+30, not {text!r}"
        ) from None
