"""`llumnix serve`: the frontend and the fleet behind it, in one process or in several."""

import argparse
import dataclasses
import json
import sys
from typing import Any

from llumnix.arguments import log_config
from llumnix.commands.emulate import child_arguments
from llumnix.config import Config, flags_given, load_config
from llumnix.errors import ConfigError
from llumnix.flags import add_config, add_flag_groups, group_of
from llumnix.frontend.config import FrontendConfig
from llumnix.instances.config import FleetConfig, InstanceSpec
from llumnix.logs.setup import configure
from llumnix.processes.event_loop import run_async
from llumnix.processes.exit_with_parent import exit_with_parent
from llumnix.processes.open_files import raise_limit
from llumnix.reload import Reloader
from llumnix.service import Service, fleet_secret, run_frontend
from llumnix.workers.apart import ApartFrontend
from llumnix.workers.setup import Settings
from llumnix.workers.supervisor import Supervisor
from policies.dispatch import dispatch_policies
from policies.registry import PolicyError, PolicySpec
from policies.scheduler import SchedulerConfig

FLEET_GROUPS = {
    "fleet": ("instances_file", "emulate", "speed", "secret_file", "start_timeout_s"),
    "keys and TLS of instances": (
        *("instance_api_key_file", "instance_ca_file", "instance_verify"),
        *("instance_cert_file", "instance_key_file"),
    ),
    "control links": ("control_tls_ca_file", "control_tls_cert_file", "control_tls_key_file"),
    "watching instances": (
        *("report_interval_s", "report_timeout_s", "poll_interval_s", "contact_timeout_s"),
        *("reconnect_min_s", "reconnect_max_s", "order_timeout_s", "assumed_capacity_tokens"),
    ),
    "faults": ("step_timeout_s", "breaker_failures", "breaker_open_s", "max_poisoned"),
}
FRONTEND_GROUPS = {
    "address": ("host", "port", "workers", "scheduler", "backlog"),
    "TLS": (
        *("tls_cert_file", "tls_key_file", "tls_client_ca_file"),
        *("admin_tls_cert_file", "admin_tls_key_file", "admin_tls_client_ca_file"),
    ),
    "API keys": ("api_keys_file",),
    "admin API": ("admin_host", "admin_port", "admin_token_file", "metrics_on_clients_port"),
    "speed": ("pump",),
    "limits": (
        *("max_connections", "header_limit_bytes"),
        *("queue_limit", "queue_timeout_s", "retry_after_s", "max_attempts"),
        *("body_limit_bytes", "body_expansion_limit", "queue_limit_bytes", "event_limit_bytes"),
    ),
    "deadlines": (
        *(
            "connect_timeout_s",
            "patience_s",
            "first_byte_timeout_s",
            "answer_timeout_s",
            "idle_timeout_s",
        ),
        *("header_timeout_s", "body_timeout_s", "body_rate_bytes_per_s", "keepalive_timeout_s"),
        *("claim_patience_s", "helper_timeout_s", "drain_delay_s", "shutdown_grace_s"),
    ),
}


