"""`llumnix requests`: what a running fleet is serving, where, and what cannot be moved."""

import argparse
import json
import sys

from rich.console import Console
from rich.table import Table
from rich.text import Text

from llumnix.admin.connect import admin_client
from llumnix.admin.schema import RequestStatus
from llumnix.commands.operating.steering import add_command


def add_arguments(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the CLI."""
    parser = add_command(
        subparsers,
        "requests",
        run,
        "list the requests that a running fleet is serving",
        "Those that cannot be moved stay on their instance until they end, also while it is "
        "drained; the last column says why.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(args: argparse.Namespace) -> int:
    """List the requests; return 0; raises LlumnixError."""
    requests = admin_client(args).requests()
    if args.json:
        rows = [each.to_json() for each in requests]
        sys.stdout.write(json.dumps(rows, indent=2) + "\n")
        return 0
    table = Table(box=None, pad_edge=False, header_style="bold")
    for title in ("request", "instance", "class", "state"):
        table.add_column(title, no_wrap=True)
    for title in ("age", "tokens"):
        table.add_column(title, justify="right")
    table.add_column("can be moved", no_wrap=True)
    for each in requests:
        table.add_row(*_cells(each))
    # Piped output is for programs: it must not be cut to some terminal's width.
    (Console() if sys.stdout.isatty() else Console(width=400)).print(table)
    return 0


def _cells(each: RequestStatus) -> tuple[Text, ...]:
    # Text, not str: what clients call their requests is never taken for markup.
    cells = (
        each.request_id,
        each.instance_id or "-",
        each.class_name,
        each.state,
        f"{each.age_s:,.1f} s",
        f"{each.tokens:,}",
        "yes" if each.movable else f"no: {each.why}",
    )
    return tuple(Text(cell) for cell in cells)
