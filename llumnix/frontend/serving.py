"""Serve one completion request: parse it, find its class, forward it, count its outcome."""

import asyncio
import time

from aiohttp import web

from llumnix.fleet.requests import NOBODY, ActiveRequest
from llumnix.frontend import answer as answers
from llumnix.frontend.access.door import own_visit
from llumnix.frontend.context import ServingContext
from llumnix.frontend.http.upstream import Leg
from llumnix.frontend.moves.claim import Claims
from llumnix.frontend.moves.route import Route
from llumnix.frontend.request.headers import REQUEST_ID, to_instance
from llumnix.frontend.request.refusal import Refusal
from llumnix.frontend.request.request import ClientRequest, request_id
from llumnix.frontend.request_log import own_account
from llumnix.frontend.stream import StreamRelay
from policies.types import RequestId


async def serve(context: ServingContext, http: web.Request) -> web.StreamResponse:
    """Serve a completion or chat completion, streamed or not."""
    arrived_at = time.monotonic()
    context.tally.request_arrived()
    account = own_account()
    account.request_id = request_id(http.headers.get(REQUEST_ID), context.fleet.requests.active)
    request = await _read(context, http)
    if isinstance(request, Refusal):
        context.tally.request_ended(context.classes.default, "rejected")
        account.outcome, account.cause = "rejected", request.cause()
        return request.response()
    # Once more: another request may have taken the id while this one's body was on its way.
    account.request_id = request_id(account.request_id, context.fleet.requests.active)
    account.class_name, account.model = request.class_name, request.model or ""
    account.prompt_tokens = request.prompt_tokens
    active = ActiveRequest(
        RequestId(account.request_id),
        request.class_name,
        context.fleet.now_s(),
        account=account,
    )
    context.fleet.requests.open(active)
    outcome = "failed"
    try:
        response, outcome = await _relay(context, http, request, active, arrived_at)
    except (asyncio.CancelledError, ConnectionError):
        outcome = "failed" if account.cut else "cancelled"
        raise
    finally:
        context.fleet.requests.close(active.request_id)
        context.fleet.forget(active.request_id)
        context.fleet.health.suspects.forget(active.request_id)
        context.patience.settled(active.request_id)
        context.tally.request_ended(request.class_name, outcome)
        account.outcome = outcome
        context.queue.retry()
    return response


async def _read(context: ServingContext, http: web.Request) -> ClientRequest | Refusal:
    raw = await context.intake.read(http)
    if isinstance(raw, Refusal):
        return raw
    visit = own_visit()
    classes = visit.classes(context.classes)
    request = await context.intake.parse(http.path, raw, http.headers, classes, visit.caller.tenant)
    if isinstance(request, Refusal):
        return request
    if request.forged:
        context.tally.forged("client_resume_field")
    if request.model is not None and not await context.fleet.finds(request.model):
        message = f"The model `{request.model}` does not exist."
        return Refusal(404, message, "model_not_found", "model")
    too_many = visit.reserve(request.prompt_tokens, request.output_limit_tokens)
    if too_many is not None:
        context.tally.access_refused(too_many.code or "")
        return too_many
    return request


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
        active.account.cause = opened.cause()
        # Never admitted, as opposed to admitted and then failed.
        return opened.response(), "rejected" if opened.status == 503 else "failed"
    outcome = answers.outcome(opened)
    if outcome == "finished":
        spent_s = context.fleet_seconds(time.monotonic() - arrived_at)
        active.account.output_tokens = answers.output_tokens(opened)
        context.tally.answered(request.class_name, spent_s, active.account.output_tokens)
    else:
        active.account.cause = f"{opened.instance.id} answered {opened.status}"
    return answers.response(opened, active.request_id, request=request), outcome
