"""`llumnix add` and `llumnix remove`: let an instance join or leave a running fleet."""

import argparse
import sys
import time
from collections.abc import Callable
from typing import Final

from llumnix.admin.client import AdminClient
from llumnix.admin.schema import FleetStatus, InstanceStatus
from llumnix.commands.operating.steering import add_command
from llumnix.errors import ConfigError

_ADDED_WAIT_S: Final = 60.0
_REMOVED_WAIT_S: Final = 600.0


def add_arguments(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the two commands to the CLI."""
    parser = add_command(
        subparsers,
        "add",
        add,
        "let a server join a running fleet",
        "It takes requests as soon as it is up. It is reached with the fleet's API key and TLS "
        "settings, and is a member until it is removed or the frontend ends.",
    )
    parser.add_argument("server", metavar="URL", help="its base URL, such as http://gpu1:8000")
    parser.add_argument(
        "--wait", action="store_true", help="wait until it is up; exit with 1 if it is not in time"
    )
    _add_wait_s(parser, _ADDED_WAIT_S)

    parser = add_command(
        subparsers,
        "remove",
        remove,
        "let an instance leave a running fleet",
        "It is drained first: it takes no new requests, those it runs are migrated, and it is "
        "forgotten once it is empty. No client loses its stream.",
    )
    parser.add_argument("instance", metavar="INSTANCE", help="its id, as `llumnix instances` says")
    parser.add_argument(
        "--now",
        action="store_true",
        help="forget it at once; what it streams flows on, and is resumed elsewhere when it stops",
    )
    parser.add_argument(
        "--wait", action="store_true", help="wait until it has left; exit with 1 if it has not"
    )
    _add_wait_s(parser, _REMOVED_WAIT_S)


def _add_wait_s(parser: argparse.ArgumentParser, default: float) -> None:
    parser.add_argument(
        "--wait-s",
        type=float,
        default=default,
        metavar="N",
        help="with --wait, wait up to N seconds (default: %(default)g)",
    )


def add(args: argparse.Namespace) -> int:
    """Add a server; return 0, or 1 (not up in time); raises LlumnixError."""
    client = AdminClient(args.url)
    url = client.add(args.server).url
    if not args.wait:
        sys.stdout.write(f"{url} is a member; `llumnix instances` says whether it is up\n")
        return 0

    def up(fleet: FleetStatus) -> bool:
        return any(each.state == "up" for each in _at(fleet, url))

    if not _wait(client, up, args.wait_s, args.poll_s):
        why = "".join(f": {each.detail}" for each in _at(client.fleet(), url) if each.detail)
        sys.stderr.write(f"{url} is not up after {args.wait_s:g} s{why}\n")
        return 1
    sys.stdout.write(f"{url} is up\n")
    return 0


def remove(args: argparse.Namespace) -> int:
    """Remove an instance; return 0, or 1 (still there); raises LlumnixError."""
    client = AdminClient(args.url)
    known = [each.instance_id for each in client.fleet().instances]
    if args.instance not in known:
        raise ConfigError(
            f"there is no instance {args.instance!r}; the fleet has: {', '.join(known) or 'none'}"
        )
    removed = client.remove(args.instance, now=args.now)
    if removed.state != "removed" and not args.wait:
        sys.stdout.write(f"{args.instance} leaves as soon as it is empty\n")
        return 0

    def gone(fleet: FleetStatus) -> bool:
        return not _at(fleet, removed.url)

    if not _wait(client, gone, args.wait_s, args.poll_s):
        sys.stderr.write(f"{args.instance} has not left after {args.wait_s:g} s\n")
        return 1
    sys.stdout.write(f"{args.instance} has left; it is safe to stop it\n")
    return 0


def _at(fleet: FleetStatus, url: str) -> list[InstanceStatus]:
    return [each for each in fleet.instances if each.url == url]


def _wait(
    client: AdminClient, done: Callable[[FleetStatus], bool], wait_s: float, poll_s: float
) -> bool:
    deadline = time.monotonic() + wait_s
    while not done(client.fleet()):
        if time.monotonic() > deadline:
            return False
        time.sleep(poll_s)
    return True
