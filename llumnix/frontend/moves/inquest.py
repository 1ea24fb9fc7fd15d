"""Find out whether the instances that failed a request have died, before it goes to another."""

import asyncio
import hashlib
import time

from llumnix.frontend.context import ServingContext
from llumnix.frontend.http.outcome import Failure, FailureKind
from llumnix.frontend.http.probe import Life
from llumnix.frontend.request.refusal import Refusal
from llumnix.instances.instance import Instance
from policies.types import RequestId

_CERTAIN_S = 1.0
"""An instance that lives so long after a failure did not die of it."""
_BETWEEN_PROBES_S = 0.1
_STATUS = 502


class Inquest:
    """The instances that one request was on when they failed it.

    The first is asked once whether it lives, which takes a millisecond and tells the death of a
    server from a broken connection. Before the request goes to an instance that would be one too
    many to take down, all must be dead or have lived on for a second.
    """

    def __init__(self, context: ServingContext, request_id: RequestId) -> None:
        self._context = context
        self._request_id = request_id
        self._open: dict[str, tuple[Instance, float]] = {}
        self._asked: frozenset[str] = frozenset()
        self._failed_on: frozenset[str] = frozenset()

    def note(self, instance: Instance, failure: Failure) -> None:
        """Note a failure; only those after the request was sent can mean that it did harm."""
        hangs = failure.kind is FailureKind.CUT and instance.fitness.hung
        if (failure.was_there or failure.kind is FailureKind.CUT) and not hangs:
            self._context.fleet.health.left(instance, self._request_id)
            self._open[instance.url] = instance, time.monotonic()
            self._asked -= {instance.url}
            self._failed_on |= {instance.url}

    async def verdict(self, body: bytes) -> Refusal | None:
        """Return why the request may go to no other instance; None if it may."""
        health = self._context.fleet.health
        if not self._open and not health.suspects.any_condemned:
            return None
        digest = hashlib.sha256(body).digest() if health.suspects.any_condemned else b""
        if digest and health.suspects.condemned(digest, time.monotonic()):
            return _refusal("an equal request has taken down several instances")
        for url in [url for url in self._open if url not in self._asked]:
            await self._look(url)
        await health.judged(self._request_id)
        while self._open and len(self._failed_on) >= health.suspects.limit:
            await asyncio.sleep(_BETWEEN_PROBES_S)
            for url in list(self._open):
                await self._look(url)
                since_s = self._open[url][1] if url in self._open else 0.0
                if time.monotonic() - since_s >= _CERTAIN_S:
                    self._open.pop(url, None)
            await health.judged(self._request_id)
        instances = health.suspects.convicted(self._request_id)
        if not instances:
            return None
        health.convict(self._request_id, instances)
        health.suspects.condemn(hashlib.sha256(body).digest(), time.monotonic())
        return _refusal(f"the request took down {', '.join(instances)}")

    async def _look(self, url: str) -> None:
        instance, _ = self._open[url]
        self._asked |= {url}
        life = await self._context.upstream.probe.ask(instance)
        fleet = self._context.fleet
        if life in (Life.DEAD, Life.SICK):
            self._open.pop(url, None)
            fleet.health.died(instance)
        if life is Life.DEAD:
            fleet.suspect(instance, "it refuses connections")
        elif life is Life.SICK:
            fleet.health.trip(instance, "its engine is dead")


def _refusal(why: str) -> Refusal:
    return Refusal(_STATUS, f"{why}; it is not tried again", "poisonous")
