"""A vLLM with our plugin, as its clients see it, driven step by step by a test."""

import asyncio
import json
from typing import Any

from aiohttp import web

from migration.links.auth import verify_resume
from tests.llumnix.frontend.splicing.chunks import DONE, event, text
from tests.llumnix.frontend.splicing.vllm_chunks import PROMPT, VllmWriter
from tests.llumnix.frontend.stub import SECRET, Heard, StubInstance


def prompt_of(body: dict[str, Any]) -> list[int]:
    """Give the prompt's token ids, where they are given."""
    params = body.get("kv_transfer_params") or {}
    return list(params.get("prompt_token_ids") or body.get("prompt") or ())


def decoded(token_id: int) -> str:
    """Give the text of a token, of the prompt or of the answer."""
    return f"<{token_id}>" if token_id in PROMPT else text((token_id - 1000) // 7)


class Stay:
    """One request at one instance. Orders are carried out one after the other."""

    def __init__(self, heard: Heard, writer: VllmWriter) -> None:
        self.heard = heard
        self.writer = writer
        self.base = 0
        self.sent = 0
        self.cancelled = asyncio.Event()
        self.orders: asyncio.Queue[tuple[str, Any]] = asyncio.Queue()

    @property
    def ids(self) -> list[int]:
        """The output the frontend posted."""
        return list((self.heard.resume or {}).get("output_token_ids") or ())

    def give(self, after: int) -> None:
        """Send the tokens up to this one, one chunk each."""
        for first in range(self.sent, after):
            self.orders.put_nowait(("bytes", self.writer.tokens(first, first + 1)))
        self.sent = max(self.sent, after)

    def merge(self, after: int) -> None:
        """Send the tokens up to this one in one chunk."""
        self.orders.put_nowait(("bytes", self.writer.tokens(self.sent, after)))
        self.sent = after

    def finish(self, after: int, finish: str = "length", stop: str | None = None) -> None:
        """Send the rest up to this token, the last chunk with the finish reason, and end."""
        if not self.heard.body.get("stream"):
            self.orders.put_nowait(("end", self.writer.answer(after, finish, stop)))
            return
        self.give(after - 1)
        last = self.writer.tokens(after - 1, after, finish, stop)
        self.orders.put_nowait(("bytes", last))
        usage = (self.heard.body.get("stream_options") or {}).get("include_usage")
        own = after - self.base
        counts = {"prompt_tokens": 3 + self.base, "completion_tokens": own}
        counts["total_tokens"] = 3 + after
        last = event({**self.writer.head, "choices": [], "usage": counts})
        self.orders.put_nowait(("bytes", last if usage else b""))
        self.orders.put_nowait(("end", DONE))

    def redirect(self, migration_id: str, finish: str = "length") -> None:
        """End as a moved request does: with one token more, which nobody is to see from here."""
        self.finish(self.sent + 1, finish, f"migrate:{migration_id}")

    def let_go(self, stop: str) -> None:
        """End without a token: sent back, or refused."""
        last = self.writer.tokens(0, 0, "abort", stop)
        if not self.heard.body.get("stream"):
            last = self.writer.answer(0, "abort", stop)
        self.orders.put_nowait(("bytes", last))
        self.orders.put_nowait(("end", DONE if self.heard.body.get("stream") else b""))

    def die(self) -> None:
        """Cut the connection."""
        self.orders.put_nowait(("die", b""))


class VllmInstance(StubInstance):
    """Found by its metrics; its streams wait for the test's orders. `status` answers errors.

    A continuation is replayed at once as far as the frontend knows it. `silent` sends no head.
    """

    def __init__(self, name: str, *, plugged: bool = True) -> None:
        super().__init__(name, plugged=plugged)
        self.stays: list[Stay] = []
        self.warmed: list[dict[str, Any]] = []
        self.warm = asyncio.Event()
        self.warm.set()
        self.decodes = True
        self.status = 200
        self.silent = asyncio.Event()
        self.silent.set()

    async def _instance(self, http: web.Request) -> web.Response:
        return web.Response(status=404)

    def metrics(self) -> str:
        info = f'instance_id="{self.name}",control_host="0.0.0.0",control_port="41234"'
        gauge = f'llumnix_llumlet_info{{{info},capacity_tokens="8192",engine="vllm"}} 1\n'
        return "vllm:num_requests_running 0\n" + (gauge if self.plugged else "")

    async def _complete(self, http: web.Request) -> web.StreamResponse:
        raw = await http.read()
        body = json.loads(raw)
        resume = (body.get("kv_transfer_params") or {}).get("llumnix")
        if resume is not None:
            assert verify_resume(SECRET, resume, resume["issued_at"]) is None
        if body.get("max_tokens") == 1 and not body.get("stream"):
            self.warmed.append(body)
            await self.warm.wait()
            return web.json_response({"choices": [{"text": "x"}]})
        heard = Heard(body, raw, http.headers, resume)
        known = len((resume or {}).get("output_token_ids") or ())
        created = len(self.name) + ord(self.name[0]) + len(self.stays)
        writer = VllmWriter(
            body, created=created, request_id=http.headers["X-Request-Id"], dummies=known
        )
        stay = Stay(heard, writer)
        stay.base = stay.sent = max(0, len(prompt_of(body)) - len(PROMPT))
        if resume is not None and known and body.get("stream"):
            stay.merge(known)
        self.heard.append(heard)
        self.stays.append(stay)
        try:
            await self.silent.wait()
            if self.status != 200:
                return web.json_response({"error": {"message": "no"}}, status=self.status)
            return await self._obey(stay, http)
        except asyncio.CancelledError:
            stay.cancelled.set()
            raise

    async def _decode(self, http: web.Request) -> web.Response:
        if not self.decodes:
            return web.json_response({"error": {"message": "no"}}, status=404)
        ids = (await http.json())["tokens"]
        return web.json_response({"prompt": "".join(map(decoded, ids))})

    async def _obey(self, stay: Stay, http: web.Request) -> web.StreamResponse:
        streams = stay.heard.body.get("stream")
        kind = "text/event-stream; charset=utf-8" if streams else "application/json"
        response = web.StreamResponse(headers={"Content-Type": kind})
        await response.prepare(http)
        if streams:
            await response.write(stay.writer.opening())
        while True:
            order, data = await stay.orders.get()
            if order == "die":
                assert http.transport is not None
                http.transport.abort()
                return response
            if data:
                await response.write(data)
            if order == "end":
                return response
