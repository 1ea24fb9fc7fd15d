"""Ask one instance after another until one has answered: for everything that is passed on.

How often is decided by what went wrong. An instance that takes no connection has seen nothing of
the request, so any number of them may be skipped; one that broke off may have died of it, so few.
"""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from aiohttp import web
from multidict import CIMultiDict

from llumnix.frontend.context import ServingContext
from llumnix.frontend.paths.exchange import Asked, Declined, Lost, exchange
from llumnix.frontend.request.refusal import Refusal
from llumnix.instances.instance import Instance
from policies.types import InstanceId

log = logging.getLogger(__name__)

_STALE_RETRIES = 8
"""Kept-alive connections found closed, one after another, before it counts as a failure."""
_BROKEN = 2
"""Instances that may break off before the request is given up: it may be what breaks them."""

Choose = Callable[[frozenset[InstanceId]], Awaitable[Instance | Refusal | None]]
"""Chooses an instance other than those tried; None if there is no other."""


@dataclass(frozen=True, slots=True)
class Patience:
    """What to try again: `declined` says which statuses another instance may better.

    `repeats`: the request may be sent again after an instance broke off with it.
    """

    declined: Callable[[int], bool]
    repeats: bool


@dataclass(slots=True)
class _Tried:
    """What has been tried for one request."""

    instances: set[InstanceId] = field(default_factory=set)
    declined: list[Declined] = field(default_factory=list)
    stale: int = 0
    broken: int = 0
    last: Lost | None = None


async def pass_on(
    context: ServingContext, asked: Asked, choose: Choose, patience: Patience
) -> web.StreamResponse | Refusal:
    """Pass a request on to one of the instances that `choose` gives.

    Raises BrokenBody, Cutoff.
    """
    tried = _Tried()
    again: Instance | None = None
    while True:
        chosen = again or await choose(frozenset(tried.instances))
        if not isinstance(chosen, Instance):
            return _without_answer(tried, chosen)
        result = await exchange(context, asked, chosen, patience.declined)
        if isinstance(result, web.StreamResponse):
            return result
        again = None
        if isinstance(result, Declined):
            tried.declined.append(result)
            tried.instances.add(chosen.id)
        elif result.kind == "stale" and tried.stale < _STALE_RETRIES:
            # The server had closed the connection before it could see the request.
            tried.stale += 1
            tried.last = result
            again = chosen
        else:
            refusal = _count(context, tried, chosen, result, patience)
            if refusal is not None:
                return refusal
        if not asked.body.repeatable:
            return _without_answer(tried, None)


def _count(
    context: ServingContext, tried: _Tried, instance: Instance, lost: Lost, patience: Patience
) -> Refusal | None:
    """Note a failure; a Refusal if it was one too many."""
    tried.instances.add(instance.id)
    tried.last = lost
    if lost.kind == "ours":
        log.error("no_connection_from_here detail=%s", lost.detail)
        return Refusal(503, "the frontend cannot open connections", "overloaded", None, 1)
    log.warning("pass_on_failed instance=%s detail=%s", instance.id, lost.detail)
    if lost.kind == "refused":
        context.fleet.suspect(instance, lost.detail)
        return None
    if lost.kind == "silent":
        return Refusal(504, lost.detail, "upstream_timeout")
    tried.broken += 1
    if tried.broken >= _BROKEN or not patience.repeats:
        return Refusal(502, lost.detail, "bad_gateway")
    return None


def _without_answer(tried: _Tried, why: Refusal | None) -> web.StreamResponse | Refusal:
    """Return the response of a request that no instance has answered well."""
    if tried.declined:
        # All say so: the client hears it from the last, and the longest wait any asked for.
        last = tried.declined[-1]
        longest_s = max(each.retry_after_s for each in tried.declined)
        if longest_s:
            headers = CIMultiDict(last.headers)
            headers["Retry-After"] = f"{longest_s:g}"
            last = Declined(last.status, headers, last.body)
        return last.response()
    if why is not None and tried.last is None:
        return why
    if tried.last is not None:
        return Refusal(502, tried.last.detail, "bad_gateway")
    return Refusal(503, "no instance is up", "no_instance", retry_after_s=1)
