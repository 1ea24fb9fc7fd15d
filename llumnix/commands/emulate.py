"""`llumnix emulate`: one emulated engine, speaking what a vLLM server with our plugin speaks."""

import argparse
import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Any

from llumnix.config import HOMES, Config, add_flags, flags_given, load_config
from llumnix.emulator.config import EmulatorConfig
from llumnix.emulator.main import run_emulator
from llumnix.errors import ConfigError
from llumnix.processes.event_loop import run_async
from llumnix.processes.exit_with_parent import exit_with_parent


def add_arguments(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the `emulate` command."""
    parser = commands.add_parser(
        "emulate",
        help="run one emulated engine",
        description="Run one emulated engine: an OpenAI server with continuous batching, paged KV "
        "blocks with real bytes in them, and a llumlet that migrates them. Prints one line of JSON "
        "(its URL and control port) when ready. The shared secret of a fleet is read from "
        "LLUMNIX_SECRET; without it the engine serves, but nothing can be migrated.",
    )
    add_flags(parser, EmulatorConfig)
    parser.add_argument("--config", type=Path, help="a YAML file (see `llumnix config`)")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.KEY=VALUE")
    parser.add_argument(
        "--exit-with-parent",
        action="store_true",
        help="stop when standard input closes (used by launchers)",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve until told to stop."""
    config = settings(args)
    secret = os.environ.get("LLUMNIX_SECRET", "").encode()
    if args.exit_with_parent:
        exit_with_parent()
    return run_async(run_emulator(config.emulator, secret, _announce, config.migration))


def settings(args: argparse.Namespace) -> Config:
    """Merge the file, `--set` and the flags into one configuration; raises ConfigError."""
    config = load_config(args.config, args.set)
    changes: dict[str, Any] = flags_given(args, EmulatorConfig)
    try:
        engine = dataclasses.replace(config.emulator, **changes)
    except ValueError as error:
        raise ConfigError(f"emulator: {error}") from error
    return dataclasses.replace(config, emulator=engine)


def child_arguments(config: Config) -> list[str]:
    """Arguments that give a child the emulator, migration and class settings of this process."""
    usual = Config()
    arguments = []
    for section in ("emulator", "migration"):
        ours, default = getattr(config, section), getattr(usual, section)
        for item in dataclasses.fields(ours):
            value = getattr(ours, item.name)
            if value != getattr(default, item.name) and f"{section}.{item.name}" not in HOMES:
                arguments += ["--set", f"{section}.{item.name}={json.dumps(value)}"]
    classes = [dataclasses.asdict(one) for one in config.scheduler.classes]
    if config.scheduler.classes != usual.scheduler.classes:
        arguments += ["--set", f"scheduler.classes={json.dumps(classes)}"]
    if config.scheduler.default_class != usual.scheduler.default_class:
        arguments += ["--set", f"scheduler.default_class={config.scheduler.default_class}"]
    return arguments


def _announce(ready: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(ready) + "\n")
    sys.stdout.flush()
