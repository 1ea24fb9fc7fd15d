"""Generation that stays on its instance: `/v1/responses`, `/v1/messages` and others.

It is counted, queued and placed as completions are, and begins afresh elsewhere as long as its
client has been told nothing. From then on it cannot be moved: how a stream of these APIs would be
joined from two instances is not known. If its instance dies, the client gets an error in its API's
own format.
"""

import asyncio
import re
import time
from functools import partial
from typing import Literal

from aiohttp import web

from llumnix.fleet.requests import ActiveRequest
from llumnix.frontend.context import ServingContext
from llumnix.frontend.http.client import AiohttpStream
from llumnix.frontend.http.idle import IdleWatch
from llumnix.frontend.http.outcome import Failure, FailureKind, UpstreamAnswer
from llumnix.frontend.http.upstream import Leg
from llumnix.frontend.moves.route import Route
from llumnix.frontend.moves.waits import Silent
from llumnix.frontend.paths.dialect import error_event, error_response
from llumnix.frontend.paths.immovable.preface import Preface
from llumnix.frontend.paths.immovable.stored import StoredResponses
from llumnix.frontend.paths.table import Dialect
from llumnix.frontend.relay.timing import Timing
from llumnix.frontend.request.headers import to_client, to_instance
from llumnix.frontend.request.location import as_clients_see
from llumnix.frontend.request.refusal import Refusal
from llumnix.frontend.request.request import ClientRequest

_HOLD_S = 15.0
"""How long the beginning of a stream that says nothing is held back, at most."""
_SILENT_S = 5.0
"""How long a stream on an instance that is down may be silent before it is given up."""
_OUTPUT_TOKENS = re.compile(rb'"(?:output_tokens|completion_tokens)" *: *(\d+)')
_FIRST_ID = re.compile(rb'"id" *: *"([^"\\]{1,256})"')
_DELTA = {Dialect.MESSAGES: b"event: content_block_delta", Dialect.RESPONSES: b".delta\n"}
_TAIL_BYTES = 64 * 1024

Outcome = Literal["finished", "failed", "rejected"]


