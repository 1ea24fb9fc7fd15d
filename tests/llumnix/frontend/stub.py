"""A scripted engine that speaks the instance contract, for whole-frontend tests."""

import asyncio
import json
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web
from multidict import CIMultiDictProxy

from llumnix.instances.instance import MigrationOrder
from migration.links.auth import verify_resume
from migration.llumlet.fleet_messages import Recalled
from tests.llumnix.frontend.splicing.chunks import DONE, Writer, full_text, token

SECRET = b"a secret for tests"
TOKENS = 12
Step = Callable[[], Awaitable[None]]


@dataclass
class Script:
    """What a scripted instance does with one request. By default it answers it in full.

    After `tokens` tokens it does `then`: finish, redirect (to `migration_id`), die, hang, leave
    (end the HTTP body in the middle), fail (say so in an event) or stop short of [DONE]. `prelude`
    is sent before all else. `status` other than 200 is an error answer; `merge` puts so many tokens
    into a chunk; `pause` is awaited before every chunk.
    """

    tokens: int = TOKENS
    then: str = "finish"
    migration_id: str = "m"
    status: int = 200
    merge: int = 1
    created: int = 1
    silent: bool = False
    garble: bool = False
    pause: Step | None = None
    headers: dict[str, str] = field(default_factory=dict)
    prelude: bytes = b""
    error: bytes = b'data: {"error":{"message":"engine died","code":500}}\n\n'


@dataclass
class Heard:
    """A request an instance was sent."""

    body: dict[str, Any]
    raw: bytes
    headers: CIMultiDictProxy[str]
    resume: dict[str, Any] | None


