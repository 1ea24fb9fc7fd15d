"""The frontend's queue: by class, then arrival; bounded; nobody overtakes."""

import asyncio
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llumnix.fleet.fleet import PlacementRequest
from llumnix.frontend.queue import HoldQueue
from llumnix.frontend.request.refusal import Refusal
from llumnix.instances.instance import Instance
from policies.registry import PolicySpec
from policies.types import DispatchRequest, Explanation, Hold, InstanceId, Reject, RequestId

SOMEWHERE = Instance.at("http://somewhere")
DISCIPLINE = PolicySpec("class-then-arrival")
NOWHERE = Hold(Explanation("test"))


class Fleet:
    """A fleet with room for as many requests as it is told; notes the order they came in."""

    def __init__(self, room: int = 0) -> None:
        self.room = room
        self.placed: list[str] = []
        self.reject = False

    def place(self, ask: PlacementRequest) -> Instance | Hold | Reject:
        if self.reject:
            return Reject("never", Explanation("test"))
        if self.room == 0:
            return NOWHERE
        self.room -= 1
        self.placed.append(ask.request.request_id)
        return SOMEWHERE


def ask(
    name: str,
    class_index: int = 1,
    arrived_at_s: float = 0.0,
    model: str | None = None,
    **more: object,
) -> PlacementRequest:
    request = DispatchRequest(RequestId(name), class_index, 1, arrived_at_s, model=model)
    return PlacementRequest(request, **more)  # type: ignore[arg-type]


def queue(
    fleet: Fleet, limit: int = 100, timeout_s: float = 30.0, spacing_s: float = 0.01
) -> HoldQueue:
    return HoldQueue(
        fleet.place, DISCIPLINE, limit, timeout_s, retry_after_s=2.0, spacing_s=spacing_s
    )


async def enter(
    line: HoldQueue, *asks: PlacementRequest
) -> list["asyncio.Task[Instance | Refusal]"]:
    tasks = [asyncio.create_task(line.place(each)) for each in asks]
    await asyncio.sleep(0)
    return tasks


async def test_room_means_no_wait() -> None:
    fleet = Fleet(room=1)

    assert await queue(fleet).place(ask("x")) is SOMEWHERE


async def test_order_is_by_class_then_arrival() -> None:
    fleet = Fleet()
    line = queue(fleet)
    tasks = await enter(line, ask("n1"), ask("b1", 2), ask("h1", 0), ask("n2"), ask("h2", 0))
    fleet.room = 5
    line.retry()
    await asyncio.gather(*tasks)

    assert fleet.placed == ["h1", "h2", "n1", "n2", "b1"]


async def test_a_newcomer_never_overtakes() -> None:
    """Room for one appears as a newcomer arrives: it goes to the one that has waited."""
    fleet = Fleet()
    line = queue(fleet)
    first = await enter(line, ask("first"))
    fleet.room = 1
    line.retry()
    later = await enter(line, ask("later"))

    assert await first[0] is SOMEWHERE
    assert fleet.placed == ["first"]
    assert not later[0].done()
    later[0].cancel()


async def test_other_models_are_not_held_up() -> None:
    """A line for one model does not stop another's."""
    fleet = Fleet()
    place = fleet.place
    line = HoldQueue(
        lambda each: NOWHERE if each.model == "busy" else place(each), DISCIPLINE, 100, 30.0, 2.0
    )
    held = await enter(line, ask("x", 0, model="busy"))
    fleet.room = 1

    assert await line.place(ask("y", 1, model="free")) is SOMEWHERE
    held[0].cancel()


@given(
    st.lists(
        st.one_of(
            st.tuples(st.just("arrive"), st.integers(0, 2)),
            st.tuples(st.just("room"), st.integers(1, 3)),
            st.tuples(st.just("leave"), st.integers(0, 5)),
        ),
        max_size=40,
    )
)
def test_whatever_happens_the_most_urgent_and_oldest_goes_first(
    steps: list[tuple[str, int]],
) -> None:
    """Law: each placement takes the least (class, arrival) of those waiting then."""

    async def run() -> None:
        fleet = Fleet()
        line = queue(fleet, spacing_s=0.0)
        waiting: dict[str, tuple[int, int]] = {}
        tasks: dict[str, asyncio.Task[Instance | Refusal]] = {}
        for number, (what, value) in enumerate(steps):
            if what == "arrive":
                name = str(number)
                waiting[name] = (value, number)
                (tasks[name],) = await enter(line, ask(name, value, float(number)))
            elif what == "room":
                fleet.room += value
                line.retry()
                await line._rounds.end()
            elif waiting:
                name = sorted(waiting)[value % len(waiting)]
                tasks[name].cancel()
                await asyncio.gather(tasks[name], return_exceptions=True)
                await line._rounds.end()
                del waiting[name]
            for name in fleet.placed:
                assert name == min(waiting, key=lambda each: waiting[each])
                del waiting[name]
            fleet.placed.clear()
            assert len(line) == len(waiting)
            assert not waiting or fleet.room == 0
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        assert len(line) == 0

    asyncio.run(run())


