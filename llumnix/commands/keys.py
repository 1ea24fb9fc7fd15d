"""`llumnix keys new`: make an API key for a tenant, and the entry that stores it."""

import argparse
import json
import sys
from typing import Any

from llumnix.errors import ConfigError
from llumnix.frontend.access.keys import StoredKey, hash_of, new_key

_LEAST_CHARACTERS = 20


def add_arguments(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the `keys` command."""
    parser = commands.add_parser("keys", help="make API keys for clients")
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    new = actions.add_parser(
        "new",
        help="make a key",
        description="Make a key. The key itself goes to standard error, once: only its hash is "
        "kept. Its entry goes to standard output: append it to the file that "
        "frontend.api_keys_file names (llumnix keys new --tenant acme >> keys.yaml), and reload "
        "the frontend.",
    )
    new.add_argument("--tenant", required=True, metavar="NAME", help="whom the key is for")
    new.add_argument("--name", default="", metavar="NAME", help="tells a tenant's keys apart")
    new.add_argument(
        "--default-class", metavar="CLASS", help="class of its requests (default: the fleet's)"
    )
    new.add_argument(
        "--highest-class",
        metavar="CLASS",
        help="most urgent class that its requests may ask for (default: its default class)",
    )
    new.add_argument("--requests-per-minute", type=int, metavar="N", help="default: no limit")
    new.add_argument(
        "--tokens-per-minute", type=int, metavar="N", help="input and output (default: no limit)"
    )
    new.add_argument("--concurrent-requests", type=int, metavar="N", help="default: no limit")
    new.add_argument(
        "--existing",
        action="store_true",
        help="store a key that clients already have: it is read from standard input",
    )
    new.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print a key and its entry; return 0; raises ConfigError for a value that makes no sense."""
    key = sys.stdin.readline().strip() if args.existing else new_key()
    if len(key) < _LEAST_CHARACTERS:
        raise ConfigError(
            f"a key needs at least {_LEAST_CHARACTERS} characters: a shorter one can be guessed"
        )
    names = (*("tenant", "name", "default_class", "highest_class"), "requests_per_minute")
    values: dict[str, Any] = {
        name: getattr(args, name) for name in (*names, "tokens_per_minute", "concurrent_requests")
    }
    entry = {name: value for name, value in values.items() if value not in (None, "")}
    try:
        StoredKey(sha256=hash_of(key), **entry)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    if not args.existing:
        sys.stderr.write(f"{key}\n")
    sys.stdout.write(f"- {json.dumps({'sha256': hash_of(key), **entry})}\n")
    return 0
