"""Serve a client that may lose its connection, and come back for the rest of its answer.

It says so with `Last-Event-ID`: 0 at first, and the id of the last event that it has when it comes
back with the same `X-Request-Id` and the same body. The rest is had from this frontend's memory,
from the tokens that an engine remembers, or by computing a deterministic answer once more.
"""

import asyncio
import hashlib
import hmac
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from aiohttp import web
from multidict import CIMultiDict, CIMultiDictProxy

from llumnix.fleet.recall import NOTHING, Remembered
from llumnix.fleet.requests import ActiveRequest
from llumnix.frontend.context import ServingContext
from llumnix.frontend.delivered import DeliveredStream
from llumnix.frontend.http.client import AiohttpStream
from llumnix.frontend.http.outcome import UpstreamAnswer
from llumnix.frontend.http.upstream import Leg
from llumnix.frontend.moves.continuation import Continuation
from llumnix.frontend.moves.route import Route
from llumnix.frontend.moves.server_calls import ServerCalls
from llumnix.frontend.reconnect.kept import KeptStream
from llumnix.frontend.reconnect.numbered import NumberedStream
from llumnix.frontend.reconnect.position import LAST_EVENT_ID, Position, read_position
from llumnix.frontend.request.headers import REQUEST_ID, identity
from llumnix.frontend.request.refusal import Refusal
from llumnix.frontend.request.request import ClientRequest, is_id
from llumnix.frontend.request_log import own_account
from llumnix.frontend.serving import (
    Caller,
    Facts,
    Opening,
    arrived,
    first_leg,
    read,
    relayed,
    serve,
    tracked,
    turned_away,
)
from llumnix.frontend.splicing import sse
from llumnix.frontend.splicing.splice import Diverged
from migration.llumlet.fleet_messages import Recollection

_RECALL_TIMEOUT_S: Final = 2.0
_LOOKS: Final = 8
_LOOK_AGAIN_S: Final = 0.25
_OWNER_DIGITS: Final = 32
_HASHED_AT_ONCE_BYTES: Final = 1 << 20

_ODD = Refusal(
    400, f"{LAST_EVENT_ID} must be 0, or the id of an event of this stream", "bad_event_id"
)
_NAMELESS = Refusal(
    400,
    f"to resume a stream, send the X-Request-Id of its first response with {LAST_EVENT_ID}",
    "no_request_id",
)
_UNABLE = Refusal(
    400,
    "this request cannot be resumed (several choices or prompts, echo, prompt_logprobs, hidden "
    f"reasoning): send it without {LAST_EVENT_ID}",
    "not_resumable",
)
_BUSY = Refusal(
    409,
    "this request's answer is being given to another connection; try again when that has ended",
    "request_in_progress",
    retry_after_s=1,
)
_LOST = Refusal(
    409,
    "the rest of this answer is not known any more (or this is not the request that it answers), "
    f"and a sampled one cannot be computed again: send the request anew, with {LAST_EVENT_ID}: 0",
    "answer_lost",
)
_OTHER = Refusal(
    409,
    "the answer could not be computed again as it was: send the request anew, with "
    f"{LAST_EVENT_ID}: 0",
    "answer_differs",
)


@dataclass(frozen=True, slots=True)
class Rest:
    """Where the rest of an answer comes from: `kept` here, an engine's memory, or neither."""

    kept: KeptStream | None = None
    remembered: Remembered = NOTHING


async def serve_resumable(
    context: ServingContext, http: web.Request, path: str
) -> web.StreamResponse:
    """Serve a completion to a client that may come back for it; to any other as ever."""
    told = http.headers.get(LAST_EVENT_ID)
    if told is None:
        return await serve(context, http, path)
    arrived_at = time.monotonic()
    arrived(context, http)
    since = read_position(told)
    request = _ODD if since is None else await read(context, http, path)
    if isinstance(request, ClientRequest) and not request.resumable:
        request = _UNABLE
    if isinstance(request, ClientRequest) and since is not None:
        request = replace(request, owner=await _owner(context, request, http.headers))
        caller = Caller(lambda: http.headers, AiohttpStream(http), arrived_at)
        served = await _once(context, caller, request, since)
        if not isinstance(served, Refusal):
            return served
        request = served
    assert isinstance(request, Refusal), "else it was served"
    turned_away(context, request)
    return request.response()


async def _once(
    context: ServingContext, caller: Caller, request: ClientRequest, since: Position
) -> web.StreamResponse | Refusal:
    """Give a request's answer to one connection at a time."""
    wanted = caller.headers().get(REQUEST_ID)
    if (wanted is None or not is_id(wanted)) and not since.at_start:
        return _NAMELESS
    account = own_account()
    request_id = wanted if wanted is not None and is_id(wanted) else account.request_id
    given = context.kept.being_given
    if not await _free(context, request_id):
        return _BUSY
    given.add(request_id)
    try:
        rest = await _rest(context, request, request_id, since)
        if isinstance(rest, Refusal):
            return rest
        account.request_id = request_id
        return await _give(context, caller, request, since, rest)
    finally:
        given.discard(request_id)


async def _free(context: ServingContext, request_id: str) -> bool:
    """Wait a little for a connection to end whose client has come back already."""
    for look in range(_LOOKS):
        in_use = request_id in context.fleet.requests.active
        if not in_use and request_id not in context.kept.being_given:
            return True
        if look < _LOOKS - 1:
            await asyncio.sleep(_LOOK_AGAIN_S)
    return False


