"""A small fleet is decided for in plain numbers: as by columns, to the last bit."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.dispatch import FreenessParams, dispatch_policies
from policies.groups import Group
from policies.small_fleets import MOST_ROWS, small_policies
from policies.types import (
    DispatchDecision,
    DispatchRequest,
    FleetSnapshot,
    InstanceId,
    InstanceLoad,
    RequestId,
)
from tests.policies.fleets import PAPER_CLASSES, PLAIN_CLASSES, law, load_lists, loads, scheduler

MODELS = ("m", "n")


@st.composite
def groups(draw: st.DrawFn) -> Group:
    """Draw what an instance serves."""
    models = draw(st.sets(st.sampled_from(MODELS), min_size=1))
    return Group(frozenset(models), draw(st.sampled_from(["", "x"])))


@st.composite
def fleets(draw: st.DrawFn) -> FleetSnapshot:
    """Draw a fleet of one or several groups, some reports of which may be old."""
    rows = [
        replace(each, reported_at_s=draw(st.sampled_from([0.0, 4.0, 9.0, 10.0])))
        for each in draw(load_lists(min_size=0))
    ]
    kinds = [draw(groups()) for _ in rows] if draw(st.booleans()) else None
    snapshot = FleetSnapshot.of(rows, 10.0, 2, kinds)
    return for_good(snapshot) if draw(st.booleans()) else snapshot


def for_good(snapshot: FleetSnapshot) -> FleetSnapshot:
    """Make the columns such as cannot change, as those of a live fleet."""
    for name in FleetSnapshot.__slots__:
        column = getattr(snapshot, name)
        if isinstance(column, np.ndarray):
            column.flags.writeable = False
    return snapshot


def later(snapshot: FleetSnapshot, passed_s: float) -> FleetSnapshot:
    """Give the same reports some time later."""
    return replace(snapshot, age_s=snapshot.age_s + passed_s)


@st.composite
def requests(draw: st.DrawFn, number: int) -> DispatchRequest:
    model = draw(st.sampled_from([None, *MODELS]))
    tokens = draw(st.integers(1, 12_000))
    return DispatchRequest(RequestId(f"r{number}"), draw(st.integers(0, 1)), tokens, 0.0, model)


def shown(decision: DispatchDecision) -> tuple[object, ...]:
    """Write a decision out, the order of its scores and vetoes included."""
    why = decision.explanation
    target = getattr(decision, "instance_id", None)
    scores = [(name, repr(score)) for name, score in why.scores.items()]
    return type(decision), target, why.policy, scores, list(why.vetoed.items()), why.note


def test_every_shipped_policy_has_its_twin() -> None:
    assert small_policies.names() == dispatch_policies.names()
    for name in small_policies.names():
        assert small_policies.params(name) is dispatch_policies.params(name)


@pytest.mark.parametrize("policy", small_policies.names())
@law
@given(snapshots=st.lists(fleets(), min_size=1, max_size=3), data=st.data())
def test_rows_decide_what_columns_decide(
    policy: str, snapshots: Sequence[FleetSnapshot], data: st.DataObject
) -> None:
    """Over a burst of requests, some confirmed meanwhile: each decision and its reasons."""
    classes = data.draw(st.sampled_from([PLAIN_CLASSES, PAPER_CLASSES]))
    params = (
        {
            "late_binding": data.draw(st.booleans()),
            "growth_steps": data.draw(st.sampled_from([0, 1.5, 32.0])),
        }
        if dispatch_policies.params(policy) is FreenessParams
        else {}
    )
    by_rows = scheduler(policy, params, classes=classes, seed=3)
    by_columns = scheduler(policy, params, classes=classes, seed=3)
    by_columns._chooser.small_policy = None
    for number in range(data.draw(st.integers(1, 8))):
        snapshot = later(data.draw(st.sampled_from(snapshots)), data.draw(st.integers(0, 2)))
        request = data.draw(requests(number))
        if number and data.draw(st.booleans()):
            for each in (by_rows, by_columns):
                each.confirm(InstanceId("i0"), [RequestId(f"r{number - 1}")])

        told = [each.dispatch(request, snapshot, 10.0) for each in (by_rows, by_columns)]

        assert shown(told[0]) == shown(told[1])


@law
@given(data=st.data(), more=st.integers(0, 1))
def test_nothing_changes_where_columns_take_over(data: st.DataObject, more: int) -> None:
    one = data.draw(loads("a"))
    rows: list[InstanceLoad] = [
        replace(one, instance_id=InstanceId(f"i{n}")) for n in range(MOST_ROWS + more)
    ]
    snapshot = FleetSnapshot.of(rows, 0.0, 2)
    usual, by_columns = scheduler(), scheduler()
    by_columns._chooser.small_policy = None
    for number in range(3):
        request = DispatchRequest(RequestId(f"r{number}"), 1, 100, 0.0)

        assert shown(usual.dispatch(request, snapshot, 0.0)) == shown(
            by_columns.dispatch(request, snapshot, 0.0)
        )
