"""Which web pages may read our own answers: those that may read the servers'.

Answers that are passed on carry the server's CORS headers. Those of our own, such as the models of
the whole fleet, or an error while no server answers, get what a server would say to that origin,
which is asked now and then; or what `frontend.cors_origins` says.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Mapping

import aiohttp
from aiohttp import web

from llumnix.frontend.context import ServingContext

ALLOW_ORIGIN = "Access-Control-Allow-Origin"
_ASKED_METHOD = "Access-Control-Request-Method"
_ASKED_HEADERS = "Access-Control-Request-Headers"
_TOLD = (ALLOW_ORIGIN, "Access-Control-Allow-Credentials", "Access-Control-Expose-Headers")
_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"
_PREFLIGHT_AGE_S = 600
_ORIGINS = 256
_LONGEST_ORIGIN = 512
_FRESH_S = 60.0
_TIMEOUT_S = 1.0

_NO_PAGES_BUSINESS = ("/llumnix", "/metrics")

Told = Mapping[str, str]
_NOTHING: Told = {}


def is_preflight(http: web.Request) -> bool:
    """Return whether a browser asks here before it sends a request of another origin."""
    return http.method == "OPTIONS" and _ASKED_METHOD in http.headers and "Origin" in http.headers


class Cors:
    """Adds CORS headers to responses that have none."""

    def __init__(self, context: ServingContext) -> None:
        self._context = context
        self._told: OrderedDict[str, tuple[float, Told]] = OrderedDict()
        self._asking: dict[str, asyncio.Task[Told]] = {}

    def install(self, app: web.Application) -> None:
        """Let all responses of an application pass here."""
        app.on_response_prepare.append(self._prepare)
        app.on_cleanup.append(self._close)

    def preflight(self, http: web.Request) -> web.Response | None:
        """Return the answer to a preflight; None if it is for a server to give."""
        if not self._context.config.cors_origins:
            return None
        told = self._configured(http.headers["Origin"])
        if not told:
            return web.Response(status=400, text="this origin is not allowed")
        headers = {
            **told,
            "Access-Control-Allow-Methods": _METHODS,
            "Access-Control-Allow-Headers": http.headers.get(_ASKED_HEADERS, "*"),
            "Access-Control-Max-Age": str(_PREFLIGHT_AGE_S),
        }
        return web.Response(headers=headers)

    async def _prepare(self, http: web.BaseRequest, response: web.StreamResponse) -> None:
        origin = http.headers.get("Origin")
        if origin is None or ALLOW_ORIGIN in response.headers or len(origin) > _LONGEST_ORIGIN:
            return
        if isinstance(http, web.Request) and http.path.startswith(_NO_PAGES_BUSINESS):
            return
        if self._context.config.cors_origins:
            told = self._configured(origin)
        else:
            told = await self._servers(origin)
        response.headers.update(told)
        if told.get(ALLOW_ORIGIN, "*") != "*":
            response.headers.add("Vary", "Origin")

    def _configured(self, origin: str) -> Told:
        allowed = self._context.config.cors_origins
        if "*" in allowed:
            return {ALLOW_ORIGIN: "*"}
        return {ALLOW_ORIGIN: origin} if origin in allowed else _NOTHING

    async def _servers(self, origin: str) -> Told:
        """Return what the servers tell this origin, as they last did."""
        asked_at, told = self._told.get(origin, (-_FRESH_S, _NOTHING))
        if time.monotonic() - asked_at < _FRESH_S:
            return told
        task = self._asking.get(origin)
        if task is None:
            task = self._asking[origin] = asyncio.create_task(self._ask(origin), name="ask CORS")
            task.add_done_callback(lambda _: self._asking.pop(origin, None))
        return await asyncio.shield(task)

    async def _ask(self, origin: str) -> Told:
        known = self._told.get(origin, (0.0, _NOTHING))[1]
        up = self._context.fleet.instances.up()
        if not up:
            return known
        endpoint = up[0].endpoint
        try:
            async with self._context.upstream.session.get(
                f"{endpoint.url}/v1/models",
                **endpoint.reach({"Origin": origin}),
                allow_redirects=False,
                timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S),
            ) as response:
                told = {name: response.headers[name] for name in _TOLD if name in response.headers}
        except (aiohttp.ClientError, OSError, TimeoutError):
            told = dict(known)
        self._told[origin] = time.monotonic(), told
        self._told.move_to_end(origin)
        while len(self._told) > _ORIGINS:
            self._told.popitem(last=False)
        return told

    async def _close(self, _app: web.Application) -> None:
        tasks = list(self._asking.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
