"""What stands behind a worker's port: a fleet and a queue in the scheduler's process."""

from typing import Final

import aiohttp
from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy
from prometheus_client import CONTENT_TYPE_LATEST

from llumnix.frontend.access.gate import Tolls
from llumnix.frontend.http.slices import in_slices
from llumnix.frontend.request.refusal import Refusal
from llumnix.frontend.seam import Queue, ServedFleet
from llumnix.metrics.page import page
from llumnix.scheduler_link.front.link import FrontLink
from policies.scheduler import SchedulerConfig

_OF_THE_CONNECTION: Final = frozenset(
    {"connection", "keep-alive", "transfer-encoding", "content-length", "upgrade", "te", "trailer"}
)
_TIMEOUT_S: Final = 60.0
_ORDER_LIMIT_BYTES: Final = 1 << 20


class FarBacking:
    """A fleet in another process; the admin API and the metrics are asked for there."""

    has_admin_port = False
    many = True

    def __init__(
        self, link: FrontLink, scheduling: SchedulerConfig, admin_path: str, *, shares_port: bool
    ) -> None:
        self.tolls: Tolls | None = link.tolls
        self.shares_port = shares_port
        self.scheduling = scheduling
        self._link = link
        self._session = aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(admin_path, limit=0),
            timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S),
            auto_decompress=False,
        )

    @property
    def fleet(self) -> ServedFleet:
        """Return the fleet."""
        return self._link.fleet

    @property
    def queue(self) -> Queue:
        """Return the queue in front of it."""
        return self._link.queue

    def admin_routes(self) -> list[web.RouteDef]:
        """List the routes of the admin API: whatever it is, the scheduler's process knows."""
        return [web.route("*", "/llumnix{rest:(?s:(/.*)?)}", self._pass_on)]

    async def metrics(self, http: web.Request) -> web.StreamResponse:
        """Answer with the metrics page of all processes."""
        return await self._pass_on(http)

    async def close(self) -> None:
        """Close the connections to the scheduler's process."""
        await self._session.close()

    async def _pass_on(self, http: web.Request) -> web.StreamResponse:
        if (http.content_length or 0) > _ORDER_LIMIT_BYTES:
            return Refusal(413, f"an order has at most {_ORDER_LIMIT_BYTES} bytes").response()
        body = await http.read()
        try:
            async with self._session.request(
                http.method,
                f"http://scheduler{http.raw_path}",
                headers=_onward(http.headers),
                data=body or None,
                allow_redirects=False,
            ) as told:
                response = web.StreamResponse(status=told.status, headers=_onward(told.headers))
                await response.prepare(http)
                async for chunk in told.content.iter_any():
                    await response.write(chunk)
                await response.write_eof()
                return response
        except (aiohttp.ClientConnectionError, TimeoutError):
            message = "the scheduler is being restarted; try again in a moment"
            return Refusal(503, message, "scheduler_away", retry_after_s=1.0).response()


class ApartBacking(FarBacking):
    """A fleet on another machine: its admin API is there, and each frontend counts for itself."""

    many = False

    def admin_routes(self) -> list[web.RouteDef]:
        """List one route that says where the admin API is."""
        return [web.route("*", "/llumnix{rest:(?s:(/.*)?)}", _elsewhere)]

    async def metrics(self, _http: web.Request) -> web.StreamResponse:
        """Answer with what this frontend has counted."""
        text = "".join(await in_slices(page(self._link.fleet.tally.metrics.registry)))
        return web.Response(body=text.encode(), headers={"Content-Type": CONTENT_TYPE_LATEST})


async def _elsewhere(_http: web.Request) -> web.StreamResponse:
    return Refusal(404, "the admin API is at the scheduler", "not_found").response()


def _onward(headers: CIMultiDictProxy[str]) -> CIMultiDict[str]:
    kept = CIMultiDict(headers)
    for name in _OF_THE_CONNECTION:
        kept.popall(name, None)
    return kept
