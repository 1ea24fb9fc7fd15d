"""`llumnix instances`, `migrate` and `drain`: inspect and control a running fleet."""

import argparse
import json
import sys
import time
from collections.abc import Callable
from typing import Final

from rich.console import Console
from rich.status import Status
from rich.table import Table
from rich.text import Text

from llumnix.admin.client import AdminClient
from llumnix.admin.connect import add_frontend, admin_client
from llumnix.admin.schema import EventRecord, InstanceStatus
from llumnix.errors import ConfigError

_POLL_S: Final = 0.2
_MIGRATION_WAIT_S: Final = 60.0
# A request sent just before the drain shows only in the instance's next report.
_EMPTY_POLLS: Final = 3
_ENDS: Final = ("committed", "aborted", "refused")
_STATE_STYLES: Final = {"up": "green", "draining": "yellow", "starting": "cyan", "down": "red"}


def add_arguments(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the three commands to the CLI."""
    parser = add_command(
        subparsers, "instances", instances, "list the instances of a running fleet"
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")

    parser = add_command(
        subparsers,
        "migrate",
        migrate,
        "move a running request to another instance",
        "Say which request, or which instance to relieve of one (it then chooses which). Without "
        "--destination it goes to the instance with the highest freeness. The request's client "
        "notices nothing.",
    )
    parser.add_argument("--request", metavar="ID", help="the request to move")
    parser.add_argument("--source", metavar="ID", help="the instance to move a request away from")
    parser.add_argument("--destination", metavar="ID", help="the instance to move it to")
    parser.add_argument(
        "--wait", action="store_true", help="wait for its end; exit with 1 if it was not moved"
    )

    parser = add_command(
        subparsers,
        "drain",
        drain,
        "move everything away from an instance",
        "The instance takes no new requests; those it runs are migrated, those it queues go "
        "elsewhere. No client loses its stream. Then it is safe to stop it.",
    )
    parser.add_argument("instance", metavar="INSTANCE", help="its id, as `llumnix instances` says")
    parser.add_argument("--undo", action="store_true", help="let it take requests again")
    parser.add_argument(
        "--wait-s",
        type=float,
        default=60.0,
        metavar="N",
        help="wait up to N seconds until it is empty; exit with 1 if it is not by then; "
        "0 does not wait (default: %(default)g)",
    )


def add_command(
    subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]",
    name: str,
    run: Callable[[argparse.Namespace], int],
    summary: str,
    description: str = "",
) -> argparse.ArgumentParser:
    """Add a command that talks to a running fleet's frontend."""
    parser = subparsers.add_parser(
        name, help=summary, description=f"{summary[0].upper()}{summary[1:]}. {description}".strip()
    )
    add_frontend(parser)
    parser.set_defaults(run=run, poll_s=_POLL_S, end_wait_s=_MIGRATION_WAIT_S)
    return parser


def instances(args: argparse.Namespace) -> int:
    """List the instances; return 0; raises LlumnixError."""
    fleet = admin_client(args).fleet()
    if args.json:
        rows = [each.to_json() for each in fleet.instances]
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
        return 0
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("instance", "state", "kind"):
        table.add_column(title)
    for title in ("freeness", "running", "waiting", "KV used", "reserved", "report"):
        table.add_column(title, justify="right")
    table.add_column("url", no_wrap=True)
    for each in fleet.instances:
        table.add_row(*_cells(each))
    _console().print(table)
    for each in fleet.instances:
        if each.detail:
            _console().print(Text(f"{each.instance_id} is not up ({each.reason}): {each.detail}"))
    for source in fleet.sources:
        if source.reason:
            _console().print(Text(f"source {source.source} fails: {source.reason}"))
    return 0


def _cells(each: InstanceStatus) -> tuple[Text, ...]:
    # Text, not str: what a server says of itself is never taken for markup.
    cells = (
        each.instance_id,
        each.state,
        each.kind,
        "-" if each.freeness is None else f"{each.freeness:,.0f}",
        str(each.running),
        str(each.waiting),
        f"{each.physical_tokens:,} of {each.capacity_tokens:,}",
        f"{each.reserved_tokens:,}",
        "never" if each.age_s is None else f"{each.age_s:.1f} s ago",
        each.url,
    )
    return tuple(Text(cell, _STATE_STYLES.get(cell, "")) for cell in cells)


def migrate(args: argparse.Namespace) -> int:
    """Order a migration; return 0 (ordered, or with --wait committed) or 1; raises LlumnixError."""
    if args.request is None and args.source is None:
        raise ConfigError("say which request to move (--request ID) or from where (--source ID)")
    client = admin_client(args)
    ordered = client.migrate(args.request, args.source, args.destination)
    migration_id = ordered.migration_id
    what = ordered.request_id or args.request or "a request"
    path = f"{ordered.source} → {ordered.destination}"
    sys.stdout.write(f"ordered migration {migration_id} of {what}: {path}\n")
    if not args.wait:
        return 0
    end = _end_of(client, migration_id, args.end_wait_s, args.poll_s)
    if end is None:
        sys.stderr.write(f"migration {migration_id} has not ended in {args.end_wait_s:g} s\n")
        return 1
    sys.stdout.write(f"{end.text}\n")
    return 0 if end.kind == "migration_committed" else 1


def _end_of(
    client: AdminClient, migration_id: str, wait_s: float, poll_s: float
) -> EventRecord | None:
    """Follow the events until this migration has ended; None if the time is up."""
    deadline = time.monotonic() + wait_s
    after = 0
    while time.monotonic() < deadline:
        news = client.events(after)
        after = news.next
        for event in news.events:
            kind = event.kind.removeprefix("migration_")
            if event.more.get("migration_id") == migration_id and kind in _ENDS:
                return event
        time.sleep(poll_s)
    return None


def drain(args: argparse.Namespace) -> int:
    """Drain an instance, or undo it; return 0, or 1 (not empty in time); raises LlumnixError."""
    client = admin_client(args)
    known = [each.instance_id for each in client.fleet().instances]
    if args.instance not in known:
        raise ConfigError(
            f"there is no instance {args.instance!r}; the fleet has: {', '.join(known) or 'none'}"
        )
    client.drain(args.instance, on=not args.undo)
    if args.undo:
        sys.stdout.write(f"{args.instance} takes requests again\n")
        return 0
    if args.wait_s <= 0:
        sys.stdout.write(f"{args.instance} is being drained\n")
        return 0
    with Console(stderr=True).status(Text(f"draining {args.instance}")) as status:
        return _wait_empty(client, args.instance, args.wait_s, args.poll_s, status)


def _wait_empty(
    client: AdminClient, instance_id: str, wait_s: float, poll_s: float, status: Status
) -> int:
    start = time.monotonic()
    empty_polls = 0
    while True:
        fleet = client.fleet()
        instance = fleet.instance(instance_id)
        took_s = time.monotonic() - start
        if instance is None or instance.down:
            sys.stderr.write(f"{instance_id} went away while it was being drained\n")
            return 1
        moving = fleet.leaving(instance_id)
        left = f"{instance.running} running, {instance.waiting} waiting, {moving} on the move"
        empty_polls = 0 if instance.running + instance.waiting + moving else empty_polls + 1
        if empty_polls == _EMPTY_POLLS:
            sys.stdout.write(
                f"{instance_id} is empty after {took_s:.1f} s; it is safe to stop it\n"
            )
            return 0
        if took_s > wait_s:
            sys.stderr.write(f"{instance_id} is not empty after {wait_s:g} s: {left}\n")
            return 1
        status.update(Text(f"draining {instance_id}: {left}"))
        time.sleep(poll_s)


def _console() -> Console:
    # Piped output is for programs: it must not be cut to some terminal's width.
    return Console() if sys.stdout.isatty() else Console(width=200)
