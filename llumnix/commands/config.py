"""`llumnix config`: print every setting with its default, meaning and unit, as a YAML file."""

import argparse
import sys
from pathlib import Path

from llumnix.config import describe, load_config


def add_arguments(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the `config` command."""
    parser = commands.add_parser(
        "config",
        help="print the configuration, documented, as YAML",
        description="Print every setting with its value, meaning and unit: a file that "
        "`llumnix serve --config` accepts as it is.",
    )
    parser.add_argument("--config", type=Path, help="a YAML file to check and complete")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print it."""
    sys.stdout.write(describe(load_config(args.config, args.set)))
    return 0
