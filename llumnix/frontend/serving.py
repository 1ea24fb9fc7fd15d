"""Serve one completion request: parse it, find its class, forward it, count its outcome."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy

from llumnix.fleet.requests import NOBODY, ActiveRequest
from llumnix.frontend.access.door import own_visit
from llumnix.frontend.context import ServingContext
from llumnix.frontend.delivered import DeliveredStream
from llumnix.frontend.http.client import AiohttpStream, ClientStream
from llumnix.frontend.http.outcome import UpstreamAnswer
from llumnix.frontend.http.upstream import Leg
from llumnix.frontend.moves.claim import Claims
from llumnix.frontend.moves.route import Route
from llumnix.frontend.relay import answer as answers
from llumnix.frontend.relay.stream import StreamRelay
from llumnix.frontend.request.headers import REQUEST_ID, to_instance
from llumnix.frontend.request.refusal import Refusal, no_such_model
from llumnix.frontend.request.request import ClientRequest, is_id, request_id
from llumnix.frontend.request_log import own_account
from policies.types import RequestId


class Cutoff(ConnectionResetError):  # noqa: N818 - what the instance did, told to the client
    """An instance broke off in the middle of a response; the client's is cut off with it."""


Work = Callable[[ActiveRequest], Awaitable[tuple[web.StreamResponse, str]]]
"""Serves a request that is in the fleet's table; returns the response, and its outcome."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a request before it is served; `immovable`: why it cannot be moved."""

    class_name: str
    model: str | None
    prompt_tokens: int
    immovable: str = ""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks for a completion: the headers, where a stream goes, and when it arrived (wall).

    Headers are asked for only where they are sent on from here. `record` is what the client of a
    stream has received before, if it comes back for the rest.
    """

    headers: Callable[[], CIMultiDictProxy[str]]
    stream: ClientStream
    arrived_at: float
    record: DeliveredStream | None = None


Opening = Callable[[Route], Awaitable[Leg | UpstreamAnswer | Refusal]]


async def first_leg(route: Route) -> Leg | UpstreamAnswer | Refusal:
    """Find an instance for a request that has been on none."""
    return await route.open(None)


async def serve(context: ServingContext, http: web.Request, path: str) -> web.StreamResponse:
    """Serve a completion or chat completion, streamed or not; `path` is what instances call it."""
    arrived_at = time.monotonic()
    arrived(context, http)
    request = await read(context, http, path)
    if isinstance(request, Refusal):
        turned_away(context, request)
        return request.response()

    caller = Caller(lambda: http.headers, AiohttpStream(http), arrived_at)

    async def relay(active: ActiveRequest) -> tuple[web.StreamResponse, str]:
        return await relayed(context, caller, request, active)

    immovable = "" if request.resumable else "its output cannot be joined from two instances"
    facts = Facts(request.class_name, request.model, request.prompt_tokens, immovable)
    return await tracked(context, facts, relay)


def arrived(context: ServingContext, http: web.Request) -> None:
    """Note that a request has arrived: it ends by `tracked` or `turned_away`."""
    context.tally.request_arrived()
    account, wanted = own_account(), http.headers.get(REQUEST_ID)
    account.request_id = request_id(wanted, context.fleet.requests.active)
    account.client_id = wanted if wanted is not None and is_id(wanted) else ""


def turned_away(context: ServingContext, refusal: Refusal) -> None:
    """Note that a request has ended before it was admitted."""
    account = own_account()
    context.tally.request_ended(context.classes.default, "rejected")
    account.outcome, account.cause = "rejected", refusal.cause()


async def tracked(context: ServingContext, facts: Facts, work: Work) -> web.StreamResponse:
    """Serve a request that has arrived: it is in the fleet's table until it ends."""
    account = own_account()
    # Once more: another request may have taken the id while this one's body was on its way.
    account.request_id = request_id(account.request_id, context.fleet.requests.active)
    if account.client_id:
        account.request_id = await context.fleet.unique_id(account.request_id)
    account.class_name, account.model = facts.class_name, facts.model or ""
    account.prompt_tokens = facts.prompt_tokens
    active = ActiveRequest(
        RequestId(account.request_id),
        facts.class_name,
        context.fleet.now_s(),
        account=account,
        immovable=facts.immovable,
    )
    context.fleet.requests.open(active)
    outcome = "failed"
    try:
        response, outcome = await work(active)
    except Cutoff as error:
        account.cause = str(error)
        raise
    except (asyncio.CancelledError, ConnectionError):
        outcome = "failed" if account.cut or account.outcome == "failed" else "cancelled"
        raise
    finally:
        settle(context, active, outcome)
    return response


