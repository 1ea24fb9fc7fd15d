"""Draining: a terminating instance gives everything away, to whoever has room."""

from hypothesis import assume, given

from policies.types import MigrateOrder
from tests.policies.fleets import fleet, law, load, scheduler
from tests.policies.toy_fleet import CAPACITY, ToyFleet, toy_fleets

LEAVING = load("leaving", 3_000, 6, terminating=True)


def pairs(orders: list[MigrateOrder]) -> list[tuple[str, str]]:
    return [(order.source, order.destination) for order in orders]


def test_a_drain_goes_to_the_freest_even_below_the_high_threshold() -> None:
    crowded, fuller = load("crowded", 9_300, 10), load("fuller", 9_800, 10)
    orders = scheduler().rebalance(fleet(LEAVING, fuller, crowded), 0.0)

    assert pairs(orders)[0] == ("leaving", "crowded")
    assert {order.reason for order in orders} == {"drain"}
    assert orders[0].max_context_tokens == 700


def test_several_requests_leave_at_once_and_only_so_many() -> None:
    brain = scheduler()
    snapshot = fleet(LEAVING, load("a"), load("b"), load("c"))

    assert len(brain.rebalance(snapshot, 0.0)) == brain.config.rebalance.max_concurrent_drain
    assert brain.rebalance(snapshot, 0.25) == []


def test_no_more_orders_than_requests_and_none_when_empty() -> None:
    one, none = load("i", 500, 1, terminating=True), load("i", terminating=True)

    assert len(scheduler().rebalance(fleet(one, load("a"), load("b")), 0.0)) == 1
    assert scheduler().rebalance(fleet(none, load("a")), 0.0) == []


def test_nothing_is_drained_where_there_is_no_room_or_nobody_stays() -> None:
    assert scheduler().rebalance(fleet(LEAVING, load("full", 10_000, 9)), 0.0) == []
    assert scheduler().rebalance(fleet(LEAVING, load("b", terminating=True)), 0.0) == []


@law
@given(toy=toy_fleets(terminating=True))
def test_rounds_of_orders_empty_a_terminating_instance(toy: ToyFleet) -> None:
    """Nothing stays behind where the rest of the fleet has room for the largest request."""
    leaving, *staying = toy.instances.values()
    for one in staying:
        one.head_demand_tokens = 0
    largest = max((context for context, _ in leaving.requests), default=0)
    load_left = sum(context for one in toy.instances.values() for context, _ in one.requests)
    # Room for all, whatever the fragments: each of those staying may waste less than the largest.
    assume(load_left + largest * len(staying) <= CAPACITY * len(staying))
    rounds = 0
    while leaving.requests:
        moved = [toy.carry_out(order) for order in toy.plan()]
        assert any(moved)
        rounds += 1
        assert rounds <= 200
    for one in staying:
        assert sum(context for context, _ in one.requests) <= CAPACITY


@law
@given(toy=toy_fleets(terminating=True))
def test_nothing_moves_to_a_terminating_instance(toy: ToyFleet) -> None:
    for _ in range(5):
        for order in toy.plan():
            toy.carry_out(order)
            assert order.destination != "i0"
