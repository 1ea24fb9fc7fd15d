"""The frontend's listening sockets: the clients' port and the admin port."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from aiohttp import web

from llumnix.errors import ConfigError
from llumnix.frontend.config import FrontendConfig
from llumnix.frontend.express.connection import ExpressConnection
from llumnix.frontend.express.lane import Lane
from llumnix.frontend.http.expect import install_expect
from llumnix.frontend.http.guarded import Guard, GuardedConnection
from llumnix.frontend.http.patience import Patience
from llumnix.frontend.http.tls import ServerTls
from llumnix.processes.open_files import connections_allowed

_LINE_BYTES: Final = 64 * 1024
"""Longest request line, and longest header: as much as servers take."""
_TLS_HANDSHAKE_TIMEOUT_S: Final = 10.0
_TLS_SHUTDOWN_TIMEOUT_S: Final = 5.0
_CERTIFICATES_LOOK_S: Final = 30.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Address:
    """Where an application listens, and with which TLS settings, if any.

    `shared`: other processes listen there too, and the system spreads connections over them.
    """

    host: str
    port: int
    tls: ServerTls | None = None
    shared: bool = False

    @property
    def scheme(self) -> str:
        """Return the scheme of its URLs."""
        return "https" if self.tls is not None else "http"


class Listeners:
    """Applications that listen; `close` lets open requests finish in the grace period."""

    def __init__(self, config: FrontendConfig) -> None:
        self._config = config
        self._runners: list[web.AppRunner] = []
        self._watching: list[asyncio.Task[None]] = []
        self.guards: list[Guard] = []

    async def listen(self, app: web.Application, address: Address, lane: Lane | None = None) -> str:
        """Serve an application; return its URL. Raises OSError if the address is in use.

        Plain requests take the short way of `lane`, past the application.
        """
        config = self._config
        runner = web.AppRunner(
            app,
            # Without this a handler outlives its client, and the instance computes for no one.
            handler_cancellation=True,
            shutdown_timeout=config.shutdown_grace_s,
        )
        install_expect(app)
        self._runners.append(runner)
        await runner.setup()
        guard = Guard(_patience(config), config.max_connections or connections_allowed())
        self.guards.append(guard)
        site = _GuardedSite(runner, guard, address, config, lane)
        await site.start()
        guard.watch()
        if address.tls is not None:
            self._watching.append(asyncio.create_task(_watch(address.tls)))
        return f"{address.scheme}://{reachable(address.host)}:{_bound_port(runner.addresses)}"

    async def close(self) -> None:
        """Stop accepting requests, let open ones finish in the grace period, then cut them."""
        runners, self._runners = self._runners, []
        guards, self.guards = self.guards, []
        watching, self._watching = self._watching, []
        for task in watching:
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)
        for runner in runners:
            await runner.cleanup()
        for guard in guards:
            await guard.close()


class _GuardedSite(web.BaseSite):
    """A TCP address whose connections are guarded; aiohttp's own site makes its own kind."""

    def __init__(
        self,
        runner: web.AppRunner,
        guard: Guard,
        address: Address,
        config: FrontendConfig,
        lane: Lane | None,
    ) -> None:
        super().__init__(runner, backlog=config.backlog)
        self._guard = guard
        self._lane = lane
        self._address = address
        self._keepalive_timeout_s = config.keepalive_timeout_s

    @property
    def name(self) -> str:
        """Return its URL."""
        return f"{self._address.scheme}://{self._address.host}:{self._address.port}"

    async def start(self) -> None:
        """Listen. Raises OSError."""
        await super().start()
        loop = asyncio.get_running_loop()
        settings = {
            "loop": loop,
            "keepalive_timeout": self._keepalive_timeout_s,
            "access_log": None,
            "auto_decompress": False,  # it would unpack on the event loop; `bodies` does it
            "max_line_size": _LINE_BYTES,
            "max_field_size": _LINE_BYTES,
        }

        def connection() -> GuardedConnection:
            server = self._runner.server
            if self._lane is not None:
                return ExpressConnection(self._guard, self._lane, server, **settings)
            return GuardedConnection(self._guard, server, **settings)

        self._server = await loop.create_server(
            connection,
            self._address.host,
            self._address.port,
            backlog=self._backlog,
            reuse_port=self._address.shared or None,
            **_tls_settings(self._address.tls),
        )


def _tls_settings(tls: ServerTls | None) -> dict[str, Any]:
    if tls is None:
        return {}
    return {
        "ssl": tls.context,
        "ssl_handshake_timeout": _TLS_HANDSHAKE_TIMEOUT_S,
        "ssl_shutdown_timeout": _TLS_SHUTDOWN_TIMEOUT_S,
    }


async def _watch(tls: ServerTls, pause_s: float = _CERTIFICATES_LOOK_S) -> None:
    """Take over certificates that have been renewed, as whoever renews them expects."""
    while True:
        await asyncio.sleep(pause_s)
        if not tls.has_changed:
            continue
        try:
            tls.read()()
        except ConfigError as error:
            log.warning("tls_not_renewed reason=%s", error)
        else:
            log.info("tls_renewed")


def _patience(config: FrontendConfig) -> Patience:
    return Patience(
        head_timeout_s=config.header_timeout_s,
        head_limit_bytes=config.header_limit_bytes,
        body_timeout_s=config.body_timeout_s,
        body_rate_bytes_per_s=config.body_rate_bytes_per_s,
        stall_timeout_s=config.idle_timeout_s,
    )


def _bound_port(addresses: Sequence[tuple[object, ...]]) -> int:
    port = addresses[0][1]
    assert isinstance(port, int)
    return port


def reachable(host: str) -> str:
    """Return a name under which this machine reaches an address that is listened on."""
    if host in ("0.0.0.0", ""):  # noqa: S104 - it is compared, not bound
        return "127.0.0.1"
    if host == "::":
        return "[::1]"
    return f"[{host}]" if ":" in host else host
