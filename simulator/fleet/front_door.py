"""The front door of a simulated fleet: requests arrive, wait in the queue, and are placed.

One door for both fleets in virtual time. `policies.queue` decides who is served next; the fleet
decides whether an instance has room, and carries out the placement.
"""

from typing import Generic, Protocol, TypeVar

from policies.queue import FrontQueue, Ticket
from policies.registry import PolicySpec
from policies.types import DispatchRequest
from simulator.fleet.life import Rejection

Request = TypeVar("Request")
Asked = TypeVar("Asked", contravariant=True)
Placement = TypeVar("Placement")


class DoorHost(Protocol[Asked, Placement]):
    """The fleet behind the door."""

    def dispatch_request(self, request: Asked) -> DispatchRequest:
        """Return what the scheduler may know of a request now."""

    def number(self, request: Asked) -> int:
        """Return its number in the workload, which orders requests that arrive at once."""

    def tokens_at_end(self, request: Asked) -> int:
        """Count the tokens of its prompt and all of its output."""

    def place(self, request: Asked) -> Placement | None:
        """Decide where it goes; None while it must wait."""

    def settle(self, request: Asked, placement: Placement) -> None:
        """Carry out the decision."""

    def reject(self, request: Asked, why: Rejection, reason: str) -> None:
        """End a request that is not served."""


class FrontDoor(Generic[Request, Placement]):
    """Holds a fleet's requests until they can be placed. A fleet asks it whenever room may appear.

    `capacity_tokens` is what an instance can hold: longer requests are rejected at once.
    """

    def __init__(
        self,
        discipline: PolicySpec,
        limit: int,
        capacity_tokens: int,
        host: DoorHost[Request, Placement],
    ) -> None:
        self._queue: FrontQueue[Request, Placement] = FrontQueue(discipline, limit)
        self._capacity_tokens = capacity_tokens
        self._host = host

    def arrive(self, request: Request) -> None:
        """Take in a new request: place it, let it wait, or reject it."""
        needed = self._host.tokens_at_end(request)
        if needed > self._capacity_tokens:
            reason = f"{needed} tokens never fit in {self._capacity_tokens}"
            self._host.reject(request, Rejection.NEVER_FITS, reason)
            return
        ticket = self._join(request)
        if self._queue.turns_away(ticket):
            self._queue.leave(ticket)
            reason = f"{self._queue.limit} requests are waiting already"
            self._host.reject(request, Rejection.QUEUE_FULL, reason)
        self.end(ticket)

    def requeue(self, request: Request) -> None:
        """Queue a request again that was admitted before, and is never rejected."""
        self.end(self._join(request))

    def offer(self) -> None:
        """Place what can be placed now: something has changed."""
        self.begin()
        self._queue.offer(self._host.place, self._host.settle)
        self.end()

    def waiting(self) -> tuple[int, int]:
        """Count the requests that wait, and the tokens they have so far."""
        self.begin()
        return len(self._queue), sum(ticket.request.prompt_tokens for ticket in self._queue)

    def next_tokens(self, count: int) -> list[int]:
        """List the tokens of the next requests to be served, at most so many."""
        self.begin()
        return [ticket.request.prompt_tokens for ticket in self._queue.first(count) or ()]

    def _join(self, request: Request) -> Ticket[Request]:
        """Enqueue a request, and place what can be placed now."""
        self.begin()
        ticket = self._queue.join(
            request, self._host.dispatch_request(request), self._host.number(request)
        )
        self._queue.offer(self._host.place, self._host.settle)
        return ticket

    def begin(self) -> None:
        """Note what happened to the queue elsewhere; here, nothing does."""

    def end(self, joined: Ticket[Request] | None = None) -> None:
        """Publish the queue's state, which one request may have joined; here, nobody asks."""
