"""Scaling: within bounds, after a window, and never back and forth at an unchanged load."""

import copy
import dataclasses

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from policies.scaling import (
    ScaleIn,
    ScaleOut,
    ScalingConfig,
    ScalingDecision,
    ScalingMemory,
    ScalingView,
    cheapest_to_drain,
    decide,
    mean_freeness,
    spread_freeness,
    too_large,
    too_small,
)
from policies.types import InstanceId, InstanceLoad
from policies.usage import freeness
from tests.policies.fleets import fleet, law, load, load_lists

CONFIG = ScalingConfig(max_instances=6, low_steps=64, high_steps=256, window_s=10, cooldown_s=30)
AT_ONCE = dataclasses.replace(CONFIG, window_s=0, cooldown_s=0)
UNBOUNDED = dataclasses.replace(AT_ONCE, max_instances=99)
NO_HEADROOM = np.zeros(2, dtype=np.int64)
BUSY = load("busy", 9_800, 10)
"""20 steps free."""
FAIR = load("fair", 9_000, 10)
"""100 steps free: neither too little nor too much."""
CALM = load("calm", 1_000, 10)
"""900 steps free."""


def view_of(*loads: InstanceLoad, starting: int = 0, held: tuple[int, int] = (0, 0)) -> ScalingView:
    """Show a fleet; `held` counts requests and tokens at the frontend."""
    return ScalingView(fleet(*loads), NO_HEADROOM, starting, *held)


def named(*loads: InstanceLoad) -> list[InstanceLoad]:
    """Give equal capacities and names of their own, so that lists may be put together."""
    return [
        dataclasses.replace(one, instance_id=InstanceId(f"i{row}"), capacity_tokens=10_000)
        for row, one in enumerate(loads)
    ]


def decisions(
    views: list[ScalingView], config: ScalingConfig, every_s: float = 1.0
) -> list[ScalingDecision | None]:
    """Look at one fleet after the other."""
    memory, found = ScalingMemory(), list[ScalingDecision | None]()
    for at, view in enumerate(views):
        decision, memory = decide(view, memory, config, at * every_s)
        found.append(decision)
    return found


def test_it_is_off_unless_a_maximum_is_told() -> None:
    assert not ScalingConfig().on
    assert ScalingConfig(max_instances=2).on
    assert not ScalingConfig(max_instances=2, min_instances=2).on


def test_too_little_room_for_a_whole_window_orders_one_machine() -> None:
    assert decisions([view_of(BUSY)] * 11, CONFIG) == [None] * 10 + [ScaleOut()]


def test_too_much_room_for_a_whole_window_gives_one_back() -> None:
    calm = view_of(CALM, load("calmer", 900, 10))
    assert decisions([calm] * 11, CONFIG)[:10] == [None] * 10
    assert decisions([calm] * 11, CONFIG)[10] == ScaleIn(InstanceId("calmer"))


@pytest.mark.parametrize("extreme", [view_of(BUSY), view_of(CALM, CALM)])
def test_one_look_within_the_thresholds_begins_the_window_anew(extreme: ScalingView) -> None:
    views = [extreme] * 10 + [view_of(FAIR, FAIR)] + [extreme] * 11
    assert [at for at, found in enumerate(decisions(views, CONFIG)) if found] == [21]


def test_between_the_thresholds_the_fleet_keeps_its_size() -> None:
    assert set(decisions([view_of(FAIR, FAIR)] * 100, CONFIG)) == {None}


def test_after_a_decision_there_is_a_while_without_one() -> None:
    """Thirty seconds from one to the next, though a window of ten has long passed."""
    found = decisions([view_of(BUSY)] * 71, CONFIG)
    assert [at for at, one in enumerate(found) if one] == [10, 40, 70]


def test_an_imbalance_alone_orders_no_machine() -> None:
    """The mean is below zero, but an even spread leaves much: that is for the rebalance."""
    view = view_of(*named(load("full", 12_000, 1), CALM, CALM))
    assert mean_freeness(view) < 0
    assert spread_freeness(view, ~view.snapshot.terminating, 0) > CONFIG.high_steps
    assert not too_small(view, CONFIG)


