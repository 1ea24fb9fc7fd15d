"""Which request a source moves: the least urgent, then the shortest, and only what may be moved."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.moves.victims import choose_victim
from policies.types import RequestId, RequestPhase, RequestView
from tests.policies.fleets import HIGH, NORMAL, law


def view(
    name: str,
    context: int = 100,
    class_index: int = NORMAL,
    order: int = 0,
    *,
    phase: RequestPhase = RequestPhase.RUNNING,
    movable: bool = True,
    moved_at_s: float = float("-inf"),
) -> RequestView:
    return RequestView(RequestId(name), class_index, phase, context, order, movable, moved_at_s)


@pytest.mark.parametrize(
    ("views", "expected"),
    [
        pytest.param([], None, id="nobody is there"),
        pytest.param([view("a", 50), view("b", 40)], "b", id="shorter context first"),
        pytest.param([view("a", 50, HIGH), view("b", 400)], "b", id="less urgent class first"),
        pytest.param([view("a", order=1), view("b", order=2)], "b", id="then the latest"),
        pytest.param([view("a", 501), view("b", 900, HIGH)], None, id="all too large"),
        pytest.param([view("a", 501), view("b", 500, HIGH)], "b", id="at the bound"),
        pytest.param(
            [view("a", phase=RequestPhase.QUEUED), view("b", phase=RequestPhase.PREFILL)],
            None,
            id="no KV yet",
        ),
        pytest.param([view("a", movable=False), view("b", 400)], "b", id="immovable"),
        pytest.param([view("a", moved_at_s=95.1), view("b", 400)], "b", id="cooling down"),
        pytest.param([view("a", moved_at_s=95.0), view("b", 400)], "a", id="cooled down"),
    ],
)
def test_the_choice_by_example(views: list[RequestView], expected: str | None) -> None:
    assert choose_victim(views, 500, now_s=100.0, cooldown_s=5.0) == expected


@law
@given(
    st.lists(
        st.builds(
            view,
            st.uuids().map(str),
            st.integers(1, 1_000),
            st.integers(0, 2),
            st.integers(0, 99),
            phase=st.sampled_from(RequestPhase),
            movable=st.booleans(),
            moved_at_s=st.floats(0, 100),
        )
    ),
    st.integers(0, 1_000),
)
def test_only_what_may_move_is_chosen_and_nothing_is_overlooked(
    views: list[RequestView], bound: int
) -> None:
    victim = choose_victim(views, bound, now_s=100.0, cooldown_s=5.0)
    allowed = {
        one.request_id: one
        for one in views
        if one.phase == "running" and one.movable and one.context_tokens <= bound
        if one.moved_at_s <= 95.0
    }

    if victim is None:
        assert not allowed
    else:
        least_urgent = max(one.class_index for one in allowed.values())
        assert allowed[victim].class_index == least_urgent