class GenerationRelay:
    """Relays one such request to its client, streamed or not."""

    def __init__(
        self,
        context: ServingContext,
        http: web.Request,
        request: ClientRequest,
        active: ActiveRequest,
        dialect: Dialect,
        stored: StoredResponses,
        arrived_at: float,
    ) -> None:
        self._context = context
        self._request = request
        self._active = active
        self._dialect = dialect
        self._stored = stored
        self._arrived_at = arrived_at
        onward = partial(to_instance, http.headers, active.request_id, request.class_name)
        self.route = Route(context, request, onward, active)
        self._client = AiohttpStream(http)
        self._timing = Timing(context, request.class_name, arrived_at, active.account)
        self._usual_s = context.patience.first_byte_s(
            request.class_index, request.prompt_tokens, context.config.patience_s
        )
        self._watch = IdleWatch(self._usual_s, self._on_idle)
        self._leg: Leg | None = None
        self._writing = False
        self._events = 0
        self._tokens = 0
        self._delta = _DELTA.get(dialect, b"data:")
        self._tail = b""
        self._over = False
        active.tokens = lambda: self._tokens
        active.heard_at_s = lambda: self._timing.pace.last_at

    async def run(self) -> tuple[web.StreamResponse, Outcome]:
        """Relay until the response has ended."""
        first = await self.route.open(None)
        opened: UpstreamAnswer | Refusal | None
        if isinstance(first, Leg):
            self._context.tally.stream_opened()
            try:
                with self._watch:
                    opened = await self._follow(first)
            finally:
                self._over = True
                self._context.tally.stream_closed()
        else:
            opened = first
        tokens = _last_count(self._tail) or self._tokens
        if isinstance(opened, Refusal):
            self._active.account.cause = opened.cause()
            if not self._client.begun:
                response: web.StreamResponse = error_response(opened, self._dialect)
                return response, "rejected" if opened.status == 503 else "failed"
            self._timing.ended(tokens)
            await self._client.write(error_event(opened, self._dialect, self._events))
            return await self._client.end(), "failed"
        if isinstance(opened, UpstreamAnswer):
            return self._whole(opened)
        self._timing.ended(tokens)
        self._timing.finished(tokens)
        return await self._client.end(), "finished"

    def _whole(self, answer: UpstreamAnswer) -> tuple[web.StreamResponse, Outcome]:
        headers = to_client(answer.headers, self._active.shown_id, streams=True)
        as_clients_see(headers, [answer.instance])
        response = web.Response(status=answer.status, headers=headers, body=answer.body)
        if answer.status >= 400:
            self._active.account.cause = f"{answer.instance.id} answered {answer.status}"
            return response, "rejected"
        if self._dialect is Dialect.RESPONSES and (found := _FIRST_ID.search(answer.body)):
            self._stored.learn(found.group(1).decode(errors="replace"), answer.instance)
        spent_s = self._context.fleet_seconds(time.monotonic() - self._arrived_at)
        tokens = _last_count(answer.body[-_TAIL_BYTES:])
        self._active.account.output_tokens = tokens
        self._context.tally.answered(self._request.class_name, spent_s, tokens)
        return response, "finished"

    async def _follow(self, leg: Leg) -> UpstreamAnswer | Refusal | None:
        """Follow the stream; None at its end, else what came instead of one."""
        while True:
            self._leg = leg
            self._active.cut = self._on_instance_down
            try:
                failure = await self._pump(leg)
            finally:
                leg.close()
            if failure is None:
                return None
            if self._client.begun:
                text = f"the stream broke and cannot be resumed: {failure.detail}"
                return Refusal(502, text, "broken")
            opened = self.route.broke(failure) or await self.route.open(None)
            if not isinstance(opened, Leg):
                return opened
            leg = opened

    async def _pump(self, leg: Leg) -> Failure | None:
        """Forward one leg; return how it failed, or None if its stream has ended."""
        preface = Preface(self._dialect)
        held_until = asyncio.get_running_loop().time() + _HOLD_S
        data = leg.first
        try:
            while data:
                out = preface.feed(data)
                if preface.failed:
                    detail = f"{leg.instance.id} began with an error: {preface.error}"
                    return Failure(FailureKind.ANSWERED, detail, 500)
                if out:
                    await self._send(out, leg)
                if preface.said:
                    if self._client.flows:
                        await leg.pour(self._pass_on)
                    data = await leg.read()
                    continue
                try:
                    async with asyncio.timeout_at(held_until) as holding:
                        data = await leg.read()
                except TimeoutError:
                    if not holding.expired():
                        raise
                    await self._send(preface.release(), leg)
                    data = await leg.read()
        except OSError as error:
            if isinstance(error, ConnectionError) and self._writing:
                raise  # the client has left
            return Failure(FailureKind.BROKEN, f"{leg.instance.id} broke off: {error!r}")
        finally:
            if self._dialect is Dialect.RESPONSES:
                self._stored.learn(preface.response_id, leg.instance)
        if not preface.said:
            return Failure(
                FailureKind.BROKEN, f"{leg.instance.id} ended its stream before it began"
            )
        return None

    def _pass_on(self, data: bytes) -> bool:
        """Forward what was just read, from within the read."""
        self._timing.pace.last_at = self._watch.touched_at = time.monotonic()
        self._count(data)
        self._client.push(data)
        return self._client.flows

    async def _send(self, data: bytes, leg: Leg) -> None:
        now = time.monotonic()
        self._writing = True
        if not self._client.begun:
            headers = to_client(leg.head.headers, self._active.shown_id, streams=True)
            await self._client.begin(leg.head.status, headers)
            self._timing.first(now)
            self._watch.limit_s = self._context.config.idle_timeout_s
            self._active.flows_since_s = now
            self._context.fleet.health.flows(self._active.request_id)
        self._timing.pace.last_at = self._watch.touched_at = now
        self._count(data)
        await self._client.write(data)
        self._writing = False

    def _count(self, data: bytes) -> None:
        self._events += data.count(b"\n\n")
        self._tokens += data.count(self._delta)
        self._tail = (self._tail + data)[-2048:] if len(data) < 2048 else data[-_TAIL_BYTES:]

    def _on_instance_down(self) -> None:
        """Cut the leg if nothing was said; else only once it is silent, for it cannot be moved."""
        leg = self._leg
        silent_s = time.monotonic() - self._watch.touched_at
        if leg is None or self._over:
            return
        if not self._client.begun or silent_s >= _SILENT_S:
            leg.close()
            return
        instance = leg.instance
        loop = asyncio.get_running_loop()
        loop.call_later(_SILENT_S, lambda: None if instance.alive else self._on_instance_down())

    def _on_idle(self, silent_s: float) -> None:
        """Cut the side that stalls the stream; before it has begun, if another can serve it."""
        if self._writing:
            self._client.cut()
        elif self._leg is not None and (self._client.begun or self._too_silent(silent_s)):
            self._leg.close()

    def _too_silent(self, silent_s: float) -> bool:
        assert self._leg is not None
        limit_s = self._context.config.first_byte_timeout_s
        silent = Silent(silent_s, self._usual_s, limit_s, begun=False, grafts=False)
        return self.route.too_silent(self._leg.instance, silent) is not None


def _last_count(data: bytes) -> int:
    """Return the last count of output tokens that these bytes tell; 0 if they tell none."""
    counts = _OUTPUT_TOKENS.findall(data)
    return int(counts[-1]) if counts else 0
