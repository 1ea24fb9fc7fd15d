"""Where frontends of other machines find their scheduler, and what protects the link."""

import ssl
from collections.abc import Sequence

from llumnix.errors import ConfigError
from llumnix.frontend.config import is_loopback
from llumnix.instances.config import FleetConfig
from llumnix.instances.plugged import control_config
from migration.links.tls import LinkTls, link_tls

_MAX_PORT = 65535


def read_address(text: str, flag: str) -> tuple[str, int]:
    """Read HOST:PORT; an IPv6 address stands in brackets. Raises ConfigError."""
    host, colon, port = text.rpartition(":")
    bare = host.removeprefix("[").removesuffix("]")
    wrong = not (colon and bare) or not port.isascii() or not port.isdigit()
    if wrong or int(port) > _MAX_PORT or (":" in bare and bare == host):
        raise ConfigError(f"{flag} must be HOST:PORT, such as 10.0.0.5:9020, not {text!r}")
    return bare, int(port)


def insist_on_secret(secret: bytes, hosts: Sequence[str]) -> None:
    """Refuse a link that others could join. Raises ConfigError."""
    if not secret and not all(map(is_loopback, hosts)):
        raise ConfigError(
            "a scheduler that other machines reach needs the fleet's secret: give --secret-file, "
            "or LLUMNIX_SECRET, to it and to all of its frontends"
        )


def server_tls(config: FleetConfig) -> ssl.SSLContext | None:
    """Return the TLS settings of the scheduler's end, as control links have it."""
    found = _tls(config)
    return None if found is None else found.server


def client_tls(config: FleetConfig) -> ssl.SSLContext | None:
    """Return the TLS settings of a frontend's end."""
    found = _tls(config)
    return None if found is None else found.client


def _tls(config: FleetConfig) -> LinkTls | None:
    try:
        return link_tls(control_config(config))
    except ValueError as error:
        raise ConfigError(str(error)) from error
