"""Rebalancing: who is paired with whom by example, and the laws every plan keeps."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from policies import columns
from policies.groups import Group
from policies.moves.config import RebalanceConfig
from policies.moves.plan import Plan
from policies.moves.rebalance import _relieve, find_sources, propose_relief
from policies.moves.view import MovesView
from policies.types import FleetSnapshot, InstanceId, InstanceLoad, MigrateOrder
from policies.usage import freeness
from tests.policies.fleets import fleet, law, load, load_lists
from tests.policies.toy_fleet import ToyFleet, propose, toy_fleets

CONFIG = RebalanceConfig(low_steps=50, high_steps=150, hysteresis_steps=10)


def view_of(
    snapshot: FleetSnapshot, *, slots_out: int = 1, slots_in: int = 2, slots: int = 32
) -> MovesView:
    n = len(snapshot.ids)
    out, into = np.full(n, slots_out), np.full(n, slots_in)
    return MovesView(snapshot, np.array([0, 0]), frozenset(), out, into, slots, CONFIG)


def proposed(view: MovesView) -> list[MigrateOrder]:
    return propose(replace(view, sources=find_sources(view)))


def plan(snapshot: FleetSnapshot, **slots: int) -> list[MigrateOrder]:
    return proposed(view_of(snapshot, **slots))


FULL, FULLER = load("full", 9_600, 10), load("fuller", 9_800, 10)
FREE, FREER = load("free", 6_000, 10), load("freer", 4_000, 10)
FINE = load("fine", 9_000, 10)


@pytest.mark.parametrize(
    ("loads", "pairs"),
    [
        pytest.param([FULL, FREE], [("full", "free")], id="low to high"),
        pytest.param([FINE, FREE], [], id="nobody is low"),
        pytest.param([FULL, FINE], [], id="nobody is high"),
        pytest.param(
            [FREE, FULL, FULLER, FREER],
            [("fuller", "freer"), ("full", "free")],
            id="lowest with highest",
        ),
        pytest.param([FULL, FULLER, FREE], [("fuller", "free")], id="until one side runs out"),
        pytest.param(
            [load("queue", 9_000, 10, waiting=1, queued=900), FREE],
            [("queue", "free")],
            id="the head of the line lowers freeness: de-fragmentation",
        ),
        pytest.param(
            [load("queue", 9_000, 10, waiting=3, head=100, queued=9_000), FREE],
            [],
            id="only the head of the line does",
        ),
        pytest.param(
            [FULL, load("free", 6_000, 10, waiting=5, head=100, queued=3_000)],
            [],
            id="nothing is moved in front of a queue",
        ),
        pytest.param([load("one", 9_990, 1), load("idle")], [], id="a lonely giant gains nothing"),
        pytest.param([load("queue", 0, 0, waiting=1, queued=9_999), FREE], [], id="nothing runs"),
    ],
)
def test_pairs_by_example(loads: list[InstanceLoad], pairs: list[tuple[str, str]]) -> None:
    orders = plan(fleet(*loads), slots_in=1)

    assert [(order.source, order.destination) for order in orders] == pairs


def test_an_order_explains_itself() -> None:
    (order,) = plan(fleet(FULL, FREE))

    assert order.reason == "rebalance"
    assert order.explanation.scores == {"full": 40.0, "free": 400.0}
    assert order.explanation.note.startswith("full has 40 steps left, free 400: ")


def test_the_bound_leaves_both_equally_free_at_most() -> None:
    """(400 + c) / 9 = (4000 - c) / 11 at c = 1580."""
    (order,) = plan(fleet(FULL, FREE))

    assert order.max_context_tokens == 1_580


def test_the_bound_leaves_room_for_the_headroom_a_request_brings() -> None:
    """(-1600 + c) / 3 = (6000 - 2000 - c) / 11 at c = 2114: only urgent requests could move."""
    urgent = view_of(fleet(load("urgent", 9_600, high=4), load("calm", 4_000, 10)))
    view = replace(urgent, headroom_tokens=np.array([2_000, 0]))
    (order,) = proposed(view)

    assert order.max_context_tokens == 2_114


def test_a_source_stays_one_until_it_is_clear_of_the_threshold() -> None:
    view = view_of(fleet(load("below", 9_550, 10), load("between", 9_450, 10), FINE))

    assert find_sources(view) == {"below"}
    remembered = replace(view, sources=frozenset(map(InstanceId, ("between", "fine"))))
    assert find_sources(remembered) == {"below", "between"}


def test_a_move_that_gains_too_little_is_not_made() -> None:
    greedy, modest = replace(CONFIG, min_gain_steps=200.0), replace(CONFIG, min_gain_steps=100.0)
    view = view_of(fleet(FULL, FREE))

    assert proposed(replace(view, config=greedy)) == []
    assert len(proposed(replace(view, config=modest))) == 1


@pytest.mark.parametrize(
    ("slots", "orders"),
    [
        ({"slots": 0}, 0),
        ({"slots": 1}, 1),
        ({"slots_out": 0}, 0),
        ({"slots_in": 0}, 0),
        ({"slots_in": 1}, 1),
        ({"slots_in": 2}, 2),
    ],
)
def test_no_more_moves_than_slots(slots: dict[str, int], orders: int) -> None:
    assert len(plan(fleet(FULL, FULLER, load("free")), **slots)) == orders


@pytest.mark.parametrize(
    "bad",
    [
        {"low_steps": 150.0, "hysteresis_steps": 20.0},
        {"hysteresis_steps": -1.0},
        {"interval_s": 0.0},
        {"max_concurrent_in": 0},
    ],
)
def test_thresholds_and_bounds_that_make_no_sense_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(bad))):
        replace(RebalanceConfig(), **bad)  # type: ignore[arg-type]


@law
@given(loads=load_lists(min_size=2), slots=st.integers(0, 4))
def test_every_pair_goes_uphill_within_the_slots(loads: list[InstanceLoad], slots: int) -> None:
    """The source is less free than the destination, which is neither leaving nor itself low."""
    snapshot = fleet(*loads)
    free = dict(zip(snapshot.ids, freeness(snapshot, np.array([0, 0]), "head"), strict=True))
    leaving = {one.instance_id for one in loads if one.terminating}
    orders = plan(snapshot, slots_out=slots, slots_in=slots, slots=slots)

    assert len(orders) <= slots
    for order in orders:
        assert free[order.source] < free[order.destination]
        assert order.destination not in leaving
        assert order.max_context_tokens >= 1
        assert sum(one.source == order.source for one in orders) <= slots
        assert sum(one.destination == order.destination for one in orders) <= slots


@law
@given(toy=toy_fleets())
def test_a_destination_stays_freer_than_its_source_and_is_none_itself(toy: ToyFleet) -> None:
    """Even when every order of a round moves the largest request it may."""
    orders = toy.plan()
    snapshot = toy.snapshot()
    row = {instance_id: index for index, instance_id in enumerate(snapshot.ids)}
    physical = snapshot.physical_tokens.copy()
    running = snapshot.class_running.copy()
    for order in orders:
        change = order.max_context_tokens
        physical[row[order.source]] -= change
        physical[row[order.destination]] += change
        running[row[order.source], 1] -= 1
        running[row[order.destination], 1] += 1
    after = replace(snapshot, physical_tokens=physical, class_running=running)
    free = freeness(after, toy.headroom_column(), "head")

    last_to = {order.destination: order for order in orders}
    for order in orders:
        # One that takes in more has, in between, only been the freer of each pair.
        if order is last_to[order.destination]:
            assert free[row[order.source]] <= free[row[order.destination]]
        assert free[row[order.destination]] >= toy.config.release_steps


@pytest.mark.parametrize("headroom", [0, 1_500, 8_400])
def test_no_ping_pong(headroom: int) -> None:
    """Carrying out an order and planning anew never proposes the reverse move."""

    @law
    @given(toy=toy_fleets(headroom=headroom))
    def holds(toy: ToyFleet) -> None:
        for order in toy.plan():
            least_urgent = max(kind for _, kind in toy.instances[order.source].requests)
            moved = toy.carry_out(order)
            # A plan cannot foresee that only more urgent requests are small enough.
            assume(moved is None or moved[1] == least_urgent)
            if moved is not None:
                reverse = (order.destination, order.source)
                assert all((one.source, one.destination) != reverse for one in toy.plan())

    holds()


@law
@given(toy=toy_fleets())
def test_a_fleet_that_does_not_change_comes_to_rest(toy: ToyFleet) -> None:
    """No storm: moves stop by themselves, without cooldown or limits in time."""
    moves = 0
    while carried_out := [order for order in toy.plan() if toy.carry_out(order)]:
        moves += len(carried_out)
        assert moves <= 25 * len(toy.instances)


def each_source_for_itself(view: MovesView) -> list[MigrateOrder]:
    """Look for the freest destination anew for every source, whatever was found before."""
    made: list[MigrateOrder] = []
    plan = Plan(view)
    rows = [row for row in range(len(view.snapshot.ids)) if plan.is_source[row]]
    for row in sorted(rows, key=lambda row: (plan.source_freeness[row], row)):
        able = view.slots_out[row] > 0 and plan.running[row] > 0
        if view.snapshot.terminating[row] or not able or len(made) >= view.slots:
            continue
        taking = columns.takes_moves(plan.room, plan.batch, plan.is_source, CONFIG.high_steps)
        destination = plan.freest(row, taking)
        order = None if destination is None else _relieve(plan, row, destination)
        made += [] if order is None else [order]
    return made


@law
@given(
    loads=load_lists(min_size=2),
    numbers=st.lists(st.integers(0, 1), min_size=6, max_size=6),
    slots=st.integers(0, 4),
)
def test_what_is_remembered_of_one_source_is_right_for_the_next(
    loads: list[InstanceLoad], numbers: list[int], slots: int
) -> None:
    groups = [Group(frozenset({f"m{number}"})) for number in numbers[: len(loads)]]
    view = view_of(FleetSnapshot.of(loads, 0.0, 2, groups), slots=slots, slots_in=1)
    view = replace(view, sources=find_sources(view))

    assert propose_relief(view) == each_source_for_itself(view)
