"""The HTTP server for clients and for the admin API: routes each path to its handler."""

import asyncio
import logging
import time
from collections.abc import Callable, Iterator

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST

from llumnix.fleet import view as fleet_view
from llumnix.fleet.fleet import Fleet
from llumnix.frontend.access.admin_guard import AdminGuard
from llumnix.frontend.access.door import Door
from llumnix.frontend.access.gate import Gate
from llumnix.frontend.admin import Admin, unknown
from llumnix.frontend.bodies.intake import Intake
from llumnix.frontend.config import FrontendConfig, is_loopback
from llumnix.frontend.context import ServingContext
from llumnix.frontend.http.tls import ServerTls, TlsFiles
from llumnix.frontend.http.upstream import Upstream
from llumnix.frontend.lifetime import Lifetime
from llumnix.frontend.listeners import Address, Listeners
from llumnix.frontend.paths.cors import Cors
from llumnix.frontend.paths.router import Router
from llumnix.frontend.pump.pump import Pump, make_pump
from llumnix.frontend.queue import HoldQueue
from llumnix.frontend.request.request import Classes
from llumnix.frontend.request_log import log_requests, own_account
from llumnix.frontend.slices import in_slices
from llumnix.metrics.page import page

log = logging.getLogger(__name__)


class FrontendServer:
    """Serves one fleet; start it within a running event loop.

    `admin_token` must be sent with every admin request; it may be empty only where one port carries
    both (`FrontendConfig.shares_port`). Raises ConfigError for unusable files of keys
    or certificates.
    """

    def __init__(self, config: FrontendConfig, fleet: Fleet, admin_token: str = "") -> None:
        self.config = config
        self.admin_url = ""
        self._fleet = fleet
        self._admin_token = admin_token
        self.listeners = Listeners(config)
        self._upstream: Upstream | None = None
        self._pump: Pump | None = None
        self.intake = Intake(config)
        scheduler = fleet.scheduler.config
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
        self._gate = Gate(config.api_keys_file, self._classes.names, time.monotonic)
        self._context: ServingContext | None = None
        self.lifetime = Lifetime(lambda: bool(fleet.instances.up()), config.retry_after_s)

    async def start(self) -> str:
        """Listen; return the clients' URL. Raises OSError if an address is in use."""
        config, fleet = self.config, self._fleet
        queue = HoldQueue(
            fleet.dispatch,
            fleet.scheduler.config.queue,
            config.queue_limit,
            config.queue_timeout_s,
            config.retry_after_s,
        )
        fleet.changed = queue.retry
        self._upstream = Upstream(config)
        context = ServingContext(config, fleet, queue, self._upstream, self._classes, self.intake)
        context.pump = self._pump = make_pump(config.pump)
        self._context = context
        admin = Admin(context, AdminGuard(self._admin_token))
        shared = config.shares_port(self._admin_token)
        assert shared or self._admin_token, "an admin port of its own needs a token"
        app = build_app(context, self.lifetime, admin if shared else None)
        Door(self._gate, fleet.tally, own_account).install(app)
        self.intake.install(app)
        url = await self.listeners.listen(app, Address(config.host, config.port, self._tls))
        self.admin_url = url
        self._warn_of_open_doors(shared=shared)
        if not shared:
            address = Address(config.admin_host, config.admin_port_wanted(), self._admin_tls)
            admin_app = build_admin_app(context, self.lifetime, admin)
            self.admin_url = await self.listeners.listen(admin_app, address)
        return url

    def _warn_of_open_doors(self, *, shared: bool) -> None:
        config = self.config
        if not shared and not is_loopback(config.admin_host) and self._admin_tls is None:
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
        if self._pump is not None:
            self._pump.close()
        if self._upstream is not None:
            await self._upstream.close()
        await self.intake.close()


def build_app(context: ServingContext, lifetime: Lifetime, admin: Admin | None) -> web.Application:
    """Build the clients' application; `admin` is served there too if it has no port of its own."""
    cors = Cors(context)
    router = Router(context, cors)

    app = web.Application(
        client_max_size=context.config.body_limit_bytes,
        middlewares=[log_requests, lifetime.middleware()],
    )
    app.add_routes(_own_pages(context, lifetime, clients=True))
    if admin is not None:
        app.add_routes(admin.routes())
    else:
        app.add_routes([web.route("*", "/llumnix{rest:(?s:(/.*)?)}", unknown)])
    app.add_routes([web.route("*", "/{rest:(?s:.*)}", router.serve)])
    cors.install(app)
    return app


def build_admin_app(context: ServingContext, lifetime: Lifetime, admin: Admin) -> web.Application:
    """Build the application of the admin port."""
    app = web.Application(middlewares=[log_requests])
    app.add_routes([*admin.routes(), *_own_pages(context, lifetime, clients=False)])
    app.add_routes([web.route("*", "/{rest:(?s:.*)}", unknown)])
    return app


def metrics_page(context: ServingContext) -> Iterator[str]:
    """Bring the gauges up to date, and write the metrics page, in pieces."""
    queue = context.queue
    lengths = queue.lengths(len(context.classes.names))
    for _ in fleet_view.setting_gauges(context.fleet, lengths, queue.limit):
        yield ""
    yield from page(context.tally.metrics.registry)


def _own_pages(context: ServingContext, lifetime: Lifetime, *, clients: bool) -> list[web.RouteDef]:
    """List what both ports serve to anyone: the probes, and the metrics."""

    writing = asyncio.Lock()  # two at once would set and drop rows under each other's hands

    async def metrics(_http: web.Request) -> web.Response:
        async with writing:
            text = "".join(await in_slices(metrics_page(context)))
        return web.Response(body=text.encode(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    hidden = clients and not context.config.metrics_on_clients_port
    return [
        web.get("/health", lifetime.health),
        web.get("/ready", lifetime.ready),
        web.get("/metrics", unknown if hidden else metrics),
    ]
