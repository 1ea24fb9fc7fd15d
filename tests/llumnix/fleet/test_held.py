"""A full fleet is asked again only when it may have room: with the placements of asking always."""

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule
from prometheus_client import CollectorRegistry

from llumnix.fleet.clock import FleetClock
from llumnix.fleet.fleet import Fleet, PlacementRequest
from llumnix.instances.config import FleetConfig
from llumnix.instances.instance import Identity, Instance, InstanceKind
from llumnix.metrics.catalogue import FleetMetrics
from llumnix.metrics.tally import Tally
from policies.queue import FrontQueue, Ticket
from policies.registry import PolicySpec
from policies.scheduler import GlobalScheduler, SchedulerConfig
from policies.types import DispatchRequest, Hold, InstanceId, Reject, RequestId
from tests.llumnix.frontend.stage import load
from tests.policies.fleets import law

MODELS = ({"id": "m"}, {"id": "n"})
CAPACITY = 10_000


class StoppedClock(FleetClock):
    """Time alone changes nothing here."""

    def now_s(self) -> float:
        return 1.0


class Door:
    """A fleet and the queue before it, offered at once whenever the fleet says that it changed."""

    def __init__(self, size: int, params: Mapping[str, object]) -> None:
        scheduler = SchedulerConfig(dispatch=PolicySpec("freeness", params))
        tally = Tally(FleetMetrics(CollectorRegistry()), ("high", "normal"))
        self.fleet = Fleet(FleetConfig(), GlobalScheduler(scheduler), b"", tally, StoppedClock())
        self.queue: FrontQueue[PlacementRequest, Instance] = FrontQueue(scheduler.queue, 1000)
        self.placed: list[tuple[RequestId, InstanceId]] = []
        self.offers = 0
        self.fleet.changed = self.offer
        for number in range(size):
            instance = Instance.at(f"http://host-{number}:1")
            self.fleet.instances.add(instance)
            name = InstanceId("abcdef"[number])
            models = MODELS if number == 0 else MODELS[number % 2 :][:1]
            link: Any = object()
            instance.become(Identity(name, InstanceKind.PLUGGED, models), link)
            self.report(number, physical_tokens=9_900, running=(0, 3))

    def offer(self) -> None:
        self.offers += 1
        self.queue.offer(self._decide, self._settle)

    def _decide(self, ask: PlacementRequest) -> Instance | None:
        answer = self.fleet.dispatch(ask)
        assert not isinstance(answer, Reject)
        return None if isinstance(answer, Hold) else answer

    def _settle(self, ask: PlacementRequest, instance: Instance) -> None:
        self.placed.append((ask.request.request_id, instance.id))

    def arrive(self, ask: PlacementRequest, number: int) -> Ticket[PlacementRequest]:
        ticket = self.queue.join(ask, ask.request, number, line=ask.model, beside=bool(ask.barred))
        self.queue.offer_line(ticket, self._decide, self._settle)
        return ticket

    def report(self, number: int, new_ids: tuple[str, ...] = (), **told: Any) -> None:
        instance = list(self.fleet.instances)[number]
        said = load("x", capacity_tokens=told.pop("capacity_tokens", CAPACITY), **told)
        instance.take_load(said, self.fleet.now_s())
        self.fleet.reported(instance, [RequestId(each) for each in new_ids])


class AskedAlways(Door):
    """One whose queue is offered at every report as well."""

    def report(self, number: int, new_ids: tuple[str, ...] = (), **told: Any) -> None:
        super().report(number, new_ids, **told)
        self.offer()


class Doors(RuleBasedStateMachine):
    """Whatever is reported, arrives, ends or is drained: both doors place alike, at every step."""

    def __init__(self) -> None:
        super().__init__()
        self.doors: list[Door] = []
        self.tickets: list[list[Ticket[PlacementRequest]]] = []
        self.arrived = 0
        params: dict[str, object] = {"growth_steps": 160.0}
        self.doors = [Door(4, params), AskedAlways(4, params)]

    @rule(
        tokens=st.sampled_from([50, 400, 3_000, 9_000, 11_000]),
        model=st.sampled_from(["m", "n", None]),
        class_index=st.integers(0, 1),
        barred=st.frozensets(st.sampled_from([InstanceId("a"), InstanceId("b")]), max_size=1),
    )
    def arrive(self, tokens: int, model: str | None, class_index: int, barred: Any) -> None:
        self.arrived += 1
        name = RequestId(f"r{self.arrived}")
        request = DispatchRequest(name, class_index, tokens, float(self.arrived), model)
        ask = PlacementRequest(request, barred=barred)
        self.tickets.append([each.arrive(ask, self.arrived) for each in self.doors])
        self.compare()

    @rule(
        number=st.integers(0, 3),
        used=st.sampled_from([5_000, 9_000, 9_000, 9_990]),
        running=st.integers(0, 6),
        queued=st.sampled_from([0, 0, 500]),
        capacity=st.sampled_from([CAPACITY, CAPACITY, 9_999, 12_000]),
        confirmed=st.booleans(),
    )
    def report(
        self, number: int, used: int, running: int, queued: int, capacity: int, *, confirmed: bool
    ) -> None:
        name = "abcd"[number]
        ids = [each for each, place in self.doors[0].placed if place == name] if confirmed else []
        for each in self.doors:
            each.report(
                number,
                tuple(ids),
                physical_tokens=used,
                running=(0, running),
                waiting=(0, 1 if queued else 0),
                queued_demand_tokens=queued,
                capacity_tokens=capacity,
            )
        self.compare()

    @rule(at=st.integers(0, 20))
    def end(self, at: int) -> None:
        """A request ends, or its client leaves the queue."""
        if not self.tickets:
            return
        for door, ticket in zip(self.doors, self.tickets[at % len(self.tickets)], strict=True):
            door.queue.leave(ticket)
            door.fleet.forget(ticket.request.request_id)
            door.offer()
        self.compare()

    @rule(number=st.integers(0, 3), on=st.booleans())
    def drain(self, number: int, *, on: bool) -> None:
        for door in self.doors:
            list(door.fleet.instances)[number].set_draining(on)
            door.offer()
        self.compare()

    @rule(number=st.integers(0, 3))
    def down(self, number: int) -> None:
        for door in self.doors:
            instance = list(door.fleet.instances)[number]
            link = instance.link
            instance.lose()
            door.fleet.went_down(instance, "gone")
            instance.link = link  # and up again, without a report so far
            door.offer()
        self.compare()

    def compare(self) -> None:
        one, other = self.doors
        assert one.placed == other.placed
        assert len(one.queue) == len(other.queue)