async def test_a_full_queue_says_so_and_when_to_come_back() -> None:
    line = queue(Fleet(), limit=2)
    held = await enter(line, ask("x"), ask("y"))
    refusal = await line.place(ask("z"))

    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.retry_after_s) == (503, 2.0)
    assert refusal.response().headers["Retry-After"] == "2"
    assert len(line) == 2
    for task in held:
        task.cancel()


async def test_streams_being_carried_on_are_never_turned_away() -> None:
    """A full queue must not end a stream that is half way through."""
    fleet = Fleet()
    line = queue(fleet, limit=1)
    held = await enter(line, ask("x"))
    moving = await enter(line, ask("moving", plugged_only=True))
    fleet.room = 2
    line.retry()
    await asyncio.gather(*held, *moving)

    assert fleet.placed == ["moving", "x"]


async def test_waiting_has_an_end() -> None:
    refusal = await queue(Fleet(), timeout_s=0.01).place(ask("x"))

    assert isinstance(refusal, Refusal)
    assert refusal.status == 503


async def test_a_rejection_reaches_the_client() -> None:
    fleet = Fleet()
    fleet.reject = True
    refusal = await queue(fleet).place(ask("x"))

    assert isinstance(refusal, Refusal)
    assert refusal.message == "never"


@pytest.mark.parametrize("avoided", [frozenset(), frozenset({InstanceId("dead")})])
async def test_lengths_are_counted_by_class(avoided: frozenset[InstanceId]) -> None:
    line = queue(Fleet())
    held = await enter(line, ask("x", 0), ask("y", 2), ask("z", 2, avoided=avoided))

    assert line.lengths(3) == [1, 0, 2]
    for task in held:
        task.cancel()


async def test_a_newcomer_to_a_full_queue_is_judged_after_what_has_just_changed() -> None:
    """Room has appeared and nobody has been asked yet: the queue is full only if it still is."""
    fleet = Fleet()
    line = queue(fleet, limit=1)
    held = await enter(line, ask("x"))
    fleet.room = 1
    line.retry()
    later = await enter(line, ask("y"))
    await asyncio.gather(*held)
    fleet.room = 1
    line.retry()

    assert await asyncio.gather(*later) == [SOMEWHERE]
    assert fleet.placed == ["x", "y"]


async def test_a_storm_of_changes_asks_the_fleet_now_and_then() -> None:
    """However many changes there are in a moment, the head of the line is offered once."""
    fleet = Fleet()
    asked: list[str] = []

    def place(each: PlacementRequest) -> Instance | Hold | Reject:
        asked.append(each.request.request_id)
        return fleet.place(each)

    line = HoldQueue(place, DISCIPLINE, 100, 30.0, 2.0)
    held = await enter(line, ask("x"), ask("y"))
    asked.clear()
    for _ in range(3):
        for _ in range(1000):
            line.retry()
        await line._rounds.end()

    assert asked == ["x"] * 3
    fleet.room = 2
    line.retry()
    assert await asyncio.gather(*held) == [SOMEWHERE] * 2


async def test_what_nobody_told_is_found_out_before_long() -> None:
    """Time alone can make room: those that wait are offered now and then, unasked."""
    fleet = Fleet()
    line = queue(fleet)
    held = await enter(line, ask("x"))
    fleet.room = 1
    async with asyncio.timeout(20.0):
        assert await held[0] is SOMEWHERE


async def test_nobody_is_asked_while_nobody_waits() -> None:
    line = queue(Fleet(room=1))
    line.retry()

    assert not line._rounds.due
    assert await line.place(ask("x")) is SOMEWHERE
    line.retry()
    assert not line._rounds.due


async def test_whoever_leaves_the_head_of_a_line_lets_the_next_be_asked() -> None:
    """The head was too large; the one behind it is not."""
    line = HoldQueue(
        lambda each: NOWHERE if each.request.request_id == "large" else SOMEWHERE,
        DISCIPLINE,
        100,
        30.0,
        2.0,
    )
    large, small = await enter(line, ask("large"), ask("small"))
    assert len(line) == 2
    large.cancel()

    assert await small is SOMEWHERE


async def test_those_that_a_round_places_do_not_wait_for_its_end() -> None:
    """While there is room and clients come, a round may go on and on."""
    fleet, more = Fleet(), 50
    line = queue(fleet)
    held = await enter(line, ask("first"))
    place = fleet.place
    coming: list[asyncio.Task[Instance | Refusal]] = []

    def place_and_bring_another(each: PlacementRequest) -> Instance | Hold | Reject:
        time.sleep(0.001)
        if len(coming) < more and fleet.room:
            coming.append(asyncio.create_task(line.place(ask(f"next{len(coming)}"))))
        return place(each)

    line._place = place_and_bring_another
    fleet.room = more + 1
    line.retry()
    await asyncio.gather(*held)
    assert await coming[0] is SOMEWHERE
    assert len(fleet.placed) < more
    while len(coming) < more:
        await coming[-1]
    await asyncio.gather(*coming)

    assert fleet.placed == ["first", *(f"next{number}" for number in range(more))]