def test_what_the_frontend_holds_makes_the_fleet_small() -> None:
    assert not too_small(view_of(CALM), CONFIG)
    assert too_small(view_of(CALM, held=(20, 20_000)), CONFIG)
    assert mean_freeness(view_of(CALM, held=(10, 1_000))) == (10_000 - 2_000) / 20


def test_machines_on_their_way_are_counted() -> None:
    """No more are ordered than an even spread needs, and none given back meanwhile."""
    busy = named(BUSY, BUSY)
    assert too_small(view_of(*busy, starting=0), CONFIG)
    assert not too_small(view_of(*busy, starting=1), CONFIG)
    calm = named(CALM, CALM)
    assert too_large(view_of(*calm), CONFIG)
    assert not too_large(view_of(*calm, starting=1), CONFIG)


def test_what_is_being_drained_still_needs_a_place() -> None:
    """Its memory is gone and its load is not."""
    leaving = load("leaving", 9_000, 40, terminating=True)
    assert too_large(view_of(*named(CALM, CALM)), CONFIG)
    assert not too_large(view_of(*named(CALM, CALM), leaving), CONFIG)
    assert mean_freeness(view_of(CALM, leaving)) == mean_freeness(view_of(CALM))


def test_what_died_is_made_up_for_at_once_and_once() -> None:
    config = dataclasses.replace(CONFIG, min_instances=2)
    assert decide(view_of(FAIR), ScalingMemory(), config, 0.0)[0] == ScaleOut()
    assert decide(view_of(FAIR, starting=1), ScalingMemory(), config, 0.0)[0] is None
    assert decide(view_of(), ScalingMemory(), config, 0.0)[0] == ScaleOut()