def settle(context: ServingContext, active: ActiveRequest, outcome: str) -> None:
    """Note that a request that was in the fleet's table has ended."""
    context.fleet.requests.close(active.request_id)
    context.fleet.forget(active.request_id)
    context.fleet.health.suspects.forget(active.request_id)
    context.patience.settled(active.request_id)
    context.tally.request_ended(active.class_name, outcome)
    active.account.outcome = outcome
    context.queue.retry()


async def unknown_model(context: ServingContext, model: str | None) -> Refusal | None:
    """Return the refusal of a request for a model that no instance serves."""
    if not model or await context.fleet.finds(model):
        return None
    return no_such_model(model)


async def inadmissible(
    context: ServingContext, model: str | None, prompt_tokens: int, output_limit_tokens: int = 0
) -> Refusal | None:
    """Return why a request is not admitted: nobody serves its model, or its caller's limits.

    What it may use of the limits is reserved.
    """
    unknown = await unknown_model(context, model)
    if unknown is not None:
        return unknown
    too_many = await own_visit().reserve(prompt_tokens, output_limit_tokens)
    if too_many is not None:
        context.tally.access_refused(too_many.code or "")
    return too_many


async def read(context: ServingContext, http: web.Request, path: str) -> ClientRequest | Refusal:
    """Read and parse a completion request; a Refusal if it is not to be served."""
    raw = await context.intake.read(http)
    if isinstance(raw, Refusal):
        return raw
    visit = own_visit()
    classes = visit.classes(context.classes)
    request = await context.intake.parse(path, raw, http.headers, classes, visit.caller.tenant)
    if isinstance(request, Refusal):
        return request
    if request.forged:
        context.tally.forged("client_resume_field")
    refusal = await inadmissible(
        context, request.model, request.prompt_tokens, request.output_limit_tokens
    )
    return refusal or request


async def relayed(
    context: ServingContext,
    caller: Caller,
    request: ClientRequest,
    active: ActiveRequest,
    first: Opening = first_leg,
) -> tuple[web.StreamResponse, str]:
    """Serve a request that is in the fleet's table; `first` opens its first leg."""

    def headers() -> CIMultiDict[str]:
        return to_instance(caller.headers(), active.request_id, request.class_name)

    route = Route(context, request, headers, active)
    claims = Claims(context.config, route, active)
    active.follower = claims
    try:
        return await _answer(context, caller, request, route, active, claims, first)
    finally:
        active.follower = NOBODY
        claims.close()


async def _answer(
    context: ServingContext,
    caller: Caller,
    request: ClientRequest,
    route: Route,
    active: ActiveRequest,
    claims: Claims,
    first: Opening,
) -> tuple[web.StreamResponse, str]:
    opened = await first(route)
    if isinstance(opened, Leg):
        context.tally.stream_opened()
        relay = StreamRelay(
            context,
            caller.stream,
            caller.headers,
            request,
            route,
            active,
            claims,
            caller.arrived_at,
            caller.record,
        )
        try:
            return await relay.run(opened)
        finally:
            relay.close()
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
        spent_s = context.fleet_seconds(time.monotonic() - caller.arrived_at)
        active.account.output_tokens = answers.output_tokens(opened)
        context.tally.answered(request.class_name, spent_s, active.account.output_tokens)
    else:
        active.account.cause = f"{opened.instance.id} answered {opened.status}"
    return answers.response(opened, active.shown_id, request=request), outcome
