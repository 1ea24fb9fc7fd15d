"""The queue in front of a fleet: who is served next, who may overtake whom, who is shed.

Late binding: a request is bound to an instance when there is room for it, so requests without room
wait here and not in an engine. This is the only definition of that queue: the live frontend drives
it with futures (`llumnix.frontend.queue`), both simulated fleets through one door
(`simulator.fleet.front_door`). It knows requests and their order; the scheduler decides whether an
instance has room.

A *discipline* gives each request its place in line as a sort key, the smallest first. Register one
to add it (`policies/README.md`).
"""

import bisect
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from policies.registry import NoParams, PolicySpec, Registry
from policies.types import DispatchRequest

Item = TypeVar("Item")
Decision = TypeVar("Decision")
SortKey = tuple[float, ...]

queue_disciplines: Registry[DispatchRequest, SortKey] = Registry("queue discipline")


@queue_disciplines.register("class-then-arrival", NoParams)
def class_then_arrival(request: DispatchRequest, _: NoParams) -> SortKey:
    """Serve the most urgent class first, and within a class in order of arrival."""
    return (request.class_index, request.arrived_at_s)


@dataclass(slots=True, eq=False)
class Ticket(Generic[Item]):
    """A request's place in the queue; `queued` until it is served or leaves.

    `beside` marks a request that was admitted before and is being resumed: it stands beside the
    lines, blocks no other request, and is never shed.
    """

    item: Item
    request: DispatchRequest
    order: tuple[SortKey, int]
    line: Hashable
    beside: bool
    queued: bool = True


class _Line(Generic[Item]):
    """Tickets in order; those before `_start` have gone, so that the head leaves in O(1)."""

    def __init__(self) -> None:
        self._tickets: list[Ticket[Item]] = []
        self._start = 0

    def __len__(self) -> int:
        return len(self._tickets) - self._start

    def __iter__(self) -> Iterator[Ticket[Item]]:
        return iter(self._tickets[self._start :])

    def head(self) -> Ticket[Item]:
        return self._tickets[self._start]

    def first(self, count: int) -> list[Ticket[Item]]:
        return self._tickets[self._start : self._start + count]

    def add(self, ticket: Ticket[Item]) -> None:
        bisect.insort(self._tickets, ticket, lo=self._start, key=_order)

    def remove(self, ticket: Ticket[Item]) -> None:
        at = bisect.bisect_left(self._tickets, _order(ticket), lo=self._start, key=_order)
        assert self._tickets[at] is ticket, "two tickets have the same order"
        if at > self._start:
            del self._tickets[at]
            return
        self._start += 1
        if 2 * self._start > len(self._tickets):
            del self._tickets[: self._start]
            self._start = 0


class FrontQueue(Generic[Item, Decision]):
    """Requests waiting for an instance, in lines; within a line none overtakes another.

    Each line (say, the requests of one model) waits for instances of its own, so that a line whose
    head finds no room holds up no other. `limit` bounds how many may wait. Raises PolicyError for
    an unknown discipline.
    """

    def __init__(self, discipline: PolicySpec, limit: int) -> None:
        self.limit = limit
        self._sort_key = queue_disciplines.build(discipline)
        self._lines: dict[Hashable, _Line[Item]] = {}
        self._beside: _Line[Item] = _Line()
        self._waiting = 0

    def __len__(self) -> int:
        return self._waiting

    def __iter__(self) -> Iterator[Ticket[Item]]:
        """List the tickets, line by line."""
        yield from self._beside
        for line in self._lines.values():
            yield from line

    def join(
        self,
        item: Item,
        request: DispatchRequest,
        number: int,
        *,
        line: Hashable = None,
        beside: bool = False,
    ) -> Ticket[Item]:
        """Enqueue a request in its line; `number`, unique to it, breaks ties."""
        ticket = Ticket(item, request, (self._sort_key(request), number), line, beside)
        home = self._beside if beside else self._lines.setdefault(line, _Line())
        home.add(ticket)
        self._waiting += 1
        return ticket

    def leave(self, ticket: Ticket[Item]) -> None:
        """Remove a request; nothing happens if it has left already."""
        if not ticket.queued:
            return
        ticket.queued = False
        self._waiting -= 1
        if ticket.beside:
            self._beside.remove(ticket)
            return
        line = self._lines[ticket.line]
        line.remove(ticket)
        if not line:
            del self._lines[ticket.line]

    def leads(self, ticket: Ticket[Item]) -> bool:
        """Whether a request is the first of its line, so that all others of it are behind."""
        home = self._lines.get(ticket.line)
        return bool(ticket.queued and not ticket.beside and home and home.head() is ticket)

    def turns_away(self, ticket: Ticket[Item]) -> bool:
        """Whether a new request that was offered to the fleet and still waits is one too many."""
        return ticket.queued and not ticket.beside and self._waiting > self.limit

    def offer(
        self,
        decide: Callable[[Item], Decision | None],
        settle: Callable[[Item, Decision], None],
    ) -> None:
        """Serve every request that can be served now, in order.

        `decide` returns what becomes of a request, or None to keep it waiting, and changes nothing
        here; `settle` carries the decision out once the request has left the queue, and may join,
        leave and offer again.
        """
        for _ in self.offering(decide, settle):
            pass

    def offering(
        self,
        decide: Callable[[Item], Decision | None],
        settle: Callable[[Item, Decision], None],
    ) -> Iterator[None]:
        """Do what `offer` does, and pause after each decision: others may join and leave then."""
        for ticket in list(self._beside):
            self._try(ticket, decide, settle)
            yield
        for line in sorted(self._lines.values(), key=_head_order):
            while line and self._try(line.head(), decide, settle):
                yield
            yield

    def offer_line(
        self,
        ticket: Ticket[Item],
        decide: Callable[[Item], Decision | None],
        settle: Callable[[Item, Decision], None],
    ) -> None:
        """Offer a newcomer that may be served before any other of its line has been.

        That is enough where those that were there before were offered, and nothing has changed.
        """
        if ticket.beside or self.leads(ticket):
            self._try(ticket, decide, settle)

    def first(self, count: int) -> list[Ticket[Item]] | None:
        """List the next so many to be served; None unless all wait in one line."""
        if self._beside or len(self._lines) > 1:
            return None
        return [ticket for line in self._lines.values() for ticket in line.first(count)]

    def _try(
        self,
        ticket: Ticket[Item],
        decide: Callable[[Item], Decision | None],
        settle: Callable[[Item, Decision], None],
    ) -> bool:
        if not ticket.queued:
            return False
        decision = decide(ticket.item)
        if decision is None:
            return False
        self.leave(ticket)
        settle(ticket.item, decision)
        return True


def _order(ticket: Ticket[Item]) -> tuple[SortKey, int]:
    return ticket.order


def _head_order(line: _Line[Item]) -> tuple[SortKey, int]:
    return line.head().order
