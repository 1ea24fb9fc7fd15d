"""The queue in front of a fleet: its laws, whoever drives it."""

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.queue import FrontQueue, Ticket, queue_disciplines
from policies.registry import PolicySpec, UnknownPolicyError
from policies.types import DispatchRequest, RequestId

BY_CLASS = PolicySpec("class-then-arrival")


def asked(name: str, class_index: int = 1, at_s: float = 0.0) -> DispatchRequest:
    return DispatchRequest(RequestId(name), class_index, 1, at_s)


@dataclass
class Desk:
    """Serves from a queue: each line has room for so many, those beside have theirs."""

    queue: FrontQueue[str, str]
    room: dict[str, int] = field(default_factory=dict)
    lines: dict[str, str] = field(default_factory=dict)
    served: list[str] = field(default_factory=list)

    def join(
        self, number: int, line: str, class_index: int, *, beside: bool = False
    ) -> Ticket[str]:
        name = f"r{number}"
        self.lines[name] = line
        request = asked(name, class_index, float(number))
        return self.queue.join(name, request, number, line=line, beside=beside)

    def offer(self) -> None:
        self.queue.offer(self._decide, self._settle)

    def _decide(self, name: str) -> str | None:
        return "go" if self.room.get(self.lines[name], 0) else None

    def _settle(self, name: str, decision: str) -> None:
        assert decision == "go"
        self.room[self.lines[name]] -= 1
        self.served.append(name)


def test_an_unknown_discipline_is_an_error_that_lists_the_known() -> None:
    with pytest.raises(UnknownPolicyError, match="class-then-arrival"):
        FrontQueue(PolicySpec("first-come"), 1)


def test_the_default_is_named_and_summed_up() -> None:
    assert "class-then-arrival" in queue_disciplines.names()
    assert queue_disciplines.summary("class-then-arrival").startswith("Serve the most urgent")


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("join"), st.integers(0, 2), st.sampled_from("ab")),
        st.tuples(st.just("beside"), st.integers(0, 2), st.sampled_from("ab")),
        st.tuples(st.just("room"), st.integers(1, 3), st.sampled_from("ab")),
        st.tuples(st.just("leave"), st.integers(0, 40), st.just("")),
    ),
    max_size=60,
)


@given(STEPS)
def test_whatever_happens_nobody_is_lost_and_nobody_overtakes(
    steps: list[tuple[str, int, str]],
) -> None:
    """Laws: joined = served + left + waiting; in each line the least goes first."""
    desk = Desk(FrontQueue(BY_CLASS, limit=1000))
    tickets: dict[str, Ticket[str]] = {}
    left: set[str] = set()
    for number, (what, value, line) in enumerate(steps):
        before = len(desk.served)
        if what == "room":
            desk.room[line] = desk.room.get(line, 0) + value
        elif what == "leave":
            waiting = sorted(name for name, ticket in tickets.items() if ticket.queued)
            if waiting:
                name = waiting[value % len(waiting)]
                desk.queue.leave(tickets[name])
                left.add(name)
        else:
            beside = what == "beside"
            tickets[f"r{number}"] = desk.join(number, line, value, beside=beside)
        desk.offer()
        for name in desk.served[before:]:
            behind = [
                ticket
                for ticket in desk.queue
                if ticket.line == tickets[name].line and not ticket.beside
            ]
            assert all(
                tickets[name].order < ticket.order for ticket in behind if not tickets[name].beside
            )
        waiting_now = {ticket.item for ticket in desk.queue}
        assert set(tickets) == set(desk.served) | left | waiting_now
        assert len(tickets) == len(desk.served) + len(left) + len(desk.queue)
        assert not any(desk.room.get(desk.lines[name]) for name in waiting_now)


@given(st.lists(st.integers(0, 2), min_size=1, max_size=30), st.integers(0, 10))
def test_newcomers_over_the_limit_are_turned_away_and_no_others(
    classes: list[int], limit: int
) -> None:
    """Law: never more than the limit wait, those beside aside; who is turned away came last."""
    desk = Desk(FrontQueue(BY_CLASS, limit))
    desk.join(1000, "a", 0, beside=True)
    for number, class_index in enumerate(classes):
        ticket = desk.join(number, "a", class_index)
        desk.offer()
        turned_away = desk.queue.turns_away(ticket)
        assert turned_away == (len(desk.queue) > limit)
        if turned_away:
            desk.queue.leave(ticket)
    assert len(desk.queue) <= max(limit, 1)


def test_settling_may_join_and_offer_again() -> None:
    """A request that comes back while others are being served takes its own place at once."""
    queue: FrontQueue[str, str] = FrontQueue(BY_CLASS, 10)
    served: list[str] = []

    def settle(name: str, _: str) -> None:
        served.append(name)
        if name == "r1":
            queue.join("r0 again", asked("r0 again"), 0)
            queue.offer(lambda _: "go", settle)

    for number in (1, 2, 3):
        queue.join(f"r{number}", asked(f"r{number}"), number)
    queue.offer(lambda _: "go", settle)

    assert served == ["r1", "r0 again", "r2", "r3"]
    assert len(queue) == 0


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 5)), max_size=30), st.integers(0, 8))
def test_the_first_are_those_served_next(requests: list[tuple[int, int]], count: int) -> None:
    """Law: what `first` lists is served in that order, if there is room for so many."""
    desk = Desk(FrontQueue(BY_CLASS, 1000))
    for number, (class_index, _) in enumerate(requests):
        desk.join(number, "a", class_index)
    first = desk.queue.first(count)
    assert first is not None
    desk.room["a"] = count
    expected = [ticket.item for ticket in first]
    desk.offer()
    assert desk.served == expected


def test_nothing_comes_first_where_lines_differ() -> None:
    desk = Desk(FrontQueue(BY_CLASS, 10))
    desk.join(1, "a", 1)
    desk.join(2, "b", 1)
    assert desk.queue.first(1) is None
