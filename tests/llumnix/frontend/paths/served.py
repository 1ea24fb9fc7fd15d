"""A scripted server for paths other than completions."""

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from aiohttp import web
from multidict import CIMultiDict

from tests.llumnix.frontend.stub import StubInstance

Play = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Got:
    """A request that a server got."""

    method: str
    path: str
    headers: CIMultiDict[str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class PathServer(StubInstance):
    """Answers every other path with its name, or as the next of `plays` does."""

    def __init__(self, name: str, *, plugged: bool = True) -> None:
        super().__init__(name, plugged=plugged)
        self.plays: deque[Play] = deque()
        self.got: list[Got] = []

    def routes(self) -> list[web.RouteDef]:
        return [web.get("/health", self._health), web.route("*", "/{rest:.*}", self._any)]

    async def _health(self, _http: web.Request) -> web.Response:
        return web.Response()

    async def _any(self, http: web.Request) -> web.StreamResponse:
        got = Got(http.method, http.raw_path, CIMultiDict(http.headers), await http.read())
        self.got.append(got)
        self.began.set()
        try:
            if self.plays:
                return await self.plays.popleft()(http)
            return web.json_response({"served_by": self.name})
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


def answer(status: int, body: object = None, **headers: str) -> Play:
    """Play an answer."""

    async def play(_http: web.Request) -> web.StreamResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.json_response(body, status=status, headers=named)

    return play


def drop(http: web.Request) -> Awaitable[web.StreamResponse]:
    """Play a server that breaks off before it has answered."""
    assert http.transport is not None
    http.transport.abort()
    return asyncio.sleep(0, web.Response())


def events(*chunks: bytes, then: str = "end") -> Play:
    """Play a stream of these bytes; `then` end it, die or hang."""

    async def play(http: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(http)
        for chunk in chunks:
            await response.write(chunk)
        if then == "die":
            await asyncio.sleep(0.05)  # so that what was written is out
            assert http.transport is not None
            http.transport.abort()
        elif then == "hang":
            await asyncio.Event().wait()
        return response

    return play


def event(kind: str, **more: object) -> bytes:
    """Write one event as vLLM does."""
    data = json.dumps({"type": kind, **more}, separators=(",", ":"))
    return f"event: {kind}\ndata: {data}\n\n".encode()
