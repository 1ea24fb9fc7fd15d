"""A small OpenAI server whose outputs are known, and can be spoilt on order."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Spoil = Callable[[list[int]], list[int]]
"""Turns the right output into the one that is sent."""


def stub_output(prompt_ids: Sequence[int], max_tokens: int) -> list[int]:
    """What the stub model answers: ids that depend on the whole prompt, none twice in a row."""
    start = sum(place * token for place, token in enumerate(prompt_ids, start=1))
    return [(start + 7919 * step) % 100_003 for step in range(max_tokens)]


def stub_decode(token_ids: Sequence[int]) -> str:
    return "".join(f" {token}" for token in token_ids)


@dataclass
class Stub:
    """Set `spoil`, `text_spoil`, `refuse`, `cut_after`... by request index before a run."""

    spoil: dict[int, Spoil] = field(default_factory=dict)
    text_spoil: set[int] = field(default_factory=set)
    refuse: dict[int, tuple[int, str]] = field(default_factory=dict)
    cut_after: dict[int, int] = field(default_factory=dict)
    finish_reason: dict[int, str] = field(default_factory=dict)
    stream_error: set[int] = field(default_factory=set)
    hang: set[int] = field(default_factory=set)
    tokens_a_chunk: int = 1
    token_gap_s: float = 0.0
    give_ids: bool = True
    line_end: str = "\n"
    split_writes: bool = False
    hold_all: asyncio.Event | None = None
    pages: dict[str, Any] = field(default_factory=dict)
    bodies: dict[int, dict[str, Any]] = field(default_factory=dict)
    headers: dict[int, dict[str, str]] = field(default_factory=dict)
    open_now: int = 0
    most_open: int = 0
    url: str = ""

    async def complete(self, request: web.Request) -> web.StreamResponse:
        index = int(request.headers["X-Request-Id"].rsplit("-", 1)[1])
        body = await request.json()
        self.bodies[index], self.headers[index] = body, dict(request.headers)
        self.open_now += 1
        self.most_open = max(self.most_open, self.open_now)
        try:
            if self.hold_all is not None:
                await self.hold_all.wait()
            if index in self.refuse:
                status, message = self.refuse[index]
                return web.json_response({"error": {"message": message}}, status=status)
            return await self._stream(request, index, body)
        finally:
            self.open_now -= 1

    async def _stream(
        self, request: web.Request, index: int, body: dict[str, Any]
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        response.enable_chunked_encoding()
        await response.prepare(request)
        output = stub_output(body["prompt"], body["max_tokens"])
        spoil = self.spoil.get(index)
        output = spoil(output) if spoil is not None else output
        step = self.tokens_a_chunk
        for place in range(0, len(output), step):
            if index in self.hang:
                await asyncio.sleep(30.0)
            if self.cut_after.get(index) == place:
                assert request.transport is not None
                request.transport.close()
                return response
            await self._event(response, self._chunk(index, body, output[place : place + step]))
            if self.token_gap_s:
                await asyncio.sleep(self.token_gap_s)
        if index in self.stream_error:
            await self._event(response, {"error": {"message": "the engine died", "code": 500}})
        else:
            await self._end(response, index, body)
        return response

    async def _end(self, response: web.StreamResponse, index: int, body: dict[str, Any]) -> None:
        end = self._chunk(index, body, [], self.finish_reason.get(index, "length"))
        await self._event(response, end)
        usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": body["max_tokens"]}
        await self._event(response, {"choices": [], "usage": usage})
        await self._write(response, f"data: [DONE]{self.line_end * 2}")

    def _chunk(
        self, index: int, body: dict[str, Any], ids: list[int], finish: str | None = None
    ) -> dict[str, Any]:
        text = stub_decode(ids)
        if index in self.text_spoil:
            text = text.replace(" ", "_")
        choice = {"index": 0, "text": text, "finish_reason": finish, "stop_reason": None}
        if self.give_ids and body.get("return_token_ids"):
            choice["token_ids"] = ids
        return {"id": "cmpl-x", "choices": [choice]}

    async def _event(self, response: web.StreamResponse, message: dict[str, Any]) -> None:
        text = json.dumps(message, separators=(",", ":"))
        await self._write(response, f"data: {text}{self.line_end * 2}")

    async def _write(self, response: web.StreamResponse, text: str) -> None:
        data = text.encode()
        if self.split_writes:  # events torn apart by the framing
            await response.write(data[:9])
            data = data[9:]
        await response.write(data)

    async def page(self, request: web.Request) -> web.Response:
        if request.path not in self.pages:
            return web.json_response({"error": {"message": "no such page"}}, status=404)
        content = self.pages[request.path]
        return web.json_response(content() if callable(content) else content)


@asynccontextmanager
async def serving(stub: Stub) -> AsyncIterator[Stub]:
    """Serve the stub on a free loopback port."""
    stub.pages.setdefault("/v1/models", {"data": [{"id": "stub-model"}]})
    app = web.Application(client_max_size=64 * 2**20)
    app.router.add_post("/v1/completions", stub.complete)
    app.router.add_get("/{path:.*}", stub.page)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        host, port = runner.addresses[0][:2]
        stub.url = f"http://{host}:{port}"
        yield stub
    finally:
        await runner.cleanup()
