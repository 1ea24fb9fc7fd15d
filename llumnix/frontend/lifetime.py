"""The life of the frontend as its clients and probes see it: serving, leaving, closed to newcomers.

A load balancer needs time to notice that a frontend leaves. So `/ready` says no at once, while
everything is still served; only then are newcomers refused, in words that make them try another
frontend, and the streams that are open run to their end.
"""

import asyncio
import enum
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol

from aiohttp import web

from llumnix.fleet.account import Account
from llumnix.frontend.request.refusal import Refusal, retry_after
from llumnix.frontend.request_log import OWN_PATHS, own_account

Middleware = Any  # aiohttp has had no public name for its type until recently
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Cancellable(Protocol):
    """A request that is being served."""

    def cancel(self) -> object:
        """End it."""


class Phase(enum.StrEnum):
    """How far a frontend's life has come."""

    SERVING = "serving"
    LEAVING = "leaving"
    CLOSED = "closed"


class Lifetime:
    """Which phase the frontend is in, and which requests are open. Times are wall seconds.

    `up` says whether any instance takes requests. `retry_after_s` is told to those turned away.
    """

    def __init__(self, up: Callable[[], bool], retry_after_s: float) -> None:
        self.phase = Phase.SERVING
        self._up = up
        self._retry_after_s = retry_after_s
        self._open: dict[Cancellable, Account] = {}
        self._quiet = asyncio.Event()
        self._quiet.set()

    @property
    def open_requests(self) -> int:
        """Return how many requests of clients are being served."""
        return len(self._open)

    def obstacle(self) -> str | None:
        """Return why no new request should be sent here; None if it is ready."""
        if self.phase is not Phase.SERVING:
            return "the frontend is shutting down"
        return None if self._up() else "no instance is up"

    async def leave(self, delay_s: float, grace_s: float, hurry: asyncio.Event) -> int:
        """Take leave: serve for `delay_s`, refuse newcomers, let open requests end in `grace_s`.

        `hurry` skips what is left of both. Cut what is still open then, and return its number.
        """
        self.phase = Phase.LEAVING
        await _first((hurry,), delay_s)
        self.phase = Phase.CLOSED
        await _first((self._quiet, hurry), grace_s)
        return self._cut()

    def admit(self, request: Cancellable, account: Account) -> None:
        """Count a request as open; it is cancelled if it does not end in time."""
        self._open[request] = account
        self._quiet.clear()

    def release(self, request: Cancellable) -> None:
        """Note that an open request has ended."""
        del self._open[request]
        if not self._open:
            self._quiet.set()

    async def ready(self, _http: web.Request) -> web.Response:
        """Answer a readiness probe: 200 if a new request would be served, else 503 and why."""
        why = self.obstacle()
        if why is None:
            return web.json_response({"ready": True})
        headers = {"Retry-After": retry_after(self._retry_after_s)}
        return web.json_response({"ready": False, "reason": why}, status=503, headers=headers)

    async def health(self, _http: web.Request) -> web.Response:
        """Answer a liveness probe: whoever answers is alive, with or without instances."""
        return web.Response()

    def middleware(self) -> Middleware:
        """Return what stands before every handler: it counts, and turns newcomers away."""

        @web.middleware
        async def gate(request: web.Request, handler: Handler) -> web.StreamResponse:
            if request.path.startswith(OWN_PATHS):
                return await handler(request)
            if self.phase is Phase.CLOSED:
                return self._turned_away()
            task = asyncio.current_task()
            assert task is not None
            self.admit(task, own_account())
            try:
                response = await handler(request)
            finally:
                self.release(task)
            if self.phase is not Phase.SERVING and not response.prepared:
                response.force_close()  # the client's next request belongs to another frontend
            return response

        return gate

    def _turned_away(self) -> web.StreamResponse:
        message = "this frontend is shutting down; send the request again"
        refusal = Refusal(503, message, "shutting_down", retry_after_s=self._retry_after_s)
        account = own_account()
        account.outcome, account.cause = "rejected", "shutting_down"
        response = refusal.response()
        response.force_close()
        return response

    def _cut(self) -> int:
        cut = list(self._open.items())
        for task, account in cut:
            account.cut, account.cause = True, "shutting_down: it did not end within the grace"
            task.cancel()
        return len(cut)


async def _first(events: Iterable[asyncio.Event], seconds: float) -> None:
    """Wait for the first of these events, but no longer than that."""
    waits = [asyncio.create_task(each.wait()) for each in events]
    try:
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waits:
            each.cancel()
