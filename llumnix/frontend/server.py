"""The HTTP server for clients: routes each path to its handler."""

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from llumnix.fleet import view as fleet_view
from llumnix.fleet.fleet import Fleet
from llumnix.frontend.admin import Admin
from llumnix.frontend.config import FrontendConfig
from llumnix.frontend.context import ServingContext
from llumnix.frontend.http.response import HEAD_LIMIT_BYTES
from llumnix.frontend.http.upstream import Upstream
from llumnix.frontend.paths.models import model_response, models_response
from llumnix.frontend.paths.router import Router
from llumnix.frontend.queue import HoldQueue
from llumnix.frontend.request.request import Classes


class FrontendServer:
    """Serves one fleet; start it within a running event loop."""

    def __init__(self, config: FrontendConfig, fleet: Fleet) -> None:
        self.config = config
        self._fleet = fleet
        self._runner: web.AppRunner | None = None
        self._upstream: Upstream | None = None

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
        app = build_app(ServingContext(config, fleet, queue, self._upstream, classes))
        self._runner = web.AppRunner(
            app,
            # Without this a handler outlives its client, and the instance computes for no one.
            handler_cancellation=True,
            access_log=None,
            shutdown_timeout=config.shutdown_grace_s,
            max_line_size=HEAD_LIMIT_BYTES,
            max_field_size=HEAD_LIMIT_BYTES,
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, config.host, config.port, backlog=config.backlog)
        await site.start()
        port = self._runner.addresses[0][1]
        host = "127.0.0.1" if config.host in ("0.0.0.0", "::", "") else config.host  # noqa: S104
        return f"http://{host}:{port}"

    async def close(self) -> None:
        """Stop accepting requests, let open streams finish in the grace period, then cut them."""
        if self._runner is not None:
            await self._runner.cleanup()
        if self._upstream is not None:
            await self._upstream.close()


def build_app(context: ServingContext) -> web.Application:
    """Build the application: its routes and handlers."""
    router = Router(context)

    async def models(_http: web.Request) -> web.Response:
        return models_response(context.fleet.instances.alive())

    async def model(http: web.Request) -> web.Response:
        return model_response(context.fleet.instances.alive(), http.match_info["model_id"])

    async def health(_http: web.Request) -> web.Response:
        return web.Response(status=200 if context.fleet.instances.up() else 503)

    async def metrics(_http: web.Request) -> web.Response:
        n_classes = len(context.classes.names)
        fleet_view.set_gauges(context.fleet, context.queue.lengths(n_classes), context.queue.limit)
        page = generate_latest(context.tally.metrics.registry)
        return web.Response(body=page, headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application(client_max_size=context.config.body_limit_bytes)
    app.add_routes(
        [
            web.get("/v1/models", models),
            web.get("/v1/models/{model_id:.+}", model),
            web.get("/health", health),
            web.get("/metrics", metrics),
            *Admin(context).routes(),
            web.route("*", "/{rest:.*}", router.serve),
        ]
    )
    return app
