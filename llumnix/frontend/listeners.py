"""The frontend's listening sockets: the clients' port and the admin port."""

from collections.abc import Sequence
from dataclasses import dataclass

from aiohttp import web

from llumnix.frontend.config import FrontendConfig
from llumnix.frontend.http.response import HEAD_LIMIT_BYTES


@dataclass(frozen=True, slots=True)
class Address:
    """Where an application listens."""

    host: str
    port: int


class Listeners:
    """Applications that listen; `close` lets open requests finish in the grace period."""

    def __init__(self, config: FrontendConfig) -> None:
        self._config = config
        self._runners: list[web.AppRunner] = []

    async def listen(self, app: web.Application, address: Address) -> str:
        """Serve an application; return its URL. Raises OSError if the address is in use."""
        runner = web.AppRunner(
            app,
            # Without this a handler outlives its client, and the instance computes for no one.
            handler_cancellation=True,
            access_log=None,
            shutdown_timeout=self._config.shutdown_grace_s,
            max_line_size=HEAD_LIMIT_BYTES,
            max_field_size=HEAD_LIMIT_BYTES,
        )
        self._runners.append(runner)
        await runner.setup()
        site = web.TCPSite(runner, address.host, address.port, backlog=self._config.backlog)
        await site.start()
        return f"http://{_reachable(address.host)}:{_bound_port(runner.addresses)}"

    async def close(self) -> None:
        """Stop accepting requests, let open ones finish in the grace period, then cut them."""
        runners, self._runners = self._runners, []
        for runner in runners:
            await runner.cleanup()


def _bound_port(addresses: Sequence[tuple[object, ...]]) -> int:
    port = addresses[0][1]
    assert isinstance(port, int)
    return port


def _reachable(host: str) -> str:
    """Return a name under which this machine reaches an address that is listened on."""
    if host in ("0.0.0.0", ""):  # noqa: S104 - it is compared, not bound
        return "127.0.0.1"
    if host == "::":
        return "[::1]"
    return f"[{host}]" if ":" in host else host
