"""The door of the clients' port: every request passes the gate before anything reads its body."""

from collections.abc import Awaitable, Callable, Mapping
from contextvars import ContextVar
from typing import Any, Final

from aiohttp import web

from llumnix.fleet.account import Account
from llumnix.frontend.access.caller import ANYONE
from llumnix.frontend.access.gate import Gate, Visit
from llumnix.frontend.access.limits import Allowance, Limits
from llumnix.frontend.http.request import altered
from llumnix.frontend.request.headers import KEY_HEADERS
from llumnix.frontend.request.refusal import Refusal
from llumnix.metrics.tally import Tally

OPEN_PATHS: Final = frozenset({"/health", "/ready", "/ping", "/metrics"})
"""What needs no key: probes and scrapers have none, as with vLLM's own `--api-key`."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]
_KEYLESS: Final = Visit(ANYONE, Allowance(Limits(), 0.0), lambda: 0.0, keyed=False)

# Each request has a task, and so a context, of its own.
_VISIT: ContextVar[Visit] = ContextVar("visit", default=_KEYLESS)


def own_visit() -> Visit:
    """Return the visit of the request that this task serves; without keys, everyone's."""
    return _VISIT.get()


class Door:
    """Asks the gate; `account` returns what is told of the request that this task serves."""

    def __init__(self, gate: Gate, tally: Tally, account: Callable[[], Account]) -> None:
        self._gate = gate
        self._tally = tally
        self._account = account

    def install(self, app: web.Application) -> None:
        """Let every request of an application pass this door. Without keys, none is slowed."""
        if self._gate.keyed:
            app.middlewares.append(self._middleware())
            app.on_response_prepare.append(_tell_limits)

    def _middleware(self) -> Any:
        @web.middleware
        async def check(http: web.Request, handler: Handler) -> web.StreamResponse:
            return await self._pass(http, handler)

        return check

    async def _pass(self, http: web.Request, handler: Handler) -> web.StreamResponse:
        if is_open(http.method, http.path, http.headers):
            return await handler(http)
        visit = await self._gate.enter(http.headers)
        if isinstance(visit, Refusal):
            return self._refuse(visit)
        account = self._account()
        account.tenant = visit.caller.tenant
        _VISIT.set(visit)
        status = 0
        try:
            # The key is ours: whoever handles the request from here on cannot forward it.
            kept = http.headers.copy()
            for name in KEY_HEADERS:
                kept.popall(name, None)
            response = await handler(altered(http, kept))
            status = response.status
            return response
        finally:
            prompt = account.prompt_tokens if account.instances else 0
            visit.end(prompt + account.output_tokens)
            self._tally.tenant_request(visit.caller.tenant, status)

    def _refuse(self, refusal: Refusal) -> web.Response:
        account = self._account()
        account.outcome, account.cause = "rejected", refusal.cause()
        self._tally.access_refused(refusal.code or "")
        response = refusal.response()
        if refusal.status == 401:
            response.headers["WWW-Authenticate"] = "Bearer"
        return response


def is_open(method: str, path: str, headers: Mapping[str, str]) -> bool:
    """Whether a request needs no key. The admin API, where it shares the port, has its own guard.

    A browser's preflight carries no key either; it is answered, never acted upon.
    """
    admin = path == "/llumnix" or path.startswith("/llumnix/")
    preflight = method == "OPTIONS" and "Access-Control-Request-Method" in headers
    return path in OPEN_PATHS or admin or preflight


async def _tell_limits(_http: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(own_visit().headers())
