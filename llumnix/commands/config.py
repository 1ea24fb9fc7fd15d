"""`llumnix config`: print every setting with its value, meaning and unit, as a YAML file."""

import argparse
import sys

from llumnix.config import describe, load_config
from llumnix.flags import add_config


def add_arguments(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the `config` command."""
    parser = commands.add_parser(
        "config",
        help="print every setting and what it means, as YAML",
        description="Print every setting with its value, meaning and unit. The output is a file "
        "that `llumnix serve --config` accepts as it is.",
    )
    add_config(parser, "check this YAML file, and print it completed with all defaults")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print the configuration."""
    sys.stdout.write(describe(load_config(args.config, args.set)))
    return 0
