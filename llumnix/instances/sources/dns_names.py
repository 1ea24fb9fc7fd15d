"""DNS names with several addresses, such as a headless Service, and SRV records."""

import asyncio
import socket
from typing import TYPE_CHECKING

from llumnix.errors import ConfigError
from llumnix.instances.config import InstanceSpec
from llumnix.instances.endpoints.address import BadAddress
from llumnix.instances.sources.source import Asked, Listing, SourceFailed
from llumnix.instances.sources.url import SourceUrl

if TYPE_CHECKING:
    from dns.asyncresolver import Resolver

_TIMEOUT_S = 5.0


def address_source(spec: InstanceSpec, interval_s: float) -> Asked:
    """Follow the addresses of `dns://NAME:PORT`, as the system resolves them. Raises BadAddress."""
    url = SourceUrl.parse(spec)
    if not url.host or url.port is None:
        raise BadAddress(f"{spec.url!r} must name a host and a port, as dns://gpus:8000 does")
    host, port = url.host, url.port

    async def ask() -> Listing:
        found = await _resolve(host, port)
        return tuple(url.server(each, port, url.path, server_name=host) for each in found)

    return Asked(spec.url, ask, interval_s)


async def _resolve(host: str, port: int) -> list[str]:
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            rows = await asyncio.get_running_loop().getaddrinfo(
                host, port, type=socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG
            )
    except TimeoutError as error:
        raise SourceFailed(f"looking up {host} took more than {_TIMEOUT_S:g} s") from error
    except OSError as error:
        raise SourceFailed(f"{host} cannot be looked up: {error.strerror or error}") from error
    # Sorted: resolvers rotate what they return.
    found = sorted({str(row[4][0]) for row in rows})
    if not found:
        raise SourceFailed(f"{host} has no address")
    return found


def srv_source(spec: InstanceSpec, interval_s: float, resolver: "Resolver | None" = None) -> Asked:
    """Follow the SRV records of `srv://_http._tcp.gpus`, which name hosts and ports.

    Raises BadAddress, and ConfigError if the library for it is not installed.
    """
    url = SourceUrl.parse(spec)
    if not url.host or url.port is not None:
        raise BadAddress(f"{spec.url!r} must name records, as srv://_http._tcp.gpus does")
    try:
        from dns.asyncresolver import Resolver
        from dns.exception import DNSException
    except ImportError as error:
        raise ConfigError("srv:// needs dnspython: pip install 'llumnix-scheduler[dns]'") from error
    asked = resolver or Resolver()

    async def ask() -> Listing:
        try:
            answer = await asked.resolve(url.host, "SRV", search=True, lifetime=_TIMEOUT_S)
        except (DNSException, OSError) as error:
            raise SourceFailed(f"{url.host} cannot be looked up: {error}") from error
        records = sorted((record.target.to_text(True), record.port) for record in answer)
        # One record that names the root says that there is no such service.
        found = [(host, port) for host, port in records if host not in ("", ".") and port]
        if not found:
            raise SourceFailed(f"{url.host} names no server")
        return tuple(url.server(host, port, url.path) for host, port in found)

    return Asked(spec.url, ask, interval_s)