def add_arguments(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the `serve` command."""
    parser = commands.add_parser(
        "serve",
        help="serve a fleet behind one OpenAI endpoint",
        description="Serve a fleet of instances behind one OpenAI-compatible endpoint: dispatch "
        "each request to the freest instance, move running requests between instances that have a "
        "llumlet, and keep every stream whole. Flags override --set, which overrides --config; "
        "`llumnix config` prints all settings.",
    )
    add_fleet(parser)
    add_flag_groups(parser, FrontendConfig, FRONTEND_GROUPS)
    add_config(parser)
    add_launchers(parser)
    parser.set_defaults(run=run)


def add_fleet(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say which instances there are, and how they are scheduled."""
    group_of(parser, "fleet").add_argument(
        "--instance",
        action="append",
        default=[],
        metavar="URL",
        help="base URL of a running server, such as http://gpu1:8000, or where to learn of "
        "servers: dns://NAME:PORT, srv://NAME, k8s://NAMESPACE/SERVICE; repeatable",
    )
    add_flag_groups(parser, FleetConfig, FLEET_GROUPS)
    _add_scheduling(parser)


def add_launchers(parser: argparse.ArgumentParser) -> None:
    """Add the flags of whoever starts this command for its own purposes."""
    launchers = group_of(parser, "launchers")
    launchers.add_argument(
        "--announce", action="store_true", help="print one line of JSON when ready"
    )
    launchers.add_argument(
        "--exit-with-parent", action="store_true", help="exit when standard input closes"
    )


def _add_scheduling(parser: argparse.ArgumentParser) -> None:
    group = group_of(parser, "scheduling")
    names = ", ".join(dispatch_policies.names())
    usual = SchedulerConfig().dispatch.name
    group.add_argument(
        "--policy", metavar="NAME", help=f"dispatch policy: {names} (default: {usual})"
    )
    group.add_argument(
        "--migration",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="move running requests between instances (default: yes)",
    )


def run(args: argparse.Namespace) -> int:
    """Serve until stopped."""
    config = settings(args)
    configure(config.logs, background=True)
    raise_limit()
    if args.exit_with_parent:
        exit_with_parent()
    if not config.frontend.scheduler:
        insist_on_instances(config)
    elif has_instances(config):
        raise ConfigError(
            "--scheduler and instances exclude each other: give the instances to the scheduler"
        )
    service = _service(config)
    reloader = Reloader(lambda: settings(args), config, service)
    try:
        return run_async(
            run_frontend(
                service,
                lambda url, admin_url: _ready(url, admin_url, config, args.announce),
                reloader.reload,
            )
        )
    except OSError as error:
        raise ConfigError(
            f"cannot listen: {error.strerror or error}; choose another port with --port or "
            "--admin-port"
        ) from error


def has_instances(config: Config) -> bool:
    """Whether a configuration names instances, or where to learn of them."""
    fleet = config.fleet
    return bool(fleet.emulate or fleet.instances or fleet.instances_file)


def insist_on_instances(config: Config) -> None:
    """Refuse a fleet that can have no instances. Raises ConfigError."""
    if not has_instances(config):
        raise ConfigError(
            "there is nothing to serve: name running servers with --instance URL, or start "
            "emulated ones with --emulate 4"
        )


def _service(config: Config) -> Service | Supervisor | ApartFrontend:
    arguments = child_arguments(config)
    sections = (config.fleet, config.scheduler, config.frontend, config.logs)
    try:
        if config.frontend.scheduler:
            return ApartFrontend(Settings(*sections), fleet_secret(config.fleet))
        if config.frontend.workers > 1:
            return Supervisor(Settings(*sections), fleet_secret(config.fleet), arguments)
        return Service(config.fleet, config.scheduler, config.frontend, emulator_args=arguments)
    except (PolicyError, ValueError) as error:
        raise ConfigError(str(error)) from error


def settings(args: argparse.Namespace) -> Config:
    """Merge file, `--set` and flags into one configuration; raises ConfigError."""
    config = load_config(args.config, args.set)
    fleet: dict[str, Any] = flags_given(args, FleetConfig)
    frontend: dict[str, Any] = flags_given(args, FrontendConfig)
    scheduler: dict[str, Any] = {}
    if args.instance:
        fleet["instances"] = tuple(_instance(url) for url in args.instance)
    if args.policy is not None:
        same = config.scheduler.dispatch.name == args.policy
        params = config.scheduler.dispatch.params if same else {}
        scheduler["dispatch"] = PolicySpec(args.policy, params)
    if args.migration is not None:
        scheduler["migration"] = args.migration
    try:
        return dataclasses.replace(
            config,
            logs=log_config(args, config.logs),
            fleet=dataclasses.replace(config.fleet, **fleet),
            frontend=dataclasses.replace(config.frontend, **frontend),
            scheduler=dataclasses.replace(config.scheduler, **scheduler),
        )
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _listed(fleet: FleetConfig) -> str:
    sources = sum(bool(each.source) for each in fleet.instances) + bool(fleet.instances_file)
    count = fleet.emulate + sum(not each.source for each in fleet.instances)
    of_sources = f"those of {sources} source{'s' if sources > 1 else ''}"
    listed = f"{count} instance{'' if count == 1 else 's'}"
    return f"{listed} and {of_sources}" if count and sources else of_sources if sources else listed


def _instance(url: str) -> InstanceSpec:
    try:
        return InstanceSpec(url)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _ready(url: str, admin_url: str, config: Config, announce: bool) -> None:
    if announce:
        sys.stdout.write(json.dumps({"url": url, "admin_url": admin_url}) + "\n")
        sys.stdout.flush()
        return
    if config.frontend.scheduler:
        sys.stdout.write(f"serving at {url}, scheduled by {config.frontend.scheduler}\n")
        sys.stdout.flush()
        return
    moving = "with" if config.scheduler.migration else "without"
    sys.stdout.write(
        f"serving {_listed(config.fleet)} at {url}, dispatch {config.scheduler.dispatch.name}, "
        f"{moving} migration\n  try: curl {url}/v1/completions -H 'Content-Type: application/json' "
        '-d \'{"prompt": "Hello", "max_tokens": 20}\'\n'
        f"  watch: llumnix top --url {admin_url}\n"
    )
    sys.stdout.flush()
