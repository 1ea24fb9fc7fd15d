"""The HTTP server for clients: routes each path to its handler."""

import asyncio

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from llumnix.fleet import view as fleet_view
from llumnix.fleet.fleet import Fleet
from llumnix.frontend.admin import Admin
from llumnix.frontend.config import FrontendConfig
from llumnix.frontend.context import ServingContext
from llumnix.frontend.http.upstream import Upstream
from llumnix.frontend.lifetime import Lifetime
from llumnix.frontend.passthrough import Passthrough, merged_models
from llumnix.frontend.queue import HoldQueue
from llumnix.frontend.request.request import Classes
from llumnix.frontend.request_log import log_requests
from llumnix.frontend.serving import serve

COMPLETION_PATHS = ("/v1/completions", "/v1/chat/completions")


class FrontendServer:
    """Serves one fleet; start it within a running event loop."""

    def __init__(self, config: FrontendConfig, fleet: Fleet) -> None:
        self.config = config
        self._fleet = fleet
        self._runner: web.AppRunner | None = None
        self._upstream: Upstream | None = None
        self._context: ServingContext | None = None
        self.lifetime = Lifetime(lambda: bool(fleet.instances.up()), config.retry_after_s)

    async def start(self) -> str:
        """Listen; return the URL. Raises OSError if the address is in use."""
        config, fleet = self.config, self._fleet
        queue = HoldQueue(
            fleet.dispatch,
            fleet.scheduler.config.queue,
            config.queue_limit,
            config.queue_timeout_s,
            config.retry_after_s,
        )
        fleet.changed = queue.retry
        scheduler = fleet.scheduler.config
        classes = Classes(tuple(each.name for each in scheduler.classes), scheduler.default_class)
        self._upstream = Upstream(config)
        self._context = ServingContext(config, fleet, queue, self._upstream, classes)
        app = build_app(self._context, self.lifetime)
        self._runner = web.AppRunner(
            app,
            # Without this a handler outlives its client, and the instance computes for no one.
            handler_cancellation=True,
            access_log=None,
            shutdown_timeout=config.shutdown_grace_s,
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, config.host, config.port, backlog=config.backlog)
        await site.start()
        port = self._runner.addresses[0][1]
        host = "127.0.0.1" if config.host in ("0.0.0.0", "::", "") else config.host  # noqa: S104
        return f"http://{host}:{port}"

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
        if self._runner is not None:
            await self._runner.cleanup()
        if self._upstream is not None:
            await self._upstream.close()


def build_app(context: ServingContext, lifetime: Lifetime) -> web.Application:
    """Build the application: its routes and handlers."""
    passthrough = Passthrough(context)

    async def complete(http: web.Request) -> web.StreamResponse:
        return await serve(context, http)

    async def models(_http: web.Request) -> web.Response:
        return merged_models(context.fleet.instances.alive())

    async def metrics(_http: web.Request) -> web.Response:
        n_classes = len(context.classes.names)
        fleet_view.set_gauges(context.fleet, context.queue.lengths(n_classes), context.queue.limit)
        page = generate_latest(context.tally.metrics.registry)
        return web.Response(body=page, headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application(
        client_max_size=context.config.body_limit_bytes,
        middlewares=[log_requests, lifetime.middleware()],
    )
    app.add_routes([web.post(path, complete) for path in COMPLETION_PATHS])
    app.add_routes(
        [
            web.get("/v1/models", models),
            web.get("/health", lifetime.health),
            web.get("/ready", lifetime.ready),
            web.get("/metrics", metrics),
            *Admin(context).routes(),
            web.route("*", "/{rest:.*}", passthrough.forward),
        ]
    )
    return app