async def _rest(
    context: ServingContext, request: ClientRequest, request_id: str, since: Position
) -> Rest | Refusal:
    """Find where the rest of an answer comes from; a Refusal if it cannot be had exactly."""
    kept = context.kept.take(request_id, request.owner)
    if kept is not None and (kept.whole or _goes_on(context, request, kept.record)):
        return Rest(kept)
    for look in range(_LOOKS):
        found = await context.fleet.recall(request_id, request.owner, _RECALL_TIMEOUT_S)
        if found.state is not Recollection.RUNNING:
            break
        if look == _LOOKS - 1:
            return _BUSY
        await asyncio.sleep(_LOOK_AGAIN_S)
    parsed = {} if since.at_start else await asyncio.to_thread(json.loads, request.body)
    exact = found.state is Recollection.CUT or found.replays_whole
    if found.token_ids and exact and not parsed.get("logprobs"):
        return Rest(remembered=found)
    if since.at_start or is_deterministic(parsed):
        return Rest()
    return _LOST


def is_deterministic(parsed: Mapping[str, Any]) -> bool:
    """Whether an answer comes out the same if it is computed again: nothing is drawn, or seeded."""
    return parsed.get("temperature") == 0 or parsed.get("seed") is not None


def _goes_on(context: ServingContext, request: ClientRequest, record: DeliveredStream) -> bool:
    """Whether an instance can go on from what a stream's client was sent."""
    had, ids = record.had, record.known_ids()
    if not (had.said or ids):
        return False
    if _grafts(context, request, record):
        return True
    return context.fleet.instances.any_plugged() and bool(ids) and not had.bare


def _grafts(context: ServingContext, request: ClientRequest, record: DeliveredStream) -> bool:
    calls = ServerCalls(context.upstream.session, request.model, dict)
    continuation = Continuation(context.config, request, calls)
    return continuation.by_graft(record.had, record.known_ids())


async def _give(
    context: ServingContext, caller: Caller, request: ClientRequest, since: Position, rest: Rest
) -> web.StreamResponse:
    """Give the answer, from where the client has it to."""
    kept, wanted = rest.kept, own_account().request_id
    prefix = kept.sent.raw() if kept is not None else b""
    stream = NumberedStream(caller.stream, since, prefix)
    record = DeliveredStream() if kept is None else kept.record
    onward = _sent_on(caller.headers())
    told = replace(caller, headers=lambda: onward, stream=stream, record=record)

    async def relay(active: ActiveRequest) -> tuple[web.StreamResponse, str]:
        try:
            if active.request_id != wanted:  # another frontend serves it
                return _BUSY.response(), "rejected"
            if kept is not None and kept.whole:
                return await _again(stream, kept)
            return await relayed(context, told, request, active, _opening(context, request, rest))
        finally:
            if stream.opened and stream.diverged is None:
                _keep(context, wanted, request, stream, record)
            elif kept is not None:
                context.kept.keep(wanted, kept)

    facts = Facts(request.class_name, request.model, request.prompt_tokens)
    response = await tracked(context, facts, relay)
    return response if stream.diverged is None else _OTHER.response()


def _opening(context: ServingContext, request: ClientRequest, rest: Rest) -> Opening:
    """Return how the leg is opened that brings the rest."""
    kept, ids = rest.kept, rest.remembered.token_ids
    if kept is None and not ids:
        return first_leg

    async def open_on(route: Route) -> Leg | UpstreamAnswer | Refusal:
        if kept is None:
            holder = context.fleet.instances.get(rest.remembered.instance_id)
            if holder is not None and holder.alive:
                route.starts_at(holder)
            return await route.open(ids, begun=request.streams)
        record = kept.record
        grafts = _grafts(context, request, record)
        prompt_ids = record.had.prompt_ids if grafts else None
        return await route.open(record.known_ids(), begun=True, prompt_ids=prompt_ids)

    return open_on


async def _again(stream: NumberedStream, kept: KeptStream) -> tuple[web.StreamResponse, str]:
    """Give the end of an answer that was sent whole."""
    await stream.begin(kept.status, kept.headers)
    try:
        await stream.write(b"")
    except Diverged:
        return _OTHER.response(), "rejected"
    return await stream.end(), "finished"


def _keep(
    context: ServingContext,
    request_id: str,
    request: ClientRequest,
    stream: NumberedStream,
    record: DeliveredStream,
) -> None:
    """Keep a stream whose connection is over."""
    record.note()
    whole = sse.ends_with_done(stream.sent.last)
    kept = KeptStream(request.owner, stream.status, stream.headers, stream.sent, record, whole)
    context.kept.keep(request_id, kept)


def _sent_on(headers: CIMultiDictProxy[str]) -> CIMultiDictProxy[str]:
    """Return the headers of the request as it was before the client came back."""
    kept = CIMultiDict(headers)
    del kept[LAST_EVENT_ID]
    return CIMultiDictProxy(kept)


async def _owner(
    context: ServingContext, request: ClientRequest, headers: Mapping[str, str]
) -> str:
    """Return a digest of who asks and what: nobody else is given the answer."""
    keys = sorted(identity(headers).items())
    who = json.dumps([request.tenant, keys, request.path]).encode()

    def digest() -> str:
        made = hmac.new(context.fleet.secret, b"llumnix-owner|", hashlib.sha256)
        made.update(len(who).to_bytes(4, "big") + who)
        made.update(request.body)
        return made.hexdigest()[:_OWNER_DIGITS]

    if len(request.body) < _HASHED_AT_ONCE_BYTES:
        return digest()
    return await asyncio.to_thread(digest)
