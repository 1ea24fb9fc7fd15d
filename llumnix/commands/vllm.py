"""`llumnix vllm -- ...`: `vllm serve` with the plugin switched on."""

import argparse
import importlib.util
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llumnix.config import flags_given
from llumnix.errors import ConfigError
from llumnix.flags import add_flag_groups
from migration.vllm.plugin import MODULE, NAME
from migration.vllm.settings import PluginSettings, SettingsError, read_secret, read_settings

FLAG = "--kv-transfer-config"
_ROLE = "kv_both"
GROUPS = {
    "identity": ("instance_id", "secret_file"),
    "control port": ("control_host", "control_port", "advertise_host", "advertise_port"),
    "copying KV cache": ("staging_bytes", "staging_dir", "copy_share", "hold_s"),
    "compatibility": ("allow_untested_vllm",),
}


def add_arguments(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the `vllm` command."""
    parser = commands.add_parser(
        "vllm",
        help="run `vllm serve` with live migration",
        usage="llumnix vllm [options] -- MODEL [any argument of `vllm serve`]",
        description="Run `vllm serve` with the arguments after `--`, and with a "
        f"{FLAG} that switches on the plugin, set up by the options before `--`. Needs vLLM in "
        "this environment (pip install 'llumnix-scheduler[vllm]') and the fleet's secret, in "
        "LLUMNIX_SECRET or in a file.",
    )
    add_flag_groups(parser, PluginSettings, GROUPS)
    parser.add_argument(
        "arguments", nargs="*", metavar="MODEL …", help="model and any arguments of `vllm serve`"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Replace this process with the server."""
    command = serve_command(args.arguments, flags_given(args, PluginSettings))
    os.execv(command[0], command)  # noqa: S606 - no shell, on purpose


def serve_command(arguments: Sequence[str], settings: dict[str, Any]) -> list[str]:
    """Return the whole command line; raises ConfigError if it cannot work."""
    if not arguments:
        raise ConfigError(
            "say which model to serve: llumnix vllm -- MODEL [arguments of `vllm serve`]"
        )
    rest, given = _split(arguments)
    config = transfer_config(given, settings)
    try:
        read_secret(read_settings(config["kv_connector_extra_config"]))
    except SettingsError as error:
        raise ConfigError(str(error)) from error
    if importlib.util.find_spec("vllm") is None:
        raise ConfigError(
            f"vLLM is not installed for {sys.executable}: "
            "pip install 'llumnix-scheduler[vllm]', or run `llumnix vllm` from vLLM's environment"
        )
    script = Path(sys.executable).with_name("vllm")
    start = (
        [str(script)] if script.is_file() else [sys.executable, "-m", "vllm.entrypoints.cli.main"]
    )
    return [*start, "serve", *rest, f"{FLAG}={json.dumps(config)}"]


def transfer_config(given: str | None, settings: dict[str, Any]) -> dict[str, Any]:
    """Merge the plugin into a given `--kv-transfer-config`; `settings` win over its own."""
    try:
        config: Any = json.loads(given) if given is not None else {}
    except ValueError as error:
        raise ConfigError(f"{FLAG} is not valid JSON: {error}") from error
    if not isinstance(config, dict):
        raise ConfigError(f"{FLAG} must be a JSON object, not {given}")
    connector = config.get("kv_connector", NAME)
    if connector != NAME:
        raise ConfigError(
            f"{FLAG} names the connector {connector}, but a server has only one connector and live "
            f"migration needs {NAME}: leave the other out, or run plain `vllm serve` (the frontend "
            "uses such a server untouched)"
        )
    role = config.get("kv_role", _ROLE)
    if role != _ROLE:
        raise ConfigError(
            f"kv_role in {FLAG} must be {_ROLE}, since requests move both ways; not {role}"
        )
    extra = config.get("kv_connector_extra_config", {})
    if not isinstance(extra, dict):
        raise ConfigError(f"kv_connector_extra_config must be a JSON object, not {extra}")
    return {
        "kv_load_failure_policy": "recompute",
        **config,
        "kv_connector": NAME,
        "kv_connector_module_path": MODULE,
        "kv_role": _ROLE,
        "kv_connector_extra_config": {**extra, **settings},
    }


def _split(arguments: Sequence[str]) -> tuple[list[str], str | None]:
    """Split `--kv-transfer-config` off the arguments, in whichever form it is written."""
    rest: list[str] = []
    given: list[str] = []
    coming = iter(arguments)
    for argument in coming:
        name, equals, value = argument.partition("=")
        flag = name.replace("_", "-")
        if flag.startswith(f"{FLAG}."):
            raise ConfigError(f"write {FLAG} as one JSON object; {argument} cannot be merged")
        if flag != FLAG:
            rest.append(argument)
        elif equals:
            given.append(value)
        else:
            given.append(next(coming, ""))
    if len(given) > 1:
        raise ConfigError(f"{FLAG} is given {len(given)} times")
    return rest, given[0] if given else None
