"""Serve one completion request: parse it, find its class, forward it, count its outcome."""

import asyncio
import time
from collections.abc import Awaitable, Callable

from aiohttp import web

from llumnix.fleet.requests import NOBODY, ActiveRequest
from llumnix.frontend import answer as answers
from llumnix.frontend.context import ServingContext
from llumnix.frontend.http.upstream import Leg
from llumnix.frontend.moves.claim import Claims
from llumnix.frontend.moves.route import Route
from llumnix.frontend.request.headers import REQUEST_ID, to_instance
from llumnix.frontend.request.refusal import Refusal
from llumnix.frontend.request.request import ClientRequest, parse, request_id
from llumnix.frontend.stream import StreamRelay
from policies.types import RequestId

Work = Callable[[ActiveRequest], Awaitable[tuple[web.StreamResponse, str]]]
"""Serves a request that is in the fleet's table; returns the response, and its outcome."""


async def serve(context: ServingContext, http: web.Request, path: str) -> web.StreamResponse:
    """Serve a completion or chat completion, streamed or not; `path` is what instances call it."""
    arrived_at = time.monotonic()
    context.tally.request_arrived()
    request = await _read(context, http, path)
    if isinstance(request, Refusal):
        context.tally.request_ended(context.classes.default, "rejected")
        return request.response()

    async def relay(active: ActiveRequest) -> tuple[web.StreamResponse, str]:
        return await _relay(context, http, request, active, arrived_at)

    immovable = "" if request.resumable else "its output cannot be joined from two instances"
    return await tracked(context, http, request.class_name, relay, immovable)


async def tracked(
    context: ServingContext, http: web.Request, class_name: str, work: Work, immovable: str
) -> web.StreamResponse:
    """Serve a request that has been counted as arrived: in the fleet's table until its end.

    `immovable` says why it cannot be moved; empty if it can.
    """
    active = ActiveRequest(
        RequestId(request_id(http.headers.get(REQUEST_ID), context.fleet.requests.active)),
        class_name,
        context.fleet.now_s(),
        immovable=immovable,
    )
    context.fleet.requests.open(active)
    outcome = "failed"
    try:
        response, outcome = await work(active)
    except (asyncio.CancelledError, ConnectionError):
        outcome = "cancelled"
        raise
    finally:
        context.fleet.requests.close(active.request_id)
        context.fleet.forget(active.request_id)
        context.tally.request_ended(class_name, outcome)
        context.queue.retry()
    return response


def unknown_model(context: ServingContext, model: str | None) -> Refusal | None:
    """Return the refusal of a request for a model that no instance serves, in vLLM's words."""
    if not model or context.fleet.serves(model):
        return None
    message = f"The model `{model}` does not exist."
    return Refusal(404, message, "model_not_found", "model")


async def _read(context: ServingContext, http: web.Request, path: str) -> ClientRequest | Refusal:
    limit = context.config.body_limit_bytes
    too_large = Refusal(413, f"the body is larger than {limit} bytes", "request_too_large")
    if (http.content_length or 0) > limit:
        return too_large
    try:
        raw = await http.read()
    except web.HTTPRequestEntityTooLarge:
        return too_large
    except web.RequestPayloadError as error:
        # There is nothing more to read: aiohttp would, and fail with a traceback.
        http.content.feed_eof()
        return Refusal(400, f"the body cannot be read: {error}", "invalid_body")
    request = parse(path, raw, http.headers, context.classes)
    if isinstance(request, Refusal):
        return request
    if request.forged:
        context.tally.forged("client_resume_field")
    return unknown_model(context, request.model) or request


async def _relay(
    context: ServingContext,
    http: web.Request,
    request: ClientRequest,
    active: ActiveRequest,
    arrived_at: float,
) -> tuple[web.StreamResponse, str]:
    headers = to_instance(http.headers, active.request_id, request.class_name)
    route = Route(context, request, headers, active)
    claims = Claims(context.config, route, active)
    active.follower = claims
    try:
        return await _answer(context, http, request, route, active, claims, arrived_at)
    finally:
        active.follower = NOBODY
        claims.close()


async def _answer(
    context: ServingContext,
    http: web.Request,
    request: ClientRequest,
    route: Route,
    active: ActiveRequest,
    claims: Claims,
    arrived_at: float,
) -> tuple[web.StreamResponse, str]:
    opened = await route.open(None)
    if isinstance(opened, Leg):
        context.tally.stream_opened()
        try:
            relay = StreamRelay(context, http, request, route, active, claims, arrived_at)
            return await relay.run(opened)
        finally:
            opened.close()
            context.tally.stream_closed()
    if not isinstance(opened, Refusal):
        opened = await answers.AnswerRelay(context, route, claims).settle(opened)
    if isinstance(opened, Refusal):
        # Never admitted, as opposed to admitted and then failed.
        return opened.response(), "rejected" if opened.status == 503 else "failed"
    outcome = answers.outcome(opened)
    if outcome == "finished":
        spent_s = context.fleet_seconds(time.monotonic() - arrived_at)
        context.tally.answered(request.class_name, spent_s, answers.output_tokens(opened))
    return answers.response(opened, active.request_id, request=request), outcome
