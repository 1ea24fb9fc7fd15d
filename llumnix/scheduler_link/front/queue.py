"""A frontend's end of the queue: it asks the scheduler's process, and helps itself without one."""

import asyncio
import itertools
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from llumnix.fleet.placement import PlacementRequest
from llumnix.frontend.request.refusal import Refusal
from llumnix.instances.instance import Instance
from llumnix.scheduler_link import messages
from llumnix.scheduler_link.frames import Message
from llumnix.scheduler_link.messages import Kind

HOLD_OFF_S: Final = 0.8
"""How long a request that the scheduler held when it died waits for the next one, before it goes to
the instance with the fewest: a fleet that was full still is."""
_UNANSWERED_S: Final = 0.1
"""A request that was asked for so lately was not held by the scheduler, but died with it."""
_OVERTIME_S: Final = 5.0
"""The scheduler's process ends waits in time; this is for one that does not."""


def _future() -> "asyncio.Future[Instance | Refusal]":
    return asyncio.get_running_loop().create_future()


@dataclass(slots=True, eq=False)
class _Wait:
    ask: PlacementRequest
    asked_at: float
    placed: "asyncio.Future[Instance | Refusal]" = field(default_factory=_future)


class FarQueue:
    """Places requests by asking. `post` sends a message; `stopgap` chooses without a scheduler.

    `instance` returns an instance by its id; None if it is not known here.
    """

    def __init__(
        self,
        timeout_s: float,
        retry_after_s: float,
        post: Callable[[Message], None],
        stopgap: Callable[[PlacementRequest], Instance | None],
        instance: Callable[[str], Instance | None],
    ) -> None:
        self._timeout_s = timeout_s
        self._retry_after_s = retry_after_s
        self._post = post
        self._stopgap = stopgap
        self._instance = instance
        self._waits: dict[int, _Wait] = {}
        self._numbers = itertools.count()
        self._served = False
        self._help_at: asyncio.TimerHandle | None = None

    def __len__(self) -> int:
        return len(self._waits)

    def reconfigure(self, limit: int, timeout_s: float, retry_after_s: float) -> None:
        """Change the bounds for requests that join from now on; the limit is the scheduler's."""
        del limit
        self._timeout_s, self._retry_after_s = timeout_s, retry_after_s

    def retry(self) -> None:
        """Do nothing: the scheduler learns by itself that a request has ended."""

    def place_now(self, ask: PlacementRequest) -> Instance | None:
        """Place a request without a scheduler; None: ask with `place`."""
        return None if self._served else self._stopgap(ask)

    def place_soon(self, ask: PlacementRequest) -> "_Placing | None":
        """Ask the scheduler without waiting; None if there is none."""
        if not self._served:
            return None
        number, wait = next(self._numbers), _Wait(ask, time.monotonic())
        self._waits[number] = wait
        self._post(messages.place(number, ask))
        return _Placing(self, number, wait.placed)

    def leave(self, number: int) -> None:
        """Wait for a request's place no more."""
        wait = self._waits.pop(number)
        if self._served and (not wait.placed.done() or wait.placed.cancelled()):
            self._post([Kind.LEAVE, number])

    async def place(self, ask: PlacementRequest) -> Instance | Refusal:
        """Wait for an instance; a Refusal if the queue is full or the wait too long."""
        if not self._served:
            chosen = self._stopgap(ask)
            if chosen is not None:
                return chosen
        number, wait = next(self._numbers), _Wait(ask, time.monotonic())
        self._waits[number] = wait
        if self._served:
            self._post(messages.place(number, ask))
        try:
            async with asyncio.timeout(self._timeout_s + _OVERTIME_S):
                return await wait.placed
        except TimeoutError:
            message = f"no instance could start the request within {self._timeout_s:g} s"
            return Refusal(503, message, "overloaded", retry_after_s=self._retry_after_s)
        finally:
            self.leave(number)

    def placed(self, number: int, instance_id: str | None, told: Mapping[str, Any] | None) -> None:
        """Note where the scheduler sends a request, or why nowhere."""
        wait = self._waits.get(number)
        if wait is None or wait.placed.done():
            return
        if told is not None:
            wait.placed.set_result(messages.refusal_of(told))
            return
        assert instance_id is not None, "either an instance or a refusal"
        instance = self._instance(instance_id)
        if instance is not None:
            wait.placed.set_result(instance)
        else:  # it has left since
            self._post(messages.place(number, wait.ask))

    def begin(self) -> None:
        """Ask for all that wait: a scheduler is there, and knows the requests."""
        self._served = True
        if self._help_at is not None:
            self._help_at.cancel()
            self._help_at = None
        for number, wait in self._waits.items():
            if not wait.placed.done():
                self._post(messages.place(number, wait.ask))

    def lost(self) -> None:
        """Note that there is no scheduler now: those that wait help themselves, but not yet."""
        self._served = False
        fresh_s = time.monotonic() - _UNANSWERED_S
        self._help_those([each for each in self._waits.values() if each.asked_at > fresh_s])
        loop = asyncio.get_running_loop()
        if self._help_at is None:
            self._help_at = loop.call_later(HOLD_OFF_S, self._help)

    def instances_changed(self) -> None:
        """Note that there may be an instance where there was none: without a scheduler, look."""
        if not self._served and self._help_at is None:
            self._help()

    def close(self) -> None:
        """Wait for nothing any more."""
        if self._help_at is not None:
            self._help_at.cancel()

    def _help(self) -> None:
        self._help_at = None
        if self._served:
            return
        self._help_those(self._waits.values())

    def _help_those(self, waits: Iterable[_Wait]) -> None:
        for wait in sorted(waits, key=_arrived_at_s):
            chosen = None if wait.placed.done() else self._stopgap(wait.ask)
            if chosen is not None:
                wait.placed.set_result(chosen)


def _arrived_at_s(wait: _Wait) -> float:
    return wait.ask.request.arrived_at_s


@dataclass(frozen=True, slots=True)
class _Placing:
    """See `seam.Placing`."""

    queue: FarQueue
    number: int
    placed: "asyncio.Future[Instance | Refusal]"

    def leave(self) -> None:
        self.queue.leave(self.number)
