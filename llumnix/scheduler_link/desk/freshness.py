"""What the admin API and /metrics tell of frontends is asked of them just before it is told."""

from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from llumnix.scheduler_link.desk.desk import Desk

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Freshness:
    """Asks the frontends for what a request to the scheduler's own application is answered with."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def install(self, app: web.Application) -> None:
        """Stand before every handler of an application."""
        app.middlewares.append(self._middleware())

    def _middleware(self) -> Any:
        @web.middleware
        async def ask(http: web.Request, handler: Handler) -> web.StreamResponse:
            match http.path:
                case "/metrics" | "/llumnix/fleet":
                    await self._desk.settled.wait()  # some of what was counted comes with them
                    await self._desk.refresh(figures=True)
                    self._desk.keep()
                case "/llumnix/requests":
                    await self._desk.refresh(tokens=True)
                case "/llumnix/migrate" | "/llumnix/drain":
                    await self._desk.refresh_able()
            return await handler(http)

        return ask
