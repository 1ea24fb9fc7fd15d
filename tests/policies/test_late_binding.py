"""Late binding: a request waits while no instance could start it, and never for ever."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.types import Dispatch, Hold, InstanceLoad
from tests.policies.fleets import (
    PAPER_CLASSES,
    chosen,
    fleet,
    law,
    load,
    load_lists,
    request,
    scheduler,
)

EAGER = {"growth_steps": 0.0}


@pytest.mark.parametrize(
    ("loads", "tokens", "expected"),
    [
        pytest.param([load("a", 9_000, 5), load("b", 8_000, 5)], 2_000, "b", id="it just fits"),
        pytest.param([load("a", 9_000, 5), load("b", 8_000, 5)], 2_001, None, id="it does not"),
        pytest.param(
            [load("a", 9_500, 1), load("b", 8_000, 9)], 900, "b", id="freest of those with room"
        ),
        pytest.param(
            [load("a", 5_000, 5, waiting=2, head=100, queued=4_500)],
            1_000,
            None,
            id="the whole queue is before it",
        ),
        pytest.param([load("a", 5_000, 5, reserved=4_500)], 1_000, None, id="room is reserved"),
        pytest.param([load("a", reserved=9_500)], 1_000, "a", id="an idle one cannot get readier"),
        pytest.param([load("a", 9_000, 5)], 10_001, "a", id="larger than all: the engine says no"),
        pytest.param(
            [load("a", 9_000, 5), load("big", 29_000, 5, capacity=30_000)],
            10_001,
            None,
            id="only the big one can ever take it",
        ),
        pytest.param([load("a", terminating=True)], 10, None, id="all are terminating"),
        pytest.param([load("a", terminating=True)], 99_999, None, id="too large, and terminating"),
        pytest.param([], 10, None, id="no instance at all"),
    ],
)
def test_when_a_request_is_held(
    loads: list[InstanceLoad], tokens: int, expected: str | None
) -> None:
    decision = scheduler(params=EAGER).dispatch(request(tokens=tokens), fleet(*loads), 0.0)

    if expected is None:
        assert isinstance(decision, Hold)
        assert decision.explanation.note
    else:
        assert chosen(decision) == expected


def test_room_to_grow_is_kept_for_those_already_there() -> None:
    snapshot = fleet(load("a", 8_000, 10))

    assert isinstance(
        scheduler(params={"growth_steps": 32.0}).dispatch(request(tokens=1_681), snapshot, 0.0),
        Hold,
    )
    assert chosen(
        scheduler(params={"growth_steps": 32.0}).dispatch(request(tokens=1_680), snapshot, 0.0)
    )


def test_without_late_binding_nothing_is_held() -> None:
    decision = scheduler(params={"late_binding": False}).dispatch(
        request(tokens=5_000), fleet(load("a", 9_000, 5)), 0.0
    )

    assert chosen(decision) == "a"


def test_headroom_holds_nobody_back() -> None:
    """Else one urgent request on every instance would lock everybody out."""
    snapshot = fleet(load("a", 1_000, 0, high=1), load("b", 2_000, 0, high=1))

    assert chosen(scheduler(classes=PAPER_CLASSES).dispatch(request(), snapshot, 0.0)) == "a"


def test_what_is_in_flight_takes_room_until_the_report() -> None:
    brain = scheduler(params=EAGER)
    snapshot = fleet(load("a", 9_000, 5))

    assert chosen(brain.dispatch(request("r1", 600), snapshot, 0.0)) == "a"
    assert isinstance(brain.dispatch(request("r2", 600), snapshot, 0.0), Hold)
    brain.forget(request("r1").request_id)
    assert chosen(brain.dispatch(request("r2", 600), snapshot, 0.0)) == "a"


@law
@given(loads=load_lists(), tokens=st.integers(1, 25_000))
def test_a_held_request_could_start_later_and_could_not_start_now(
    loads: list[InstanceLoad], tokens: int
) -> None:
    """Held means: busy instances now, one of them large enough. So it is never held for ever."""
    decision = scheduler(params=EAGER).dispatch(request(tokens=tokens), fleet(*loads), 0.0)
    usable = [one for one in loads if not one.terminating]

    if isinstance(decision, Dispatch) or not usable:
        return
    # A request too large for some is meant for the others; too large for all is not held at all.
    fitting = [one for one in usable if one.capacity_tokens >= tokens]
    assert fitting
    for one in fitting:
        used = one.physical_tokens + one.reserved_tokens + one.queued_demand_tokens
        assert one.capacity_tokens - used < tokens
        assert sum(one.running) + sum(one.waiting) > 0
