"""`llumnix scheduler`: the fleet, its queue and its admin API, for frontends elsewhere."""

import argparse
import json
import sys

from llumnix.commands import serve
from llumnix.commands.emulate import child_arguments
from llumnix.config import Config
from llumnix.errors import ConfigError
from llumnix.flags import add_config, add_flag_groups
from llumnix.frontend.config import FrontendConfig
from llumnix.logs.setup import configure
from llumnix.processes.event_loop import run_async
from llumnix.processes.exit_with_parent import exit_with_parent
from llumnix.processes.open_files import raise_limit
from llumnix.reload import Reloader
from llumnix.service import fleet_secret, run_frontend
from llumnix.workers.apart import LoneScheduler
from llumnix.workers.setup import Settings
from policies.registry import PolicyError

_GROUPS = {
    "TLS": ("admin_tls_cert_file", "admin_tls_key_file", "admin_tls_client_ca_file"),
    "admin API": ("admin_host", "admin_port", "admin_token_file"),
    "limits": ("queue_limit", "queue_timeout_s", "retry_after_s"),
}


def add_arguments(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the `scheduler` command."""
    parser = commands.add_parser(
        "scheduler",
        help="schedule for frontends on several machines",
        description="Run the scheduler of a fleet by itself: the instances, the queue, the orders "
        "and the admin API. Frontends reach it with `llumnix serve --scheduler HOST:PORT`; they "
        "prove that they know the fleet's secret, with TLS where --control-tls-… is given.",
    )
    parser.add_argument(
        "--listen", required=True, metavar="HOST:PORT", help="address that frontends connect to"
    )
    serve.add_fleet(parser)
    add_flag_groups(parser, FrontendConfig, _GROUPS)
    add_config(parser)
    serve.add_launchers(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Schedule until stopped."""
    config = serve.settings(args)
    configure(config.logs, background=True)
    raise_limit()
    if args.exit_with_parent:
        exit_with_parent()
    serve.insist_on_instances(config)
    service = _service(config, args.listen)
    reloader = Reloader(lambda: serve.settings(args), config, service)
    try:
        return run_async(
            run_frontend(
                service,
                lambda url, admin_url: _ready(url, admin_url, announce=args.announce),
                reloader.reload,
            )
        )
    except OSError as error:
        raise ConfigError(
            f"cannot listen: {error.strerror or error}; choose another port with --listen or "
            "--admin-port"
        ) from error


def _service(config: Config, listen: str) -> LoneScheduler:
    sections = Settings(config.fleet, config.scheduler, config.frontend, config.logs)
    try:
        secret = fleet_secret(config.fleet)
        return LoneScheduler(sections, secret, listen, child_arguments(config))
    except (PolicyError, ValueError) as error:
        raise ConfigError(str(error)) from error


def _ready(address: str, admin_url: str, *, announce: bool) -> None:
    if announce:
        told = json.dumps({"address": address, "admin_url": admin_url})
    else:
        told = f"scheduling at {address}\n  serve: llumnix serve --scheduler {address}"
        told += f"\n  watch: llumnix top --url {admin_url}"
    sys.stdout.write(told + "\n")
    sys.stdout.flush()
