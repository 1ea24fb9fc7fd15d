"""`llumnix emulate`: one emulated engine, which behaves like a vLLM server with the plugin."""

import argparse
import dataclasses
import json
import os
import sys
from typing import Any

from llumnix.config import HOMES, Config, flags_given, load_config
from llumnix.emulator.config import EmulatorConfig
from llumnix.emulator.main import run_emulator
from llumnix.errors import ConfigError
from llumnix.flags import add_config, add_flag_groups, group_of
from llumnix.processes.event_loop import run_async
from llumnix.processes.exit_with_parent import exit_with_parent

GROUPS = {
    "address": ("instance_id", "host", "port", "control_port", "model"),
    "engine": ("preset", "speed", "capacity_tokens", "block_tokens", "max_model_len"),
    "batching": ("max_num_seqs", "token_budget", "default_class"),
    "KV cache bytes": ("kv_payload_bytes_per_token", "kv_pretouch"),
    "migration": ("claim_timeout_s", "link_bytes_per_s", "link_bytes_per_token"),
    "limits": ("max_waiting", "max_body_bytes"),
}


def add_arguments(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the `emulate` command."""
    parser = commands.add_parser(
        "emulate",
        help="run one emulated engine",
        description="Run one emulated engine: an OpenAI-compatible server with continuous "
        "batching, paged KV blocks that hold real bytes, and a llumlet that migrates them. Prints "
        "one line of JSON (its URL and control port) when ready. The fleet's shared secret is read "
        "from LLUMNIX_SECRET; without it the engine serves, but nothing can be migrated.",
    )
    add_flag_groups(parser, EmulatorConfig, GROUPS)
    add_config(parser)
    group_of(parser, "launchers").add_argument(
        "--exit-with-parent", action="store_true", help="exit when standard input closes"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Serve until stopped."""
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
    """Return arguments that give a child this process's emulator, migration and class settings."""
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
