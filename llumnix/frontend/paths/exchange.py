"""One request to one instance, and its response on the way to the client."""

import asyncio
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from itertools import chain

import aiohttp
from aiohttp import web
from multidict import CIMultiDict
from yarl import URL

from llumnix.fleet.requests import Cuttable, nothing
from llumnix.frontend.context import ServingContext
from llumnix.frontend.http.outcome import Failure, FailureKind, retry_after_s
from llumnix.frontend.http.upstream import Reuse, cut, was_cut
from llumnix.frontend.paths.body import Body
from llumnix.frontend.request.headers import REQUEST_ID, end_to_end, sendable, to_instance_as_is
from llumnix.frontend.request.location import as_clients_see
from llumnix.frontend.request_log import own_account
from llumnix.frontend.serving import Cutoff
from llumnix.instances.condition.shortage import is_ours
from llumnix.instances.instance import Instance

_ELSEWHERE = frozenset({429, 500, 502, 503, 504})
"""Statuses with which another instance may do better."""
_HELD_BYTES = 256 * 1024


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of whichever instance serves it: `path` is the path and its query.

    `shown_id` is the request's id, as its client is told it; empty if it has none of ours.
    `waiting` is told how to end the wait for a response.
    """

    http: web.Request
    path: str
    body: Body
    headers: CIMultiDict[str]
    shown_id: str = ""
    waiting: Cuttable | None = None


@dataclass(frozen=True, slots=True)
class Declined:
    """An instance's answer that has been held back, since another may do better."""

    status: int
    headers: CIMultiDict[str]
    body: bytes

    def response(self) -> web.Response:
        """Return it as the client's response after all."""
        headers = CIMultiDict(self.headers)
        headers.popall("Content-Length", None)
        return web.Response(status=self.status, headers=headers, body=self.body)

    @property
    def retry_after_s(self) -> float:
        """Return the wait it asks for; 0 if it asks for none."""
        return retry_after_s(self.headers.get("Retry-After"))


@dataclass(frozen=True, slots=True)
class Lost:
    """Why an instance gave no response; `stale` if it had closed a kept-alive connection."""

    failure: Failure
    stale: bool = False


def _request(
    context: ServingContext, asked: Asked, instance: Instance, trace: Reuse
) -> "AbstractAsyncContextManager[aiohttp.ClientResponse]":
    return context.upstream.session.request(
        asked.http.method,
        URL(instance.url + asked.path, encoded=True),
        **instance.endpoint.reach(asked.headers),
        data=asked.body.send() if asked.body.exists else None,
        allow_redirects=False,
        trace_request_ctx=trace,
        timeout=aiohttp.ClientTimeout(
            total=None,
            sock_connect=context.config.connect_timeout_s,
            sock_read=context.config.answer_timeout_s,
        ),
    )


async def exchange(
    context: ServingContext,
    asked: Asked,
    instance: Instance,
    decline: Callable[[int], bool],
) -> web.StreamResponse | Declined | Lost:
    """Send a request to an instance and pass its response on; hold it back if `decline`d.

    Raises BrokenBody for a client that sends no whole body, Cutoff.
    """
    trace = Reuse()
    own_account().sent_to(instance.id)
    begun: web.StreamResponse | None = None
    wait = asyncio.timeout(None)
    try:
        if asked.waiting is not None:
            asked.waiting.cut_by(partial(cut, wait))
        async with wait, _request(context, asked, instance, trace) as upstream:
            headers = sendable(end_to_end(upstream.headers))
            if asked.shown_id:
                headers[REQUEST_ID] = asked.shown_id
            as_clients_see(headers, chain([instance], context.fleet.instances))
            held = b""
            if decline(upstream.status) and upstream.content_type != "text/event-stream":
                held = await _beginning(upstream)
                if upstream.content.at_eof():
                    return Declined(upstream.status, headers, held)
            if asked.waiting is not None:
                asked.waiting.cut_by(nothing)
            begun = web.StreamResponse(status=upstream.status, headers=headers)
            await _pass_back(asked.http, upstream, begun, held)
            return begun
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        if asked.body.broken is not None:
            raise asked.body.broken from error
        if begun is not None:
            raise _broken_off(asked.http, instance, error) from error
        if was_cut(wait):
            return Lost(Failure(FailureKind.CUT, f"{instance.id} went down"))
        return _lost(instance, error, reused=trace.reused)


async def _pass_back(
    http: web.Request, upstream: aiohttp.ClientResponse, begun: web.StreamResponse, held: bytes
) -> None:
    """Pass a response on to the client; `held` has been read of it."""
    await begun.prepare(http)
    if held:
        await begun.write(held)
    async for data in upstream.content.iter_any():
        await begun.write(data)
    await begun.write_eof()


def _broken_off(http: web.Request, instance: Instance, error: Exception) -> ConnectionError:
    if http.transport is None or http.transport.is_closing():
        return ConnectionResetError("the client has left")
    account = own_account()
    account.outcome, account.cause = "failed", f"broken: {instance.id} broke off"
    return Cutoff(f"{instance.id} broke off: {error!r}")


def may_do_better(status: int) -> bool:
    """Return whether another instance may do better than one that answers with this status."""
    return status in _ELSEWHERE


def headers_for(http: web.Request) -> CIMultiDict[str]:
    """Return the headers of a request that is passed on as it is."""
    return sendable(to_instance_as_is(http.headers))


async def _beginning(upstream: aiohttp.ClientResponse) -> bytes:
    """Read an answer that is to be held back, unless it is too long for that."""
    parts = bytearray()
    while len(parts) < _HELD_BYTES and not upstream.content.at_eof():
        parts += await upstream.content.readany()
    return bytes(parts)


def _lost(instance: Instance, error: BaseException, *, reused: bool) -> Lost:
    if is_ours(error):
        return Lost(Failure(FailureKind.STARVED, f"no connection can be opened: {error}"))
    if isinstance(error, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        detail = f"{instance.id} refuses connections: {error}"
        return Lost(Failure(FailureKind.REFUSED, detail))
    if isinstance(error, TimeoutError):
        return Lost(Failure(FailureKind.STALLED, f"{instance.id} sent nothing in time"))
    return Lost(Failure(FailureKind.BROKEN, f"{instance.id} broke off: {error!r}"), reused)
