"""A frontend's notes on what its requests go through: judged by the scheduler's process."""

import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable
from typing import Any

from llumnix.instances.instance import Instance
from llumnix.scheduler_link.frames import Message
from llumnix.scheduler_link.front.requests import ToldRequestTable
from llumnix.scheduler_link.messages import Asked, Kind
from policies.types import InstanceId, RequestId

log = logging.getLogger(__name__)

_CONVICTED = 256
_CONVICTED_S = 600.0

Ask = Callable[[Asked, list[Any]], Awaitable[Any]]
"""Asks the scheduler; None if there is no answer."""


class FarSuspects:
    """What the scheduler has said of requests that are thought to crash engines."""

    def __init__(self, limit: int, post: Callable[[Message], None]) -> None:
        self.limit = limit
        self._post = post
        self._convicted: dict[RequestId, tuple[InstanceId, ...]] = {}
        self._digests: OrderedDict[bytes, float] = OrderedDict()

    @property
    def any_condemned(self) -> bool:
        """Whether any body is remembered, so that bodies are worth hashing."""
        return bool(self._digests)

    def condemned(self, digest: bytes, now_s: float) -> bool:
        """Return whether a request with this body was convicted lately."""
        at_s = self._digests.get(digest)
        return at_s is not None and now_s - at_s <= _CONVICTED_S

    def condemn(self, digest: bytes, now_s: float) -> None:
        """Remember the body of a convicted request, here and everywhere."""
        self.told(digest, now_s)
        self._post([Kind.CONDEMN, digest])

    def told(self, digest: bytes, at_s: float) -> None:
        """Note a body that was condemned elsewhere."""
        self._digests[digest] = at_s
        while len(self._digests) > _CONVICTED:
            self._digests.popitem(last=False)

    def convicted(self, request_id: RequestId) -> tuple[InstanceId, ...]:
        """Return the instances that a convicted request took down; none for any other request."""
        return self._convicted.get(request_id, ())

    def judge(self, request_id: RequestId, instances: tuple[InstanceId, ...]) -> None:
        """Note the scheduler's verdict on a request."""
        if instances:
            self._convicted[request_id] = instances

    def forget(self, request_id: RequestId) -> None:
        """Note that a request has ended: the scheduler learns that from its table."""
        self._convicted.pop(request_id, None)


class FarHealth:
    """Passes notes on, in order. What was seen of an instance counts here at once."""

    def __init__(
        self,
        max_poisoned: int,
        requests: ToldRequestTable,
        post: Callable[[Message], None],
        ask: Ask,
    ) -> None:
        self.suspects = FarSuspects(max_poisoned, post)
        self.now_s: Callable[[], float] = time.monotonic
        self._requests = requests
        self._post = post
        self._ask = ask

    async def judged(self, request_id: RequestId) -> None:
        """Wait until the scheduler has judged what was noted, for a while at most."""
        verdict = await self._ask(Asked.VERDICT, [request_id])
        if verdict is not None:
            names = tuple(InstanceId(each) for each in verdict)
            self.suspects.judge(request_id, names)

    def served(self, instance: Instance) -> None:
        """Note that an instance answered a request."""
        instance.fitness.dead = False
        self._note("served", instance)

    def failed(self, instance: Instance, request_id: RequestId, kind: str, detail: str) -> None:
        """Note that an instance failed a request, of its own fault."""
        self._note("failed", instance, request_id, str(kind), detail)

    def passed_by(self, instance: Instance, request_id: RequestId, detail: str) -> None:
        """Note that an instance that works has left a request waiting for too long."""
        self._note("passed_by", instance, request_id, detail)

    def trip(self, instance: Instance, reason: str) -> None:
        """Leave an instance alone for a while, and then probe it."""
        self._note("trip", instance, reason)

    def busy(self, instance: Instance, request_id: RequestId, retry_after_s: float) -> None:
        """Note that an instance has no room, and for how long it wants to be left alone."""
        self._note("busy", instance, request_id, retry_after_s)

    def starved(self, detail: str) -> None:
        """Note that this process is out of files, ports or memory."""
        log.warning("frontend_starved detail=%s hint=%s", detail, "raise ulimit -n")

    def left(self, instance: Instance, request_id: RequestId) -> None:
        """Note that a request's connection to an instance failed while it may have been on it."""
        self._note("left", instance, request_id)

    def died(self, instance: Instance) -> None:
        """Note that an instance was found dead, once for each death."""
        if not instance.fitness.dead:
            instance.fitness.dead = True
            self._note("died", instance)

    def flows(self, request_id: RequestId) -> None:
        """Note that a request produces something on its instance."""
        active = self._requests.active.get(request_id)
        if active is not None:
            self._requests.changed(active)

    def convict(self, request_id: RequestId, instances: tuple[InstanceId, ...]) -> None:
        """Say which request took instances down."""
        self._requests.tell()
        self._post([Kind.HEALTH, "convict", "", request_id, list(instances)])

    def _note(self, what: str, instance: Instance, *arguments: object) -> None:
        self._requests.tell()
        self._post([Kind.HEALTH, what, instance.id, *arguments])
