"""What the fleet makes of what requests went through: whom to spare, whom to blame, what to log."""

import logging
import time
from collections.abc import Callable

from llumnix.fleet.events import EventRing
from llumnix.fleet.faults.suspects import Standing, Suspects
from llumnix.fleet.requests import ActiveRequest, RequestTable
from llumnix.instances.condition.standstill import Motion
from llumnix.instances.instance import Instance
from policies.types import InstanceId, RequestId

log = logging.getLogger(__name__)

_NEW_S = 3.0
_PROOF_S = 1.0
_RESERVED_S = 5.0


class FleetHealth:
    """Keeps each instance's fitness up to date, and judges requests when instances die.

    `changed` is called when a request that was held back might now be placed.
    """

    def __init__(
        self,
        max_poisoned: int,
        requests: RequestTable,
        events: EventRing,
        fleet_s: Callable[[], float],
        changed: Callable[[], None],
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.suspects = Suspects(max_poisoned)
        self._requests = requests
        self._events = events
        self._fleet_s = fleet_s
        self._changed = changed
        self.now_s = clock_s
        self._reserved: tuple[InstanceId, float] | None = None

    def sent(self, instance: Instance, request_id: RequestId) -> None:
        """Note that a request is about to be sent to an instance."""
        instance.fitness.breaker.sent(self.now_s())
        active = self._requests.active.get(request_id) if self.suspects.any_blamed else None
        if active is not None:  # the next to be placed is to see it there
            active.goes_to(instance.id)

    def served(self, instance: Instance) -> None:
        """Note that an instance answered a request."""
        instance.fitness.dead = False
        if instance.fitness.breaker.succeeded(self.now_s()):
            log.warning("breaker_closed instance=%s", instance.id)
            self._event("breaker_closed", f"{instance.id} answers again")
            self._moves(instance)
            self._changed()

    def failed(self, instance: Instance, request_id: RequestId, kind: str, detail: str) -> None:
        """Note that an instance failed a request, of its own fault."""
        log.warning(
            "attempt_failed request_id=%s instance=%s kind=%s detail=%s",
            *(request_id, instance.id, kind, detail),
        )
        if instance.fitness.breaker.failed(self.now_s(), detail):
            self._opened(instance, detail)

    def passed_by(self, instance: Instance, request_id: RequestId, detail: str) -> None:
        """Note that an instance that works has left a request waiting for too long."""
        log.warning(
            "attempt_silent request_id=%s instance=%s detail=%s",
            *(request_id, instance.id, detail),
        )

    def trip(self, instance: Instance, reason: str) -> None:
        """Leave an instance alone for a while, and then probe it."""
        if instance.fitness.breaker.trip(self.now_s(), reason):
            self._opened(instance, reason)

    def busy(self, instance: Instance, request_id: RequestId, retry_after_s: float) -> None:
        """Note that an instance has no room, and for how long it wants to be left alone."""
        instance.fitness.rest(retry_after_s, self.now_s())
        log.warning(
            "instance_busy request_id=%s instance=%s retry_after_s=%g",
            *(request_id, instance.id, retry_after_s),
        )

    def starved(self, detail: str) -> None:
        """Note that this process is out of files, ports or memory."""
        log.warning("frontend_starved detail=%s hint=%s", detail, "raise ulimit -n")

    def left(self, instance: Instance, request_id: RequestId) -> None:
        """Note that a request's connection to an instance failed while it may have been on it."""
        active = self._requests.active.get(request_id)
        standing = Standing.NEW if active is None else self._standing(active)
        self.suspects.left(request_id, instance.id, standing, self.now_s())

    def died(self, instance: Instance) -> None:
        """Note that an instance was found dead, once for each death: judge who was on it."""
        if instance.fitness.dead:
            return
        instance.fitness.dead = True
        there = [(each.request_id, self._standing(each)) for each in self._requests.at(instance.id)]
        self.suspects.died(instance.id, there, self.now_s())

    def engine_seen(self, instance: Instance, motion: Motion) -> bool:
        """Note whether an instance's engine moves; return whether that is news.

        One that hung comes back with its first step. If nothing runs there any more that it could
        make one for, a request probes it now and then.
        """
        fitness = instance.fitness
        fitness.idle = motion.idle
        if motion.moved:
            fitness.moved_at_s = self.now_s()
        if motion.still_s:
            fitness.breaker.trip(self.now_s(), "its engine stands still")
        if motion.still_s and not fitness.hung:
            fitness.hung = f"no step for {motion.still_s:.1f} s while requests run"
            log.warning("instance_suspect instance=%s reason=%s", instance.id, fitness.hung)
            self._event("instance_suspect", f"{instance.id} seems to hang: {fitness.hung}")
            return True
        return motion.moved and self._moves(instance)

    async def judged(self, request_id: RequestId) -> None:
        """Wait until all that was noted of a request is judged: here it is at once."""

    def flows(self, request_id: RequestId) -> None:
        """Note that a request produces something on its instance: others need not stay off it."""
        if self.suspects.blamed(request_id, self.now_s()):
            self._changed()

    def keeps_off(self, request_id: RequestId) -> tuple[set[InstanceId], set[InstanceId]]:
        """Return the instances that a request must not, and had better not, be sent to now.

        One that may crash engines is tried where nothing else is new; others had better stay off
        while it is, and off an instance that is kept for that.
        """
        if not self.suspects.any_blamed:
            return set(), set()
        now_s = self.now_s()
        unsettled = [
            each
            for each in self._requests.placed_since(now_s - _NEW_S)
            if each.instance_id is not None
            and each.request_id != request_id
            and self._standing(each) is Standing.NEW
        ]
        if self.suspects.blamed(request_id, now_s):
            return {each.instance_id for each in unsettled if each.instance_id}, set()
        tried = {
            each.instance_id
            for each in unsettled
            if each.instance_id and self.suspects.blamed(each.request_id, now_s)
        }
        if self._reserved is not None and now_s - self._reserved[1] < _RESERVED_S:
            tried.add(self._reserved[0])
        return set(), tried

    def reserve(self, instance_id: InstanceId) -> None:
        """Keep an instance free of what is new, for a request that is to be tried there."""
        now_s = self.now_s()
        if self._reserved is None or now_s - self._reserved[1] >= _RESERVED_S:
            self._reserved = instance_id, now_s

    def convict(self, request_id: RequestId, instances: tuple[InstanceId, ...]) -> None:
        """Say which request took instances down."""
        names = ",".join(instances)
        log.warning("request_poisonous request_id=%s instances=%s", request_id, names)
        self._event("request_poisonous", f"{request_id} took down {names} and is given up")

    def _moves(self, instance: Instance) -> bool:
        """End the suspicion that an instance hangs; return whether there was one."""
        if not instance.fitness.hung:
            return False
        instance.fitness.hung = ""
        instance.fitness.breaker.reset()
        log.warning("instance_moves instance=%s", instance.id)
        self._event("instance_moves", f"{instance.id} makes steps again")
        return True

    def _opened(self, instance: Instance, reason: str) -> None:
        log.warning("breaker_open instance=%s reason=%s", instance.id, reason)
        self._event("breaker_open", f"{instance.id} is left alone for a while: {reason}")

    def _event(self, kind: str, text: str) -> None:
        self._events.add(self._fleet_s(), kind, text)

    def _standing(self, active: ActiveRequest) -> Standing:
        now_s = self.now_s()
        if active.flows_since_s is None:
            new = now_s - active.placed_at_s < _NEW_S
            return Standing.NEW if new else Standing.QUIET
        proved = now_s - active.flows_since_s >= _PROOF_S
        return Standing.PROVED if proved else Standing.FLOWING
