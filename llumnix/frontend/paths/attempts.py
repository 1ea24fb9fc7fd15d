"""Ask one instance after another until one has answered: for everything that is passed on.

How often is decided by what went wrong. An instance that takes no connection has seen nothing of
the request, so any number of them may be skipped; one that broke off may have died of it, so few.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from aiohttp import web
from multidict import CIMultiDict

from llumnix.frontend.context import ServingContext
from llumnix.frontend.http.outcome import Failure, FailureKind
from llumnix.frontend.moves.inquest import Inquest
from llumnix.frontend.paths.exchange import Asked, Declined, Lost, exchange
from llumnix.frontend.request.refusal import NO_INSTANCE, OUT_OF_CONNECTIONS, Refusal
from llumnix.instances.instance import Instance
from policies.types import InstanceId, RequestId

_STALE_RETRIES = 8
"""Kept-alive connections found closed, one after another, before it counts as a failure."""
_BROKEN = 2
"""Instances that may break off before the request is given up: it may be what breaks them."""
_BUSY = (429, 503)

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
    stale_at: InstanceId | None = None
    broken: int = 0
    last: Failure | None = None


class Attempts:
    """The attempts of one request. Its id is that in the fleet's table, if it is there."""

    def __init__(
        self,
        context: ServingContext,
        asked: Asked,
        patience: Patience,
        request_id: RequestId | None = None,
    ) -> None:
        self._context = context
        self._asked = asked
        self._patience = patience
        self._tried = _Tried()
        self._request_id = request_id or RequestId("")
        self._inquest = Inquest(context, request_id) if request_id else None

    async def pass_on(self, choose: Choose) -> web.StreamResponse | Refusal:
        """Pass the request on to one of the instances that `choose` gives.

        Raises BrokenBody, Cutoff.
        """
        tried = self._tried
        again: Instance | None = None
        while True:
            if tried.broken and self._inquest is not None:
                convicted = await self._inquest.verdict(self._asked.body.fingerprint())
                if convicted is not None:
                    return convicted
            chosen = again or await choose(frozenset(tried.instances))
            if not isinstance(chosen, Instance):
                return self._without_answer(chosen)
            result = await exchange(self._context, self._asked, chosen, self._patience.declined)
            if isinstance(result, web.StreamResponse):
                self._context.fleet.health.served(chosen)
                return result
            again = None
            if isinstance(result, Declined):
                self._decline(chosen, result)
            elif result.stale and tried.stale < _STALE_RETRIES:
                # Most likely the server had closed the connection before it saw the request.
                tried.stale += 1
                tried.stale_at = chosen.id
                tried.last = result.failure
                again = chosen
            else:
                refusal = self._lose(chosen, result)
                if refusal is not None:
                    return refusal
            if not self._asked.body.repeatable:
                return self._without_answer(None)

    def _decline(self, instance: Instance, declined: Declined) -> None:
        """Note an answer that is held back."""
        self._tried.declined.append(declined)
        self._tried.instances.add(instance.id)
        if declined.status in _BUSY:
            self._context.fleet.health.busy(instance, self._request_id, declined.retry_after_s)

    def _lose(self, instance: Instance, lost: Lost) -> Refusal | None:
        """Note a failure; a Refusal if it was one too many."""
        tried, failure, health = self._tried, lost.failure, self._context.fleet.health
        if failure.kind is FailureKind.REFUSED and tried.stale_at == instance.id:
            # It was no stale connection after all: the server has died, with the request on it.
            self._context.fleet.suspect(instance, failure.detail)
            failure = Failure(FailureKind.BROKEN, f"{instance.id} died with the request on it")
        tried.instances.add(instance.id)
        tried.last = failure
        if self._inquest is not None:
            self._inquest.note(instance, failure)
        if failure.kind is FailureKind.STARVED:
            health.starved(failure.detail)
            return OUT_OF_CONNECTIONS
        if failure.kind is FailureKind.REFUSED:
            health.died(instance)
            self._context.fleet.suspect(instance, failure.detail)
            return None
        if failure.kind is not FailureKind.CUT:  # the fleet has found that out
            health.failed(instance, self._request_id, failure.kind, failure.detail)
        if failure.kind is FailureKind.CUT and self._patience.repeats:
            return None
        if failure.kind is FailureKind.STALLED:
            return Refusal(504, failure.detail, "upstream_timeout")
        tried.broken += 1
        if tried.broken >= _BROKEN or not self._patience.repeats:
            return Refusal(502, failure.detail, "bad_gateway")
        return None

    def _without_answer(self, why: Refusal | None) -> web.StreamResponse | Refusal:
        """Return the response of a request that no instance has answered well."""
        tried = self._tried
        if tried.declined:
            # All say so: the client hears it from the last, and the longest wait any asked for.
            last = tried.declined[-1]
            longest_s = max(each.retry_after_s for each in tried.declined)
            if longest_s:
                headers = CIMultiDict(last.headers)
                headers["Retry-After"] = str(round(longest_s))
                last = Declined(last.status, headers, last.body)
            return last.response()
        if tried.last is not None:
            return Refusal(502, tried.last.detail, "bad_gateway")
        return why or NO_INSTANCE