@law
@given(loads=load_lists(), starting=st.integers(0, 3), held=st.integers(0, 50_000))
def test_equal_looks_give_equal_decisions(
    loads: list[InstanceLoad], starting: int, held: int
) -> None:
    """And leave what was looked at as it was."""
    view = view_of(*loads, starting=starting, held=(held // 100, held))
    before = copy.deepcopy(view)
    first = decide(view, ScalingMemory(0.0, 0.0), AT_ONCE, 99.0)
    assert decide(view, ScalingMemory(0.0, 0.0), AT_ONCE, 99.0) == first
    for one in dataclasses.fields(view.snapshot):
        assert np.array_equal(getattr(view.snapshot, one.name), getattr(before.snapshot, one.name))


@law
@given(loads=load_lists())
def test_the_mean_is_that_of_the_freeness_all_policies_see(loads: list[InstanceLoad]) -> None:
    """Of the instances that take requests."""
    snapshot = fleet(*loads)
    free = freeness(snapshot, NO_HEADROOM, "whole")[~snapshot.terminating]
    assume(len(free))
    assert mean_freeness(view_of(*loads)) == free.mean()


@law
@given(loads=load_lists(), held=st.integers(0, 50_000))
def test_an_order_is_not_followed_by_a_return_at_an_unchanged_load(
    loads: list[InstanceLoad], held: int
) -> None:
    """However many were ordered and have come, idle as they are, and wherever requests wait."""
    loads = named(*loads)
    view = view_of(*loads, held=(held // 100, held))
    memory, orders = ScalingMemory(), 0
    while orders < 4:
        ordered = dataclasses.replace(view, starting=orders)
        decision, memory = decide(ordered, memory, UNBOUNDED, float(orders))
        if decision != ScaleOut():
            break
        orders += 1
    assume(orders)
    grown = view_of(*named(*loads, *[load("new")] * orders), held=(held // 100, held))
    assert not too_large(grown, CONFIG)


@law
@given(loads=load_lists(min_size=2), place=st.integers(0, 5))
def test_a_return_is_not_followed_by_an_order_at_an_unchanged_load(
    loads: list[InstanceLoad], place: int
) -> None:
    """Wherever the requests of the drained instance went."""
    loads = named(*loads)
    decision, _ = decide(view_of(*loads), ScalingMemory(), AT_ONCE, 0.0)
    assume(isinstance(decision, ScaleIn))
    assert isinstance(decision, ScaleIn)
    gone = next(one for one in loads if one.instance_id == decision.instance_id)
    left = [one for one in loads if one is not gone]
    at = place % len(left)
    heir = left[at]
    left[at] = dataclasses.replace(
        heir,
        physical_tokens=heir.physical_tokens + gone.physical_tokens,
        reserved_tokens=heir.reserved_tokens + gone.reserved_tokens,
        queued_demand_tokens=heir.queued_demand_tokens + gone.queued_demand_tokens,
        running=tuple(a + b for a, b in zip(heir.running, gone.running, strict=True)),
        waiting=tuple(a + b for a, b in zip(heir.waiting, gone.waiting, strict=True)),
    )
    assert not too_small(view_of(*left), CONFIG)


@law
@given(
    looks=st.lists(st.sampled_from([BUSY, FAIR, CALM, load("idle")]), min_size=30, max_size=60),
    least=st.integers(1, 3),
    most=st.integers(3, 6),
    delay=st.integers(0, 5),
)
def test_there_are_never_fewer_than_the_least_nor_more_than_the_most(
    looks: list[InstanceLoad], least: int, most: int, delay: int
) -> None:
    """Machines that start and drain for a while included, whatever the load does."""
    config = dataclasses.replace(AT_ONCE, min_instances=least, max_instances=most)
    memory, taking, starting, draining = ScalingMemory(), least, list[int](), list[int]()
    for now, shown in enumerate(looks):
        taking += starting.count(now)
        starting = [at for at in starting if at > now]
        draining = [at for at in draining if at > now]
        leaving = dataclasses.replace(shown, terminating=True)
        view = view_of(*[shown] * taking, *[leaving] * len(draining), starting=len(starting))
        decision, memory = decide(view, memory, config, float(now))
        if decision == ScaleOut():
            starting.append(now + delay + 1)
        elif decision is not None:
            taking -= 1
            draining.append(now + delay + 1)
        assert taking + len(starting) >= least
        assert taking >= min(least, taking + len(starting))
        assert taking + len(starting) + len(draining) <= most


@law
@given(loads=load_lists())
def test_the_cheapest_to_drain_has_the_fewest_tokens_to_move(loads: list[InstanceLoad]) -> None:
    """Of those that take requests; of equals the one with fewer requests, then the later one."""
    view = view_of(*loads)
    rows = [row for row, one in enumerate(loads) if not one.terminating]
    assume(rows)
    chosen = cheapest_to_drain(view)
    assert chosen in rows

    def cost(row: int) -> tuple[int, int, int]:
        one = loads[row]
        return one.physical_tokens, sum(one.running) + sum(one.waiting), -row

    assert all(cost(chosen) <= cost(row) for row in rows)


@law
@given(loads=load_lists(), more=st.integers(1, 3))
def test_more_machines_never_make_an_even_spread_tighter(
    loads: list[InstanceLoad], more: int
) -> None:
    view = view_of(*named(*loads))
    everybody = np.ones(len(loads), dtype=np.bool_)
    grown = spread_freeness(view, everybody, more)
    assert grown > spread_freeness(view, everybody, more - 1)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"min_instances": 0}, "min_instances must be at least 1"),
        ({"min_instances": 7}, "max_instances .6. must not be less than min_instances .7."),
        ({"low_steps": 256}, "must be less than high_steps"),
        ({"window_s": -1}, "window_s must not be negative"),
        ({"cooldown_s": float("nan")}, "cooldown_s must not be negative"),
    ],
)
def test_nonsense_is_refused(changes: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(CONFIG, **changes)  # type: ignore[arg-type]
