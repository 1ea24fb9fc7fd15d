"""Groups: nothing is dispatched or paired across them, and within one nothing changes."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.groups import Group
from policies.moves.config import RebalanceConfig
from policies.types import (
    Dispatch,
    DispatchRequest,
    Explanation,
    FleetSnapshot,
    Hold,
    InstanceId,
    InstanceLoad,
    MigrateOrder,
)
from policies.vetoes import order_veto
from tests.policies.fleets import chosen, law, load, load_lists, request, scheduler

SMALL, LARGE = Group(frozenset({"small"})), Group(frozenset({"large"}))
OTHER_LAYOUT = Group(frozenset({"small"}), layout="fp8")
REBALANCE = RebalanceConfig(low_steps=50, high_steps=150, hysteresis_steps=10)
POLICIES = ("freeness", "load-aware", "least-requests", "power-of-two", "round-robin", "random")

grouped = st.lists(st.sampled_from([SMALL, LARGE, OTHER_LAYOUT]), min_size=6, max_size=6)


def fleet_of(loads: list[InstanceLoad], groups: list[Group]) -> FleetSnapshot:
    return FleetSnapshot.of(loads, 0.0, classes=2, groups=groups[: len(loads)])


def asking_for(model: str | None, name: str = "r", tokens: int = 100) -> DispatchRequest:
    return replace(request(name, tokens), model=model)


FULL, FREE, FREER = load("full", 9_600, 10), load("free", 6_000, 10), load("freer", 100, 1)


def test_the_pair_within_a_group_is_found_beside_a_freer_instance_of_another() -> None:
    brain = scheduler(rebalance=REBALANCE)
    (order,) = brain.rebalance(fleet_of([FULL, FREER, FREE], [SMALL, LARGE, SMALL]), 0.0)

    assert (order.source, order.destination) == ("full", "free")
    assert not brain.vetoed


@pytest.mark.parametrize("other", [LARGE, OTHER_LAYOUT])
def test_instances_of_different_groups_are_no_pair(other: Group) -> None:
    """Neither proposed nor vetoed: a drain waits as well, rather than try the same each round."""
    brain = scheduler(rebalance=REBALANCE)
    leaving = replace(FULL, terminating=True)

    for one in (FULL, leaving):
        assert brain.rebalance(fleet_of([one, FREER], [SMALL, other]), 0.0) == []
        assert not brain.vetoed
        assert brain.rebalance(fleet_of([one, FREER], [other, other]), 0.0) != []
        brain.instance_gone(InstanceId("full"))


@law
@given(loads=load_lists(min_size=2), groups=grouped)
def test_no_order_crosses_groups(loads: list[InstanceLoad], groups: list[Group]) -> None:
    of = dict(zip([one.instance_id for one in loads], groups, strict=False))
    for order in scheduler(rebalance=REBALANCE).rebalance(fleet_of(loads, groups), 0.0):
        assert of[order.source] == of[order.destination]


@law
@given(loads=load_lists(min_size=2), groups=grouped, policy=st.sampled_from(POLICIES))
def test_a_request_goes_where_its_model_is(
    loads: list[InstanceLoad], groups: list[Group], policy: str
) -> None:
    """Whatever the policy prefers; where nobody has the model, it is held."""
    of = dict(zip([one.instance_id for one in loads], groups, strict=False))
    brain, snapshot = scheduler(policy), fleet_of(loads, groups)
    for number, model in enumerate(["small", "large", "small", "none of them"]):
        decision = brain.dispatch(asking_for(model, f"r{number}"), snapshot, 0.0)
        if isinstance(decision, Dispatch):
            assert model in of[decision.instance_id].models
        serving = [one for one in loads if model in of[one.instance_id].models]
        if not any(not one.terminating for one in serving):
            assert isinstance(decision, Hold)


def test_why_another_group_was_left_out_is_explained() -> None:
    brain = scheduler()
    decision = brain.dispatch(
        asking_for("large", tokens=50), fleet_of([FREE, FULL], [SMALL, LARGE]), 0.0
    )

    assert chosen(decision) == "full"
    assert decision.explanation.vetoed == {"free": "it does not serve large"}


@law
@given(loads=load_lists(min_size=2), policy=st.sampled_from(POLICIES))
def test_a_fleet_of_one_group_is_as_if_there_were_none(
    loads: list[InstanceLoad], policy: str
) -> None:
    """Dispatch by dispatch and order by order, explanations included."""
    plain = FleetSnapshot.of(loads, 0.0, classes=2)
    named = fleet_of(loads, [SMALL] * len(loads))
    one, other = scheduler(policy, rebalance=REBALANCE), scheduler(policy, rebalance=REBALANCE)
    for number in range(4):
        with_model = one.dispatch(asking_for("small", f"r{number}", 3_000), named, 0.0)
        assert with_model == other.dispatch(request(f"r{number}", 3_000), plain, 0.0)
    assert one.rebalance(named, 0.0) == other.rebalance(plain, 0.0)
    assert one.vetoed == other.vetoed


def test_a_held_request_counts_in_its_own_group_alone() -> None:
    """Its demand makes an instance of its model give way, not the roomier one of another."""
    brain = scheduler(rebalance=REBALANCE)
    loads = [FREER, load("tight", 8_500, 10), load("relief", 8_600, 5)]
    snapshot = fleet_of(loads, [LARGE, SMALL, SMALL])
    assert brain.rebalance(snapshot, 0.0) == []

    assert isinstance(brain.dispatch(asking_for("small", tokens=2_000), snapshot, 0.0), Hold)
    (order,) = brain.rebalance(snapshot, 0.0)
    assert (order.source, order.destination) == ("tight", "relief")


def test_an_order_across_groups_is_vetoed() -> None:
    brain = scheduler(rebalance=REBALANCE)
    order = MigrateOrder(
        InstanceId("full"), InstanceId("freer"), 100, "rebalance", Explanation("toy")
    )
    snapshot = fleet_of([FULL, FREER], [SMALL, LARGE])

    assert order_veto(order, snapshot, brain.orders, 0.0) == (
        "full and freer belong to different groups"
    )
    alike = fleet_of([FULL, FREER], [SMALL, SMALL])
    assert order_veto(order, alike, brain.orders, 0.0) is None


def test_streams_without_a_layout_go_on_where_their_models_are() -> None:
    assert OTHER_LAYOUT.recomputes_for(SMALL)
    assert not LARGE.recomputes_for(SMALL)
    assert not Group(frozenset({"small", "more"})).recomputes_for(SMALL)
