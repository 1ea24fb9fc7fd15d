"""The `llumnix` command: one place that lists the commands, and turns errors into exit codes.

Exit codes: 0 all well, 1 the work was done but something in it failed, 2 it could not be done
(wrong flags, unreachable server, broken file), 130 interrupted.
"""

import argparse
import logging
import sys
from collections.abc import Sequence

from llumnix import (
    __version__,
    calibrate,
    compare,
    dashboards,
    demo,
    emulate,
    fleet_commands,
    replay,
    serve_command,
    show_config,
    simulate,
    sweep,
    top,
    tune,
    vllm_command,
    workload,
)
from llumnix.errors import LlumnixError

DESCRIPTION = """\
Llumnix schedules requests over a fleet of LLM serving instances and moves running requests
between them, KV cache included, while they keep streaming to their clients."""

EPILOG = """\
first steps:
  llumnix demo                                  see it work, on emulated GPUs, in three minutes
  llumnix serve --emulate 4                     an OpenAI endpoint over four emulated instances
  llumnix serve --instance http://gpu1:8000     ... over your own servers
  llumnix top                                   watch it live"""


def parser() -> argparse.ArgumentParser:
    """Build the whole command line."""
    top_level = argparse.ArgumentParser(
        prog="llumnix",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top_level.add_argument("--version", action="version", version=f"llumnix {__version__}")
    top_level.add_argument(
        "--log-level",
        default="warning",
        choices=["debug", "info", "warning", "error"],
        help="how much to log on stderr (default: warning)",
    )
    commands = top_level.add_subparsers(title="commands", metavar="COMMAND", dest="command")
    for module in (serve_command, vllm_command, demo, replay, top, fleet_commands):
        module.add_arguments(commands)
    for module in (emulate, simulate, compare, sweep, tune, workload, calibrate):
        module.add_arguments(commands)
    dashboards.add_arguments(commands)
    show_config.add_arguments(commands)
    return top_level


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the console script's entry point."""
    top_level = parser()
    args = top_level.parse_args(argv)
    if args.command is None:
        top_level.print_help()
        return 2
    logging.basicConfig(
        level=args.log_level.upper(),
        format="%(asctime)s %(levelname)-7s %(name)s %(message)s",
        stream=sys.stderr,
    )
    try:
        return int(args.run(args))
    except LlumnixError as error:
        print(f"llumnix {args.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        sys.stderr.close()
        return 1


if __name__ == "__main__":
    sys.exit(main())
