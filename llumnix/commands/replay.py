"""`llumnix replay`: send a workload to any OpenAI server and measure how it serves it."""

import argparse
import dataclasses
from collections.abc import Sequence

import uvloop
from rich.console import Console

from llumnix.admin.connect import admin_door_of
from llumnix.emulator.model.answer import expected_output
from llumnix.emulator.model.vocabulary import decode
from llumnix.errors import ConfigError
from llumnix.flags import add_slo, group_of, slo_of
from llumnix.loadgen import Endpoint, LoadOptions, OutputChecker, PromptSource, run_load
from llumnix.loadgen.probe import AdminAddress, ServerState, between, probe
from llumnix.loadgen.records import RequestRecord
from llumnix.results.json_output import write_json
from llumnix.results.progress import RunProgress
from llumnix.results.result import RunResult, summarise
from llumnix.results.table import results_table
from llumnix.workloads import SOURCE_HELP, add_drawing, load_workload
from simulator.workload.request import TraceRequest

CHECKERS = 2
"""The number of processes that compute expected outputs, after the run."""


def add_arguments(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the `replay` command."""
    parser = commands.add_parser(
        "replay",
        help="replay a workload against any OpenAI server, and measure",
        description="Send the requests of a workload to /v1/completions of an OpenAI-compatible "
        "server, each at its scheduled time whatever has become of the others (open loop), and "
        "report TTFT, TPOT, end-to-end latency and goodput. Latencies count from the scheduled "
        "arrival. Exit status: 0 if every request was served, 1 if any failed or the run is not "
        "valid, 2 if the run did not start.",
    )
    _add_server(parser)
    _add_workload(parser)
    add_slo(parser)
    output = group_of(parser, "output")
    output.add_argument("--json", metavar="FILE", help="write the result as JSON; - is stdout")
    output.add_argument(
        "--check",
        action="store_true",
        help="compare every output with the right one, token by token (emulated servers only)",
    )
    parser.set_defaults(run=run)


def _add_server(parser: argparse.ArgumentParser) -> None:
    group = group_of(parser, "server")
    group.add_argument(
        "--url",
        required=True,
        metavar="URL",
        help="base URL of the server, such as http://localhost:8000",
    )
    group.add_argument(
        "--model", metavar="NAME", help="model to ask for (default: the first one served)"
    )
    group.add_argument(
        "--header",
        action="append",
        default=[],
        metavar="NAME:VALUE",
        help="header for every request, such as 'Authorization: Bearer …'; repeatable",
    )
    group.add_argument(
        "--timeout-s",
        type=float,
        default=600.0,
        metavar="S",
        help="longest a request may take, in wall seconds (default: 600)",
    )
    group.add_argument(
        "--max-open",
        type=int,
        default=0,
        metavar="N",
        help="most requests open at once (default: no limit)",
    )


def _add_workload(parser: argparse.ArgumentParser) -> None:
    group = group_of(parser, "workload")
    group.add_argument(
        "--trace",
        default="azure-conv-2023",
        metavar="WORKLOAD",
        help=f"{SOURCE_HELP} (default: azure-conv-2023)",
    )
    add_drawing(group)
    group.add_argument(
        "--speed",
        type=float,
        metavar="X",
        help="fleet seconds per wall second (default: what an emulated server says, otherwise 1)",
    )
    group.add_argument(
        "--prompt-ids",
        default="256:4095",
        metavar="LOW:HIGH",
        help="range of token ids that prompts are drawn from (default: 256:4095)",
    )


def run(args: argparse.Namespace) -> int:
    """Replay, print a table (and JSON), and return the exit status."""
    try:
        endpoint = Endpoint.parse(args.url)
        headers = _headers(args.header)
        options = LoadOptions(
            model=args.model or "",
            speed=args.speed or 1.0,
            prompts=_prompts(args),
            return_token_ids=args.check,
            timeout_s=args.timeout_s,
            max_open=args.max_open,
            headers=headers,
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error
    requests = load_workload(args.trace, args.requests, args.rate, args.seed, args.high_share)
    result = uvloop.run(_replay(args, endpoint, options, requests))
    _print(result, args.json)
    return 0 if result.ok else 1


async def _replay(
    args: argparse.Namespace,
    endpoint: Endpoint,
    options: LoadOptions,
    requests: Sequence[TraceRequest],
) -> RunResult:
    door = admin_door_of(endpoint.url)
    admin = AdminAddress(door.url, door.token)
    before = await probe(endpoint, options.headers, admin)
    if args.check and not before.emulated:
        raise ConfigError(
            f"--check needs emulated engines, whose outputs are known: {endpoint.url} is not one"
        )
    options = dataclasses.replace(
        options, model=options.model or before.model, speed=_speed(args, before)
    )
    with RunProgress(f"replay of {args.trace}") as progress:
        records = await run_load(requests, endpoint, options, progress)
    after = await probe(endpoint, options.headers, admin)
    return _summarise(args, options, records, before, after)


def _summarise(
    args: argparse.Namespace,
    options: LoadOptions,
    records: Sequence[RequestRecord],
    before: ServerState,
    after: ServerState,
) -> RunResult:
    fleet = between(before, after)
    check = None
    if args.check:
        checker = OutputChecker(options.prompts, expected_output, decode, processes=CHECKERS)
        check = checker.check(records)
    return summarise(
        records,
        policy=fleet.policy,
        seed=args.seed,
        speed=options.speed,
        fleet=fleet,
        check=check,
        slo=slo_of(args),
    )


def _speed(args: argparse.Namespace, server: ServerState) -> float:
    if server.speed is not None and args.speed not in (None, server.speed):
        raise ConfigError(
            f"the server is emulated at speed {server.speed:g}: omit --speed {args.speed:g}, or "
            "start the server at that speed"
        )
    return float(server.speed or args.speed or 1.0)


def _prompts(args: argparse.Namespace) -> PromptSource:
    low, _, high = args.prompt_ids.partition(":")
    if not (low.isdigit() and high.isdigit()):
        raise ValueError(
            f"--prompt-ids must be LOW:HIGH, such as 256:4095, not {args.prompt_ids!r}"
        )
    return PromptSource(args.seed, int(low), int(high))


def _headers(texts: Sequence[str]) -> dict[str, str]:
    headers = {}
    for text in texts:
        name, colon, value = text.partition(":")
        if not colon or not name.strip():
            raise ValueError(f"--header must be 'NAME: VALUE', not {text!r}")
        headers[name.strip()] = value.strip()
    return headers


def _print(result: RunResult, json_to: str | None) -> None:
    table_to = Console(stderr=json_to == "-")
    table_to.print(results_table([result]))
    for reason in result.invalid_reasons:
        table_to.print(f"not valid: {reason}", highlight=False)
    for error in result.errors:
        table_to.print(f"error: {error}", highlight=False, markup=False)
    write_json(json_to, result.to_json())
