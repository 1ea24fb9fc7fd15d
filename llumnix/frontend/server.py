"""The HTTP server for clients and for the admin API: routes each path to its handler."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from aiohttp import web

from llumnix.fleet.fleet import Fleet
from llumnix.frontend.access.door import Door
from llumnix.frontend.access.gate import Gate
from llumnix.frontend.admin import unknown
from llumnix.frontend.backing import Backing, OwnBacking
from llumnix.frontend.bodies.intake import Intake
from llumnix.frontend.config import FrontendConfig, is_loopback
from llumnix.frontend.context import ServingContext
from llumnix.frontend.express.lane import Lane
from llumnix.frontend.http.tls import ServerTls, TlsFiles
from llumnix.frontend.http.upstream import Upstream
from llumnix.frontend.lifetime import Lifetime
from llumnix.frontend.listeners import Address, Listeners
from llumnix.frontend.paths.cors import Cors
from llumnix.frontend.paths.router import Router
from llumnix.frontend.pump.pump import Pump, make_pump
from llumnix.frontend.request.request import Classes
from llumnix.frontend.request_log import log_requests, own_account

log = logging.getLogger(__name__)


class FrontendServer:
    """Serves one fleet; start it within a running event loop.

    `admin_token` must be sent with every admin request; it may be empty only where one port carries
    both (`FrontendConfig.shares_port`). Without `express` every request goes the long way, as some
    do in any case. Raises ConfigError for unusable files of keys
    or certificates.
    """

    def __init__(
        self,
        config: FrontendConfig,
        fleet: Fleet | Backing,
        admin_token: str = "",
        *,
        express: bool = True,
    ) -> None:
        if isinstance(fleet, Fleet):
            fleet = OwnBacking(fleet, config, admin_token)
        self._express = express
        self.config = config
        self.admin_url = ""
        self._backing = fleet
        self._fleet = fleet.fleet
        self.listeners = Listeners(config)
        self._upstream: Upstream | None = None
        self._pump: Pump | None = None
        self._lane: Lane | None = None
        self.intake = Intake(config)
        scheduler = fleet.scheduling
        self._classes = Classes(
            tuple(each.name for each in scheduler.classes), scheduler.default_class
        )
        self._tls = ServerTls.of(
            TlsFiles(config.tls_cert_file, config.tls_key_file, config.tls_client_ca_file)
        )
        self._admin_tls = ServerTls.of(
            TlsFiles(
                config.admin_tls_cert_file,
                config.admin_tls_key_file,
                config.admin_tls_client_ca_file,
            )
        )
        self._gate = Gate(config.api_keys_file, self._classes.names, time.monotonic, fleet.tolls)
        self._context: ServingContext | None = None
        self.lifetime = Lifetime(lambda: bool(self._fleet.instances.up()), config.retry_after_s)

    async def start(self) -> str:
        """Listen; return the clients' URL. Raises OSError if an address is in use."""
        config, fleet, backing = self.config, self._fleet, self._backing
        self._upstream = Upstream(config)
        context = ServingContext(
            config, fleet, backing.queue, self._upstream, self._classes, self.intake
        )
        context.pump = self._pump = make_pump(config.pump)
        self._context = context
        shared = backing.shares_port
        app = build_app(context, self.lifetime, backing, shared=shared)
        Door(self._gate, fleet.tally, own_account).install(app)
        self.intake.install(app)
        if self._express:
            self._lane = Lane(context, self.lifetime, self._gate)
        address = Address(config.host, config.port, self._tls, shared=backing.many)
        url = await self.listeners.listen(app, address, self._lane)
        self.admin_url = url
        self._warn_of_open_doors()
        if backing.has_admin_port:
            address = Address(config.admin_host, config.admin_port_wanted(), self._admin_tls)
            admin_app = build_admin_app(self.lifetime, backing)
            self.admin_url = await self.listeners.listen(admin_app, address)
        return url

    def _warn_of_open_doors(self) -> None:
        config = self.config
        if (
            self._backing.has_admin_port
            and not is_loopback(config.admin_host)
            and self._admin_tls is None
        ):
            log.warning(
                "admin_port_in_plain_text host=%s: who can listen there learns the token",
                config.admin_host,
            )
        lends = any(each.endpoint.key for each in self._fleet.instances)
        if lends and not config.api_keys_file and not is_loopback(config.host):
            log.warning(
                "clients_need_no_key host=%s: the instances' own key is sent for whoever reaches "
                "this port; give clients keys with --api-keys-file",
                config.host,
            )

    def read_files(self) -> Callable[[], None]:
        """Read the files again that may change while serving: API keys, certificates.

        Return what puts them in force. Raises ConfigError, and then nothing has changed.
        """
        callers = self._gate.read()
        certificates = [tls.read() for tls in (self._tls, self._admin_tls) if tls is not None]

        def use() -> None:
            self._gate.use(callers)
            for use_certificate in certificates:
                use_certificate()

        return use

    def reconfigure(self, config: FrontendConfig) -> None:
        """Apply changed limits and deadlines to requests that arrive from now on."""
        self.config = config
        if self._context is not None:
            self._context.config = config
            self._context.queue.reconfigure(
                config.queue_limit, config.queue_timeout_s, config.retry_after_s
            )

    async def leave(self, hurry: asyncio.Event) -> int:
        """Take leave of the clients, as configured; return how many requests were cut.

        `hurry` ends the waits.
        """
        config = self.config
        return await self.lifetime.leave(config.drain_delay_s, config.shutdown_grace_s, hurry)

    async def close(self) -> None:
        """Close all connections; open streams have the grace period to finish before they are cut.

        Nothing is open any more after `leave`.
        """
        await self.listeners.close()
        if self._lane is not None:
            self._lane.close()
        if self._pump is not None:
            self._pump.close()
        if self._upstream is not None:
            await self._upstream.close()
        await self.intake.close()


def build_app(
    context: ServingContext, lifetime: Lifetime, backing: Backing, *, shared: bool
) -> web.Application:
    """Build the clients' application; the admin API is served there too if the port is shared."""
    cors = Cors(context)
    router = Router(context, cors)

    app = web.Application(
        client_max_size=context.config.body_limit_bytes,
        middlewares=[log_requests, lifetime.middleware()],
    )
    hidden = not context.config.metrics_on_clients_port
    app.add_routes(_own_pages(lifetime, unknown if hidden else backing.metrics))
    if shared:
        app.add_routes(backing.admin_routes())
    else:
        app.add_routes([web.route("*", "/llumnix{rest:(?s:(/.*)?)}", unknown)])
    app.add_routes([web.route("*", "/{rest:(?s:.*)}", router.serve)])
    cors.install(app)
    return app


def build_admin_app(lifetime: Lifetime, backing: Backing) -> web.Application:
    """Build the application of the admin port."""
    app = web.Application(middlewares=[log_requests])
    app.add_routes([*backing.admin_routes(), *_own_pages(lifetime, backing.metrics)])
    app.add_routes([web.route("*", "/{rest:(?s:.*)}", unknown)])
    return app


def _own_pages(
    lifetime: Lifetime, metrics: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> list[web.RouteDef]:
    """List what both ports serve to anyone: the probes, and the metrics."""
    return [
        web.get("/health", lifetime.health),
        web.get("/ready", lifetime.ready),
        web.get("/metrics", metrics),
    ]
