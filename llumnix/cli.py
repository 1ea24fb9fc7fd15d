"""The `llumnix` command: dispatches to the commands and turns errors into exit statuses.

Exit status: 0 on success, 1 if the command ran but something failed, 2 if it could not run (wrong
flags, unreachable server, invalid file), 130 if it was interrupted.
"""

import argparse
import importlib
import sys
from collections.abc import Sequence

from llumnix import __version__
from llumnix.arguments import CommandParser, add_log_flags, log_config
from llumnix.errors import LlumnixError
from llumnix.logs.config import LogConfig
from llumnix.logs.setup import configure

COMMANDS = {
    "serve": "commands.serve",
    "scheduler": "commands.scheduler",
    "vllm": "commands.vllm",
    "demo": "commands.demo",
    "replay": "commands.replay",
    "top": "commands.operating.top",
    "instances": "commands.operating.steering",
    "migrate": "commands.operating.steering",
    "drain": "commands.operating.steering",
    "requests": "commands.operating.requests",
    "keys": "commands.keys",
    "add": "commands.operating.members",
    "remove": "commands.operating.members",
    "emulate": "commands.emulate",
    "simulate": "planning.simulate",
    "compare": "planning.compare",
    "sweep": "planning.sweep",
    "tune": "planning.tune",
    "workload": "commands.workload",
    "calibrate": "commands.calibrate",
    "dashboards": "commands.dashboards",
    "config": "commands.config",
}
"""Each command and its module; only the module of the command being run is imported."""

DESCRIPTION = """\
Llumnix schedules requests over a fleet of LLM serving instances and moves running requests
between them, KV cache included, while they keep streaming to their clients."""

EPILOG = """\
first steps:
  llumnix demo                                  see it work, on emulated GPUs, in three minutes
  llumnix serve --emulate 4                     an OpenAI endpoint over four emulated instances
  llumnix serve --instance http://gpu1:8000     ... over your own servers
  llumnix top                                   watch it live
  llumnix compare --rate 9.6 --requests 1000    would it help? three policies, simulated

exit status: 0 success, 1 something failed, 2 the command could not run, 130 interrupted"""


def parser(command: str | None = None) -> argparse.ArgumentParser:
    """Build the command line: for one command, or for all of them."""
    top_level = CommandParser(
        prog="llumnix",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    top_level.add_argument("--version", action="version", version=f"llumnix {__version__}")
    add_log_flags(top_level)
    commands = top_level.add_subparsers(title="commands", metavar="COMMAND", dest="command")
    modules = [COMMANDS[command]] if command else dict.fromkeys(COMMANDS.values())
    for name in modules:
        importlib.import_module(f"llumnix.{name}").add_arguments(commands)
    for each in commands.choices.values():
        add_log_flags(each, default=argparse.SUPPRESS)  # what stands before the command stays
    return top_level


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the console script's entry point."""
    words = sys.argv[1:] if argv is None else list(argv)
    top_level = parser(words[0] if words and words[0] in COMMANDS else None)
    args = top_level.parse_args(words)
    if args.command is None:
        top_level.print_help()
        return 2
    configure(log_config(args, LogConfig()))
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
