"""The frontend's end of the queue: clients wait here until an instance has room for them.

`policies.queue` decides which request is served next. Each model has its own line; requests being
resumed elsewhere stand beside the lines, because each has its own set of instances left.
"""

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from llumnix.fleet.fleet import PlacementRequest
from llumnix.frontend.request.refusal import Refusal
from llumnix.frontend.rounds import SPACING_S, Rounds
from llumnix.instances.instance import Instance
from policies.queue import FrontQueue, Ticket
from policies.registry import PolicySpec
from policies.types import Hold, Reject

Place = Callable[[PlacementRequest], Instance | Hold | Reject]


def _future() -> "asyncio.Future[Instance | Refusal]":
    return asyncio.get_running_loop().create_future()


@dataclass(slots=True, eq=False)
class _Held:
    ask: PlacementRequest
    placed: "asyncio.Future[Instance | Refusal]" = field(default_factory=_future)

    @property
    def carried_on(self) -> bool:
        """Whether the request has been on an instance before."""
        return bool(self.ask.plugged_only or self.ask.avoided or self.ask.barred)


class HoldQueue:
    """A bounded queue in front of the fleet; call `retry` whenever something has changed.

    `place` finds an instance for a request, or holds it. Requests being resumed are not rejected at
    `limit`: they were admitted before. The fleet is asked again at most every `spacing_s`. Times
    are wall seconds. Raises PolicyError for an unknown discipline.
    """

    def __init__(
        self,
        place: Place,
        discipline: PolicySpec,
        limit: int,
        timeout_s: float,
        retry_after_s: float,
        spacing_s: float = SPACING_S,
    ) -> None:
        self._place = place
        self._queue: FrontQueue[_Held, Instance | Reject] = FrontQueue(discipline, limit)
        self._timeout_s = timeout_s
        self._retry_after_s = retry_after_s
        self._arrivals = 0
        self._rounds = Rounds(
            lambda: self._queue.offering(self._decide, self._settle),
            lambda: len(self._queue) > 0,
            spacing_s,
        )

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def limit(self) -> int:
        """Return how many requests may wait."""
        return self._queue.limit

    def reconfigure(self, limit: int, timeout_s: float, retry_after_s: float) -> None:
        """Change the bounds for requests that join from now on."""
        self._queue.limit = limit
        self._timeout_s, self._retry_after_s = timeout_s, retry_after_s

    def lengths(self, n_classes: int) -> list[int]:
        """Count the waiting requests by class."""
        counts = Counter(ticket.request.class_index for ticket in self._queue)
        return [counts[index] for index in range(n_classes)]

    def place_now(self, ask: PlacementRequest) -> Instance | None:
        """Place a new request at once, if nobody waits and an instance has room.

        None: ask with `place`, which may find the same.
        """
        if len(self._queue):
            return None
        decision = self._place(ask)
        return None if isinstance(decision, Hold | Reject) else decision

    def place_soon(self, ask: PlacementRequest) -> None:
        """Return None: there is nobody to be asked, so `place_now` has said all there is."""
        del ask

    async def place(self, ask: PlacementRequest) -> Instance | Refusal:
        """Wait for an instance; a Refusal if the queue is full or the wait too long.

        Cancelling the wait takes the request out of the queue.
        """
        self._arrivals += 1
        held = _Held(ask)
        ticket = self._queue.join(
            held, ask.request, self._arrivals, line=ask.model, beside=held.carried_on
        )
        one_too_many = self._queue.turns_away(ticket)
        try:
            if self._rounds.due:  # something has changed, and others come first
                self._rounds.ask()
            else:
                self._queue.offer_line(ticket, self._decide, self._settle)
            if one_too_many and not held.placed.done():
                await self._rounds.end(held.placed)
            if held.placed.done():
                return held.placed.result()
            if one_too_many and self._queue.turns_away(ticket):
                return self._refusal(f"the queue is full ({self.limit} requests); try again later")
            self._rounds.keep_on()
            async with asyncio.timeout(self._timeout_s):
                return await held.placed
        except TimeoutError:
            return self._refusal(
                f"no instance could start the request within {self._timeout_s:g} s"
            )
        finally:
            self._leave(ticket)

    def retry(self) -> None:
        """Place the requests that can be placed, in order: in this turn of the event loop or soon.

        However often this is called, the fleet is asked a bounded share of the time.
        """
        self._rounds.ask()

    def _decide(self, held: _Held) -> Instance | Reject | None:
        if held.placed.done():  # its client has left, and it is about to leave the queue
            return None
        decision = self._place(held.ask)
        return None if isinstance(decision, Hold) else decision

    def _settle(self, held: _Held, decision: Instance | Reject) -> None:
        held.placed.set_result(
            Refusal(503, decision.reason, "rejected", retry_after_s=self._retry_after_s)
            if isinstance(decision, Reject)
            else decision
        )

    def _leave(self, ticket: Ticket[_Held]) -> None:
        led = self._queue.leads(ticket)
        self._queue.leave(ticket)
        if led:  # the next of its line has not been offered yet
            self.retry()

    def _refusal(self, reason: str) -> Refusal:
        return Refusal(503, reason, "overloaded", retry_after_s=self._retry_after_s)
