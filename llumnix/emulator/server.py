"""The emulated engine's HTTP server: the OpenAI API, redirect and resume, and its own pages."""

import time
import uuid
from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web

from llumnix.emulator.errors import ApiError
from llumnix.emulator.exposition import metrics_text, stats
from llumnix.emulator.hooks import EmulatorHooks
from llumnix.emulator.instance import EmulatedInstance
from llumnix.emulator.loop import StepLoop
from llumnix.emulator.openai import Call, CallKind, ResumeField, read_call
from llumnix.emulator.requests import EmulatedRequest
from llumnix.emulator.responses import DONE, StreamWriter, usage_of, whole_answer
from migration.links.auth import verify_resume
from migration.llumlet.fleet_messages import PROTOCOL
from policies.types import MigrationId, RequestId

_MAX_ID_CHARS = 256
_STREAM_HEADERS = {
    "Content-Type": "text/event-stream; charset=utf-8",
    "Cache-Control": "no-cache",
    "X-Accel-Buffering": "no",
}


class EmulatorServer:
    """Routes requests to one instance. `secret` signs resumes; empty for a plain server.

    A handler is cancelled the moment its client leaves (the runner's `handler_cancellation`), and
    cancels its request then: while streaming, before the first byte, and when not streaming.
    """

    def __init__(self, instance: EmulatedInstance, loop: StepLoop, secret: bytes) -> None:
        self.control_port = 0
        """Port of the llumlet; 0 while there is none."""
        self.llumlet_stats: Callable[[], Mapping[str, object]] = dict
        self.resumes_refused = 0
        self._instance = instance
        self._config = instance.config
        self._loop = loop
        self._secret = secret
        self._started_s = int(time.time())

    def app(self) -> web.Application:
        """Build the application."""
        app = web.Application(
            client_max_size=self._config.max_body_bytes, middlewares=[_openai_errors]
        )
        app.add_routes(
            [
                web.post("/v1/completions", self._completions),
                web.post("/v1/chat/completions", self._chat_completions),
                web.get("/v1/models", self._models),
                web.get("/health", self._health),
                web.get("/metrics", self._metrics),
                web.get("/llumnix/instance", self._about),
                web.get("/llumnix/stats", self._stats),
            ]
        )
        return app

    # --- generation ------------------------------------------------------------------------

    async def _completions(self, http: web.Request) -> web.StreamResponse:
        return await self._generate(http, CallKind.COMPLETION, "cmpl-")

    async def _chat_completions(self, http: web.Request) -> web.StreamResponse:
        return await self._generate(http, CallKind.CHAT, "chatcmpl-")

    async def _generate(self, http: web.Request, kind: CallKind, prefix: str) -> web.StreamResponse:
        raw = await http.read()
        call = read_call(kind, raw, self._config.model, self._instance.sizes.max_model_len)
        request_id = _request_id(http.headers, call.resume)
        request = self._start(call, request_id, self._class_index(http.headers))
        request.owner = call.owner
        response_id = prefix + request_id
        try:
            if call.stream:
                return await self._stream(http, call, request, response_id)
            await request.finished()
            body = whole_answer(call, request, response_id, self._config.model, int(time.time()))
            return web.Response(
                body=body,
                content_type="application/json",
                headers={"X-Request-Id": request_id},
            )
        finally:
            self._instance.cancel(request)

    async def _stream(
        self, http: web.Request, call: Call, request: EmulatedRequest, response_id: str
    ) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={**_STREAM_HEADERS, "X-Request-Id": str(request.request_id)}
        )
        await response.prepare(http)
        writer = StreamWriter(call, response_id, self._config.model, int(time.time()))
        position = 0
        finish = None
        opening = writer.opening()
        try:
            if opening:
                await response.write(opening.encode())
            while finish is None:
                tokens, finish = await request.read(position)
                position += len(tokens)
                text = writer.chunks(tokens, finish)
                if finish is not None:
                    moved = finish.finish_reason == "abort"
                    usage = call.include_usage and not moved
                    text += (writer.usage(usage_of(request)) if usage else "") + DONE
                await response.write(text.encode())
            await response.write_eof()
        except ConnectionResetError:
            pass  # the client left during a write; the caller cancels the request
        return response

    def _start(self, call: Call, request_id: RequestId, class_index: int) -> EmulatedRequest:
        """Enqueue the request, or resume one that has migrated here; raises ApiError."""
        outputs: tuple[int, ...] = ()
        if call.resume is not None:
            claimed, outputs = self._resume(call.resume)
            if claimed is not None:
                return claimed
            # The frontend resumes the request here, so whatever runs under its id is an orphan.
            orphan = self._instance.requests.get(request_id)
            if orphan is not None:
                self._instance.cancel(orphan)
        elif self._instance.terminating:
            raise ApiError(503, "this instance is being drained", code="draining")
        elif self._instance.waiting >= self._config.max_waiting:
            raise ApiError(503, "too many requests are queued here", code="queue_full")
        if len(outputs) > call.sampling.max_tokens:
            raise ApiError(400, "output_token_ids exceed max_tokens", param="kv_transfer_params")
        request = self._instance.new_request(
            request_id, class_index, call.prompt_token_ids, outputs, call.sampling
        )
        try:
            self._instance.submit(request)
        except ValueError as error:
            raise ApiError(409, str(error), code="request_id_in_use") from None
        return request

    def _resume(self, resume: ResumeField) -> tuple[EmulatedRequest | None, tuple[int, ...]]:
        """Return the request to claim, or the outputs to continue from; raises ApiError."""
        reason = (
            verify_resume(self._secret, resume.fields, time.time())
            if self._secret
            else "this server has no secret"
        )
        if reason is not None:
            self.resumes_refused += 1
            raise ApiError(403, f"resume refused: {reason}", code="bad_resume_signature")
        if resume.early:
            raise ApiError(
                409,
                "this engine accepts a claim only once the request has arrived",
                code="early_claim",
            )
        if resume.migration_id is not None:
            claimed = self._instance.claim(MigrationId(resume.migration_id))
            if claimed is not None:
                return claimed, ()
        if resume.output_token_ids is None:
            raise ApiError(
                409,
                f"no request waits here for a claim of migration {resume.migration_id!r}",
                code="unknown_migration",
            )
        return None, resume.output_token_ids

    def _class_index(self, headers: Mapping[str, str]) -> int:
        name = headers.get("X-Llumnix-Class", self._config.default_class)
        names = self._config.class_names
        if name not in names:
            raise ApiError(400, f"unknown class {name!r}; known: {', '.join(names)}")
        return names.index(name)

    # --- pages -----------------------------------------------------------------------------

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response()

    async def _models(self, _: web.Request) -> web.Response:
        model = {
            "id": self._config.model,
            "object": "model",
            "created": self._started_s,
            "owned_by": "llumnix",
            "root": self._config.model,
            "parent": None,
            "max_model_len": self._instance.sizes.max_model_len,
        }
        return web.json_response({"object": "list", "data": [model]})

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(
            body=metrics_text(self._instance).encode(),
            headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"},
        )

    async def _about(self, _: web.Request) -> web.Response:
        if not self.control_port:
            raise web.HTTPNotFound
        sizes = self._instance.sizes
        return web.json_response(
            {
                "instance_id": self._config.instance_id,
                "model": self._config.model,
                "max_model_len": sizes.max_model_len,
                "block_tokens": sizes.block_tokens,
                "capacity_tokens": sizes.capacity_tokens,
                "control_host": self._config.host,
                "control_port": self.control_port,
                "speed": self._config.speed,
                "emulated": True,
                "protocol": PROTOCOL,
                "layout": EmulatorHooks(self._instance).layout().digest(),
            }
        )

    async def _stats(self, _: web.Request) -> web.Response:
        page = stats(self._instance, self._loop.lag, self._config.speed)
        return web.json_response(
            {**page, "resumes_refused": self.resumes_refused, "llumlet": self.llumlet_stats()}
        )


def _request_id(headers: Mapping[str, str], resume: ResumeField | None) -> RequestId:
    given = resume.request_id if resume is not None else headers.get("X-Request-Id", "")
    if not given:
        return RequestId(uuid.uuid4().hex)
    if len(given) > _MAX_ID_CHARS or not given.isascii() or not given.isprintable():
        raise ApiError(400, f"X-Request-Id must be at most {_MAX_ID_CHARS} printable characters")
    return RequestId(given)


@web.middleware
async def _openai_errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except ApiError as error:
        return error.response()
    except web.HTTPException as error:
        if error.status == 413:
            message = f"the body is larger than {request.client_max_size} bytes"
        else:
            message = f"{request.method} {request.path}: {error.reason}"
        return ApiError(error.status, message).response()