TestDoors = Doors.TestCase
TestDoors.settings = law


@pytest.mark.parametrize("held", [0, 3])
def test_a_full_fleet_that_fills_up_further_is_not_asked_again(held: int) -> None:
    door = Door(2, {})
    for number in range(held):
        request = DispatchRequest(RequestId(f"r{number}"), 1, 300, float(number), "m")
        door.arrive(PlacementRequest(request), number)
    door.offers = 0
    for step in range(50):
        door.report(0, physical_tokens=9_900 + step, running=(0, 3))

    assert door.offers == 0
    door.report(0, physical_tokens=5_000, running=(0, 3))
    assert door.offers == (1 if held else 0)
    assert len(door.placed) == held


def test_room_that_is_not_enough_for_anyone_who_waits_is_none() -> None:
    door = Door(2, {"growth_steps": 0.0})
    door.arrive(PlacementRequest(DispatchRequest(RequestId("r"), 1, 900, 0.0, "m")), 0)
    door.offers = 0
    for used in (9_800, 9_101, 9_500, 9_200):
        door.report(0, physical_tokens=used, running=(0, 3))

    assert door.offers == 0
    door.report(0, physical_tokens=9_100, running=(0, 3))
    assert [name for name, _ in door.placed] == ["r"]


FULL: dict[str, Any] = {"physical_tokens": 9_000, "running": (0, 5)}
OTHERS: dict[str, Any] = {"physical_tokens": 9_999, "running": (0, 9)}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param(FULL, {**FULL, "physical_tokens": 8_000}, id="memory was freed"),
        pytest.param(
            {**FULL, "waiting": (0, 1), "queued_demand_tokens": 600, "physical_tokens": 8_500},
            {**FULL, "waiting": (0, 1), "queued_demand_tokens": 10, "physical_tokens": 8_500},
            id="the queue asks for less",
        ),
        pytest.param(
            {**FULL, "reserved_tokens": 500, "physical_tokens": 8_500},
            {**FULL, "reserved_tokens": 0, "physical_tokens": 8_500},
            id="what was reserved is free",
        ),
        pytest.param(FULL, {**FULL, "capacity_tokens": 12_000}, id="there is more memory"),
        pytest.param(
            {**FULL, "running": (0, 9)}, {**FULL, "running": (0, 2)}, id="fewer requests grow"
        ),
        pytest.param(
            {**OTHERS, "running": (0, 1)}, {**OTHERS, "running": (0, 0)}, id="nothing runs"
        ),
        pytest.param(
            {**OTHERS, "running": (0, 0), "waiting": (0, 1)},
            {**OTHERS, "running": (0, 0)},
            id="nothing waits",
        ),
        pytest.param(
            {**FULL, "physical_tokens": 2_000, "terminating": True},
            {**FULL, "physical_tokens": 2_000},
            id="it takes requests again",
        ),
        pytest.param(
            FULL, {**FULL, "capacity_tokens": 400}, id="the request has become too large for all"
        ),
    ],
)
def test_a_report_that_makes_room_is_enough(before: dict[str, Any], after: dict[str, Any]) -> None:
    """Whatever it is that makes it, a single report places the request that waits."""
    door = Door(2, {"growth_steps": 100.0})
    too_small = "capacity_tokens" in after and after["capacity_tokens"] < CAPACITY
    door.report(1, **OTHERS, capacity_tokens=400 if too_small else CAPACITY)
    door.report(0, **before)
    request = DispatchRequest(RequestId("r"), 1, 600, 0.0, "m")
    door.arrive(PlacementRequest(request), 0)
    assert door.placed == []
    door.report(0, **before)
    assert door.placed == []
    door.report(0, **after)

    assert [name for name, _ in door.placed] == ["r"]


def test_a_report_that_confirms_what_was_on_its_way_may_make_room() -> None:
    """What was sent took less than was expected: its prompt was cached."""
    door = Door(1, {"growth_steps": 0.0})
    door.report(0, physical_tokens=5_000, running=(0, 1))
    for number in range(2):
        request = DispatchRequest(RequestId(f"r{number}"), 1, 3_000, float(number), "m")
        door.arrive(PlacementRequest(request), number)
    assert [name for name, _ in door.placed] == ["r0"]
    door.report(0, ("r0",), physical_tokens=5_000, running=(0, 1))

    assert [name for name, _ in door.placed] == ["r0", "r1"]
