"""The frontend's queue: requests no instance could start soon wait here, not in an engine.

Late binding: a request is bound to an instance when there is room for it. Order is by class, then
arrival. Each model has its own line, in which nobody overtakes; requests being carried on elsewhere
stand beside the lines, since each has its own choice of instances left.
"""

import asyncio
import bisect
from collections.abc import Callable
from dataclasses import dataclass, field

from llumnix.fleet.fleet import PlacementRequest
from llumnix.frontend.request.refusal import Refusal
from llumnix.instances.instance import Instance
from policies.types import Hold, Reject

Place = Callable[[PlacementRequest], Instance | Hold | Reject]


def _future() -> "asyncio.Future[Instance | Refusal]":
    return asyncio.get_running_loop().create_future()


@dataclass(slots=True, eq=False)
class _Held:
    ask: PlacementRequest
    order: tuple[int, float, int]
    placed: "asyncio.Future[Instance | Refusal]" = field(default_factory=_future)
    settled: bool = False

    @property
    def carried_on(self) -> bool:
        """Say whether it has been somewhere already."""
        return bool(self.ask.plugged_only or self.ask.avoided or self.ask.barred)


class HoldQueue:
    """A bounded queue in front of the fleet; call `retry` when something has changed.

    `place` finds an instance for a request now, or says hold. Requests being carried on are not
    counted against `limit`: they were admitted long ago. Times are wall seconds.
    """

    def __init__(self, place: Place, limit: int, timeout_s: float, retry_after_s: float) -> None:
        self.limit = limit
        self._place = place
        self._timeout_s = timeout_s
        self._retry_after_s = retry_after_s
        self._lines: dict[str | None, list[_Held]] = {}
        self._carried_on: list[_Held] = []
        self._arrivals = 0

    def __len__(self) -> int:
        return len(self._carried_on) + sum(map(len, self._lines.values()))

    def lengths(self, n_classes: int) -> list[int]:
        """Count what is held, by class."""
        counts = [0] * n_classes
        for line in (self._carried_on, *self._lines.values()):
            for held in line:
                counts[held.ask.request.class_index] += 1
        return counts

    async def place(self, ask: PlacementRequest) -> Instance | Refusal:
        """Wait for an instance; a Refusal when the queue is full or the wait too long.

        Cancelling the wait takes the request out of the queue.
        """
        self._arrivals += 1
        order = (ask.request.class_index, ask.request.arrived_at_s, self._arrivals)
        held = _Held(ask, order)
        line = self._line_of(held)
        bisect.insort(line, held, key=_order)
        try:
            self.retry()
            if held.placed.done():
                return held.placed.result()
            if len(self) > self.limit and not held.carried_on:
                return self._refusal(f"{self.limit} requests are waiting already; try again later")
            async with asyncio.timeout(self._timeout_s):
                return await held.placed
        except TimeoutError:
            return self._refusal(f"no instance could start it within {self._timeout_s:g} s")
        finally:
            self._leave(held)

    def retry(self) -> None:
        """Place what can be placed now, in order."""
        for held in list(self._carried_on):
            if self._settle(held):
                self._carried_on.remove(held)
        for line in sorted(self._lines.values(), key=_first):
            while line and self._settle(line[0]):
                del line[0]

    def _settle(self, held: _Held) -> bool:
        """Try to place a request; say whether its wait is over."""
        if held.placed.done():  # its client has left, and it is about to leave the queue
            return False
        decision = self._place(held.ask)
        if isinstance(decision, Hold):
            return False
        held.settled = True
        held.placed.set_result(
            Refusal(503, decision.reason, "rejected", retry_after_s=self._retry_after_s)
            if isinstance(decision, Reject)
            else decision
        )
        return True

    def _line_of(self, held: _Held) -> list[_Held]:
        return self._carried_on if held.carried_on else self._lines.setdefault(held.ask.model, [])

    def _leave(self, held: _Held) -> None:
        line = self._line_of(held)
        if not held.settled:
            line.remove(held)
            self.retry()
        if not held.carried_on and not line:
            self._lines.pop(held.ask.model, None)

    def _refusal(self, reason: str) -> Refusal:
        return Refusal(503, reason, "overloaded", retry_after_s=self._retry_after_s)


def _order(held: _Held) -> tuple[int, float, int]:
    return held.order


def _first(line: list[_Held]) -> tuple[int, float, int]:
    return line[0].order if line else (0, 0.0, 0)
