"""How bodies come in: within the bounds on bytes, unpacked and parsed off the event loop."""

import asyncio
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, Final

from aiohttp import web

from llumnix.frontend.bodies.broken import BrokenBody, read_part
from llumnix.frontend.bodies.budget import Budget, Holding
from llumnix.frontend.bodies.cost import is_cheap
from llumnix.frontend.bodies.helper import HelperFailed, Helpers
from llumnix.frontend.bodies.unpack import ENCODINGS, Bounds, Corrupt, TooLarge, unpack
from llumnix.frontend.config import FrontendConfig
from llumnix.frontend.http.request import altered
from llumnix.frontend.request.body import with_member
from llumnix.frontend.request.refusal import Refusal, too_large
from llumnix.frontend.request.request import CLASS_HEADERS, Classes, ClientRequest, parse

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_HELPERS: Final = 2
_HELPER_TIMEOUT_S: Final = 20.0
_COPIED_AT_ONCE_BYTES: Final = 2**20

_OWN: ContextVar[Holding] = ContextVar("holding")


class Intake:
    """Reads and parses bodies. `install` it on an application; `close` it in the end."""

    def __init__(self, config: FrontendConfig) -> None:
        self.budget = Budget(config.queue_limit_bytes)
        self._config = config
        self._bounds = Bounds(config.body_limit_bytes, config.body_expansion_limit)
        self._helpers = Helpers(_HELPERS, _HELPER_TIMEOUT_S)

    def install(self, app: web.Application) -> None:
        """Let an application's handlers see unpacked bodies, and give back what they have held.

        The application must be served with `auto_decompress=False`.
        """

        @web.middleware
        async def take_in(request: web.Request, handler: Handler) -> web.StreamResponse:
            holding = self.budget.holding()
            _OWN.set(holding)
            try:
                if "Content-Encoding" not in request.headers:
                    return await handler(request)
                unpacked = await self._unpacked(request)
                if isinstance(unpacked, Refusal):
                    return unpacked.response()
                return await handler(unpacked)
            finally:
                holding.give_back()

        app.middlewares.append(take_in)

    def holding(self) -> Holding:
        """Return what the request that this task serves holds of the budget."""
        return _OWN.get(None) or self.budget.holding()

    async def read(self, http: web.Request) -> bytes | Refusal:
        """Read a whole body; its bytes count as held until the request ends."""
        limit = self._config.body_limit_bytes
        declared = http.content_length or 0
        if declared > limit:
            return too_large(limit)
        holding = self.holding()
        if not holding.grow_to(declared):
            return self._full()
        parts: list[bytes] = []
        size = 0
        while True:
            try:
                part = await read_part(http)
            except BrokenBody as error:
                return error.refusal()
            if not part:
                return await _joined(parts)
            parts.append(part)
            size += len(part)
            if size > limit:
                return too_large(limit)
            if not holding.grow_to(size):
                return self._full()

    async def parse(
        self, path: str, raw: bytes, headers: Any, classes: Classes, tenant: str
    ) -> ClientRequest | Refusal:
        """Parse a completion request's body; see `request.parse`."""
        if is_cheap(raw):
            return parse(path, raw, headers, classes, tenant)
        named = {name: headers[name] for name in CLASS_HEADERS if name in headers}
        try:
            parsed, changed = await self._helpers.run(
                parse_apart, raw, path, named, classes, tenant
            )
        except HelperFailed as error:
            return Refusal(413, str(error), "request_too_large")
        if isinstance(parsed, Refusal):
            return parsed
        body = raw if changed is None else changed
        asks = b""
        if parsed.hides_ids:
            asks = await asyncio.to_thread(with_member, body, "return_token_ids", value=True)
        return replace(parsed, body=body, made_body_ids=asks)

    async def close(self) -> None:
        """Stop the helpers."""
        await self._helpers.close()

    async def _unpacked(self, http: web.Request) -> web.Request | Refusal:
        encoding = http.headers["Content-Encoding"].strip().lower()
        if encoding not in ENCODINGS:
            known = ", ".join(ENCODINGS)
            return Refusal(
                415, f"Content-Encoding {encoding!r} is not known; known: {known}", "bad_encoding"
            )
        packed = await self.read(http)
        if isinstance(packed, Refusal):
            return packed
        try:
            body = await asyncio.to_thread(unpack, packed, encoding, self._bounds)
        except TooLarge:
            return Refusal(
                413,
                f"the body unpacks to more than {self._bounds.limit_bytes} bytes, or to more than "
                f"{self._bounds.expansion_limit} times its size",
                "request_too_large",
            )
        except Corrupt as error:
            return Refusal(400, f"the body is not valid {encoding}: {error}", "invalid_body")
        headers = http.headers.copy()
        for name in ("Content-Encoding", "Transfer-Encoding"):
            headers.popall(name, None)
        headers["Content-Length"] = str(len(body))
        return altered(http, headers, body)

    def _full(self) -> Refusal:
        limit = self._config.queue_limit_bytes
        return Refusal(
            503,
            f"requests hold {limit} bytes; try again later",
            "overloaded",
            retry_after_s=self._config.retry_after_s,
        )


async def _joined(parts: list[bytes]) -> bytes:
    """Join the parts of a body; large ones in a thread, where copying needs no lock."""
    if len(parts) <= 1:
        return parts[0] if parts else b""
    if sum(map(len, parts)) < _COPIED_AT_ONCE_BYTES:
        return b"".join(parts)
    return await asyncio.to_thread(b"".join, parts)


def parse_apart(
    raw: bytes, path: str, headers: dict[str, str], classes: Classes, tenant: str
) -> tuple[ClientRequest | Refusal, bytes | None]:
    """Parse a body in a helper; return all but the body, and the body only if it was edited."""
    parsed = parse(path, raw, headers, classes, tenant)
    if isinstance(parsed, Refusal):
        return parsed, None
    changed = None if parsed.body == raw else parsed.body
    return replace(parsed, body=b""), changed