class StubInstance:
    """A scripted engine that speaks the instance contract; scripts are used up one a request."""

    def __init__(self, name: str, *, plugged: bool = True) -> None:
        self.name = name
        self.remembers: dict[tuple[str, str], Recalled] = {}
        self.plugged = plugged
        self.model = "m"
        self.layout = ""
        self.scripts: deque[Script] = deque()
        self.heard: list[Heard] = []
        self.cancelled = asyncio.Event()
        self.began = asyncio.Event()
        self.began_silently = False
        self.orders: list[MigrationOrder] = []
        self.drained: list[bool] = []
        self.url = ""
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application(client_max_size=1 << 26)
        app.add_routes(
            [
                web.get("/v1/models", self._models),
                web.get("/llumnix/instance", self._instance),
                web.get("/metrics", self._metrics),
                web.post("/detokenize", self._decode),
                web.post("/v1/completions", self._complete),
                web.post("/v1/chat/completions", self._complete),
                web.route("*", "/v1/echo/{rest:.*}", self._echo),
                *self.routes(),
            ]
        )
        self._runner = web.AppRunner(
            app,
            handler_cancellation=True,
            access_log=None,
            shutdown_timeout=0.1,
            max_line_size=2**20,
            max_field_size=2**20,
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    @property
    def listens(self) -> bool:
        """Whether it takes connections."""
        return self._runner is not None and bool(self._runner.sites)

    async def stop_listening(self) -> None:
        """Take no more connections; those there are stay."""
        assert self._runner is not None
        for site in list(self._runner.sites):
            await site.stop()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    def routes(self) -> list[web.RouteDef]:
        """Routes besides those of every engine."""
        return []

    async def _models(self, http: web.Request) -> web.Response:
        models = [{"id": self.model, "max_model_len": 100}]
        return web.json_response({"object": "list", "data": models})

    async def _instance(self, http: web.Request) -> web.Response:
        if not self.plugged:
            return web.Response(status=404)
        return web.json_response(
            {
                "instance_id": self.name,
                "capacity_tokens": 1000,
                "control_host": "127.0.0.1",
                "control_port": 1,
                "speed": 1.0,
                "layout": self.layout,
            }
        )

    async def _metrics(self, http: web.Request) -> web.Response:
        page = self.metrics()
        return web.Response(text=page, status=200 if page else 404)

    async def _decode(self, http: web.Request) -> web.Response:
        return web.Response(status=404)

    def metrics(self) -> str:
        """The metrics page; there is none when it is empty."""
        return ""

    async def _echo(self, http: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(status=207, headers={"X-Method": http.method})
        response.headers["X-Path"] = http.raw_path
        response.headers["X-Custom-Back"] = http.headers.get("X-Custom", "")
        await response.prepare(http)
        async for data in http.content.iter_any():
            await response.write(data)
        return response

    async def _complete(self, http: web.Request) -> web.StreamResponse:
        raw = await http.read()
        body = json.loads(raw)
        params = body.get("kv_transfer_params") or {}
        resume = params.get("llumnix")
        if resume is not None:
            assert verify_resume(SECRET, resume, resume["issued_at"]) is None
        self.heard.append(Heard(body, raw, http.headers, resume))
        script = self.scripts.popleft() if self.scripts else Script()
        self.began.set()
        try:
            return await self._play(script, http, body)
        except asyncio.CancelledError:
            self.cancelled.set()
            raise

    async def _play(
        self, script: Script, http: web.Request, body: dict[str, Any]
    ) -> web.StreamResponse:
        if script.silent:
            await asyncio.Event().wait()
        if script.status != 200:
            error = {"error": {"message": f"{self.name} says no", "type": "x", "code": None}}
            return web.json_response(error, status=script.status, headers=script.headers)
        chat = http.path.endswith("chat/completions")
        if not body.get("stream"):
            return await self._answer(script, http, body)
        writer = Writer(
            chat=chat,
            ids=bool(body.get("return_token_ids")),
            created=script.created,
            request_id=http.headers["X-Request-Id"],
        )
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        response.headers.update(script.headers)
        await response.prepare(http)
        if script.prelude:
            await response.write(script.prelude)
        for chunk in self._chunks(script, writer, body):
            if script.pause is not None:
                await script.pause()
            await response.write(chunk)
        await self._end(script, http, writer, response)
        return response

    def _chunks(self, script: Script, writer: Writer, body: dict[str, Any]) -> list[bytes]:
        chunks = [writer.opening()] if writer.chat else []
        for first in range(0, script.tokens, script.merge):
            after = min(script.tokens, first + script.merge)
            last = after == script.tokens and script.then in ("finish", "stop short of [DONE]")
            chunks.append(writer.tokens(first, after, "length" if last else None))
        if script.garble:
            chunks[-1] = chunks[-1].replace(b"the", b"teh").replace(b"end", b"edn")
        if script.then == "finish" and (body.get("stream_options") or {}).get("include_usage"):
            chunks.append(writer.usage(script.tokens))
        return chunks

    async def _end(
        self, script: Script, http: web.Request, writer: Writer, response: web.StreamResponse
    ) -> None:
        if script.then == "finish":
            await response.write(DONE)
        elif script.then == "fail":
            await response.write(script.error + DONE)
        elif script.then == "redirect":
            await response.write(writer.redirect(script.migration_id))
        elif script.then == "die":
            assert http.transport is not None
            # Let what was written go out before the connection is reset.
            await asyncio.sleep(0)
            http.transport.abort()
        elif script.then == "hang":
            await asyncio.Event().wait()

    async def _answer(
        self, script: Script, http: web.Request, body: dict[str, Any]
    ) -> web.StreamResponse:
        if script.then == "die":
            assert http.transport is not None
            http.transport.abort()
        choice: dict[str, Any] = {
            "index": 0,
            "text": full_text(script.tokens),
            "finish_reason": "length",
            "stop_reason": None,
        }
        if script.then == "redirect":
            choice |= {"finish_reason": "abort", "stop_reason": f"migrate:{script.migration_id}"}
        if body.get("return_token_ids"):
            choice["token_ids"] = [token(i) for i in range(script.tokens)]
        if http.path.endswith("chat/completions"):
            choice["message"] = {"role": "assistant", "content": choice.pop("text")}
        answer = {
            "id": "cmpl-" + http.headers["X-Request-Id"],
            "object": "text_completion",
            "created": script.created,
            "model": "m",
            "choices": [choice],
            "usage": {
                "prompt_tokens": 3,
                "completion_tokens": script.tokens,
                "total_tokens": 3 + script.tokens,
            },
        }
        text = json.dumps(answer, separators=(",", ":"))
        return web.Response(
            text=text, content_type="application/json", headers=script.headers or None
        )
