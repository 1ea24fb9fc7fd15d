"""Virtual usage and freeness: columns equal the paper's rows, and bend the right way."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.types import InstanceLoad, IntColumn
from policies.usage import Queue, UsageRow, freeness, row_freeness, startable_tokens, virtual_usage
from tests.policies.fleets import fleet, law, load, loads

NO_HEADROOM: IntColumn = np.array([0, 0])
QUEUES: tuple[Queue, Queue] = ("head", "whole")


def free(one: InstanceLoad, headroom: tuple[int, int] = (0, 0), queue: Queue = "head") -> float:
    return float(freeness(fleet(one), np.array(headroom), queue)[0])


@pytest.mark.parametrize(
    ("one", "headroom", "head", "whole"),
    [
        (load("idle"), (0, 0), 10_000, 10_000),
        (load("running", 4_000, 3), (0, 0), 2_000, 2_000),
        (load("reserving", 4_000, 3, reserved=3_000), (0, 0), 1_000, 1_000),
        (load("queue", 4_000, 2, waiting=3, head=1_000, queued=2_500), (0, 0), 2_500, 700),
        (load("over", 9_000, 2, waiting=1, queued=3_000), (0, 0), -1_000, -1_000),
        (load("urgent", 4_000, 1, high=1), (5_000, 0), 500, 500),
        (load("more urgent", 4_000, 1, high=3), (5_000, 0), 250, 250),
        (load("not urgent", 4_000, 2), (5_000, 0), 3_000, 3_000),
        (load("leaving", 4_000, 2, terminating=True), (0, 0), -math.inf, -math.inf),
    ],
    ids=lambda value: value.instance_id if isinstance(value, InstanceLoad) else "",
)
def test_freeness_by_example(
    one: InstanceLoad, headroom: tuple[int, int], head: float, whole: float
) -> None:
    assert free(one, headroom, "head") == head
    assert free(one, headroom, "whole") == whole


@st.composite
def usage_rows(draw: st.DrawFn) -> list[UsageRow]:
    classes, tokens = st.integers(0, 1), st.integers(1, 2_000)
    rows = [
        UsageRow("running", draw(classes), draw(tokens)) for _ in range(draw(st.integers(0, 8)))
    ]
    rows += [
        UsageRow("queued", draw(classes), draw(tokens), head_of_line=position == 0)
        for position in range(draw(st.integers(0, 4)))
    ]
    return rows + [UsageRow("fake")] * draw(st.integers(0, 1))


def load_of(rows: list[UsageRow]) -> InstanceLoad:
    """Report what a llumlet would of these requests."""
    running = [row for row in rows if row.state == "running"]
    queued = [row for row in rows if row.state == "queued"]
    return load(
        "i",
        used=sum(row.tokens for row in running),
        high=sum(row.class_index == 0 for row in running),
        running=sum(row.class_index == 1 for row in running),
        waiting=len(queued),
        head=sum(row.tokens for row in queued if row.head_of_line),
        queued=sum(row.tokens for row in queued),
        terminating=any(row.state == "fake" for row in rows),
    )


@law
@given(rows=usage_rows(), headroom=st.tuples(st.integers(0, 9_000), st.integers(0, 500)))
def test_columns_and_the_papers_rows_agree(rows: list[UsageRow], headroom: tuple[int, int]) -> None:
    """Freeness from one report of sums equals Algorithm 1 over every single request."""
    expected = row_freeness(rows, 10_000, headroom)

    assert free(load_of(rows), headroom, "head") == pytest.approx(expected)


@law
@given(one=loads(), more=st.integers(1, 5_000), queue=st.sampled_from(QUEUES))
def test_freeness_grows_with_capacity(one: InstanceLoad, more: int, queue: Queue) -> None:
    larger = replace(one, capacity_tokens=one.capacity_tokens + more, terminating=False)

    assert free(larger, queue=queue) > free(replace(one, terminating=False), queue=queue)


@law
@given(
    one=loads(),
    more=st.integers(1, 5_000),
    queue=st.sampled_from(QUEUES),
    kind=st.sampled_from(["physical_tokens", "reserved_tokens", "queue"]),
)
def test_freeness_shrinks_with_usage_of_any_kind(
    one: InstanceLoad, more: int, queue: Queue, kind: str
) -> None:
    one = replace(one, terminating=False)
    if kind == "queue":
        fuller = replace(
            one,
            head_demand_tokens=one.head_demand_tokens + more,
            queued_demand_tokens=one.queued_demand_tokens + more,
        )
    elif kind == "physical_tokens":
        fuller = replace(one, physical_tokens=one.physical_tokens + more)
    else:
        fuller = replace(one, reserved_tokens=one.reserved_tokens + more)

    assert free(fuller, queue=queue) < free(one, queue=queue)


@law
@given(one=loads(), tokens=st.integers(1, 5_000), sent=st.integers(0, 30))
def test_every_request_sent_lowers_freeness_for_dispatch(
    one: InstanceLoad, tokens: int, sent: int
) -> None:
    """Else an overloaded instance would attract more with each request it is sent."""
    before = fleet(replace(one, terminating=False))

    def after(n: int) -> float:
        column = np.array([n])
        sent_to = replace(before, in_flight_tokens=column * tokens, in_flight_requests=column)
        return float(freeness(sent_to, NO_HEADROOM, "whole")[0])

    assert after(sent + 1) < after(sent)


@law
@given(one=loads(), headroom=st.tuples(st.integers(0, 9_000), st.integers(0, 500)))
def test_a_class_takes_its_headroom_once_and_only_where_it_runs(
    one: InstanceLoad, headroom: tuple[int, int]
) -> None:
    one = replace(one, terminating=False)
    plain = virtual_usage(fleet(one), NO_HEADROOM, "head")[0]
    taken = virtual_usage(fleet(one), np.array(headroom), "head")[0] - plain
    expected = sum(tokens for tokens, running in zip(headroom, one.running, strict=True) if running)

    assert taken == expected


def test_room_to_start_ignores_headroom_but_not_what_waits() -> None:
    one = load("i", 4_000, 1, high=1, waiting=2, head=1_000, queued=1_500, reserved=500)

    assert startable_tokens(fleet(one)).tolist() == [4_000]
