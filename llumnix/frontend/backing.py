"""What stands behind one frontend's ports: its fleet, its queue, and who answers for both."""

import asyncio
from collections.abc import Iterator
from typing import Protocol

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector

from llumnix.fleet import view as fleet_view
from llumnix.fleet.fleet import Fleet
from llumnix.frontend.access.admin_guard import AdminGuard
from llumnix.frontend.access.gate import Tolls
from llumnix.frontend.admin import Admin
from llumnix.frontend.config import FrontendConfig
from llumnix.frontend.http.slices import in_slices
from llumnix.frontend.queue import HoldQueue
from llumnix.frontend.seam import Queue, ServedFleet
from llumnix.metrics.page import page
from policies.scheduler import SchedulerConfig


class Backing(Protocol):
    """A fleet and its queue, here or in another process.

    `tolls` counts what keys use, where there are other frontends. `has_admin_port`: the admin API
    has a port of its own, which is to be opened here. `shares_port`: it is to be served on the
    clients' port. `many`: other processes listen on the clients' port too.
    """

    tolls: Tolls | None
    has_admin_port: bool
    shares_port: bool
    many: bool

    @property
    def fleet(self) -> ServedFleet:
        """Return the fleet."""

    @property
    def queue(self) -> Queue:
        """Return the queue in front of it."""

    @property
    def scheduling(self) -> SchedulerConfig:
        """Return the scheduler's settings."""

    def admin_routes(self) -> list[web.RouteDef]:
        """List the routes of the admin API."""

    async def metrics(self, http: web.Request) -> web.StreamResponse:
        """Answer with the metrics page."""


class OwnBacking:
    """A fleet in this process. Raises PolicyError for an unknown queueing discipline.

    `metrics` is what the page shows, if that is more than this process has counted.
    """

    many = False
    tolls: Tolls | None = None

    def __init__(
        self,
        fleet: Fleet,
        config: FrontendConfig,
        admin_token: str,
        metrics: Collector | None = None,
    ) -> None:
        self.shares_port = config.shares_port(admin_token)
        self.has_admin_port = not self.shares_port
        assert self.shares_port or admin_token, "an admin port of its own needs a token"
        self.fleet = fleet
        self.queue = HoldQueue(
            fleet.dispatch,
            fleet.scheduler.config.queue,
            config.queue_limit,
            config.queue_timeout_s,
            config.retry_after_s,
        )
        self._metrics = fleet.tally.metrics.registry if metrics is None else metrics
        fleet.changed = self.queue.retry
        self._admin = Admin(fleet, self.queue, AdminGuard(admin_token))
        self._writing = asyncio.Lock()  # two at once would set and drop rows at the same time

    @property
    def scheduling(self) -> SchedulerConfig:
        """Return the scheduler's settings."""
        return self.fleet.scheduler.config

    def admin_routes(self) -> list[web.RouteDef]:
        """List the routes of the admin API."""
        return self._admin.routes()

    async def metrics(self, _http: web.Request) -> web.StreamResponse:
        """Answer with the metrics page."""
        async with self._writing:
            pieces = metrics_page(self.fleet, self.queue, self._metrics)
            text = "".join(await in_slices(pieces))
        return web.Response(body=text.encode(), headers={"Content-Type": CONTENT_TYPE_LATEST})


def metrics_page(fleet: Fleet, queue: HoldQueue, metrics: Collector) -> Iterator[str]:
    """Bring the gauges up to date, and write the metrics page, in pieces."""
    lengths = queue.lengths(len(fleet.scheduler.config.classes))
    for _ in fleet_view.setting_gauges(fleet, lengths, queue.limit):
        yield ""
    yield from page(metrics)
