"""The global scheduler: vetoes, what is in flight, and how it is told of endings."""

from collections.abc import Callable

import numpy as np
import pytest

from policies.moves.config import RebalanceConfig
from policies.moves.order_book import OrderBook
from policies.registry import PolicySpec, UnknownPolicyError
from policies.scheduler import DEFAULT_CLASSES, GlobalScheduler, SchedulerConfig
from policies.types import (
    Explanation,
    FleetSnapshot,
    Hold,
    InstanceId,
    MigrateOrder,
    MigrateReason,
    PriorityClass,
    RequestId,
)
from policies.vetoes import order_veto
from tests.policies.fleets import HIGH, PAPER_CLASSES, chosen, fleet, load, request, scheduler

FULL, FREE = load("full", 9_700, 10), load("free", 2_000, 10)
A, B = InstanceId("full"), InstanceId("free")


def order(source: str = "full", destination: str = "free") -> MigrateOrder:
    names = InstanceId(source), InstanceId(destination)
    return MigrateOrder(*names, 500, MigrateReason.REBALANCE, Explanation("test"))


# --- dispatch -------------------------------------------------------------------------------


def test_confirmed_and_forgotten_requests_are_in_flight_no_more() -> None:
    brain = scheduler()
    snapshot = fleet(load("a"))
    for name in ("r1", "r2", "r3"):
        brain.dispatch(request(name), snapshot, 0.0)
    brain.confirm(InstanceId("a"), [RequestId("r1")])
    brain.forget(RequestId("r2"))

    assert brain.ledger.fill_in(snapshot).in_flight_requests.tolist() == [1]
    brain.instance_gone(InstanceId("a"))
    assert brain.ledger.fill_in(snapshot).in_flight_requests.tolist() == [0]


def test_lost_reports_do_not_count_for_ever() -> None:
    brain = scheduler()
    snapshot = fleet(load("a"))
    brain.dispatch(request("r1"), snapshot, 0.0)
    brain.dispatch(request("r2"), snapshot, brain.config.ledger_timeout_s + 0.1)

    assert brain.ledger.fill_in(snapshot).in_flight_requests.tolist() == [1]


def test_an_old_report_is_avoided_while_there_is_a_better_one() -> None:
    old = load("old", reported_at_s=0.0)
    fresh = load("fresh", 5_000, 5, reported_at_s=9.0)
    decision = scheduler().dispatch(request(), fleet(old, fresh, now_s=10.0), 10.0)

    assert chosen(decision) == "fresh"
    assert decision.explanation.vetoed == {"old": "its report is older than 5 s"}
    assert chosen(scheduler().dispatch(request(), fleet(old, now_s=10.0), 10.0)) == "old"


def test_an_instance_too_small_is_avoided_while_there_is_a_larger_one() -> None:
    small, large = load("small"), load("large", 15_000, 5, capacity=30_000)
    decision = scheduler().dispatch(request(tokens=10_001), fleet(small, large), 0.0)

    assert chosen(decision) == "large"
    assert decision.explanation.vetoed == {"small": "smaller than 10001 tokens"}


def test_a_decision_explains_itself() -> None:
    decision = scheduler().dispatch(request(), fleet(load("a", 4_000, 3), load("b")), 0.0)

    assert decision.explanation.policy == "freeness"
    assert decision.explanation.scores == {"a": 2_000.0, "b": 10_000.0}


def test_an_unknown_policy_is_refused_when_the_scheduler_is_built() -> None:
    with pytest.raises(UnknownPolicyError, match=r"there are: .*freeness"):
        scheduler("frenes")


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda: SchedulerConfig(default_class="bulk"), "'bulk' is not among the classes"),
        (lambda: SchedulerConfig(classes=(PriorityClass("normal"),) * 2), "must differ"),
        (lambda: SchedulerConfig(max_age_s=0.0), "max_age_s must be positive"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(
    bad: Callable[[], SchedulerConfig], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        bad()


# --- vetoes of migrations -------------------------------------------------------------------

LEAVING = load("free", terminating=True)
STALE = load("free", reported_at_s=-6.0)


@pytest.mark.parametrize(
    ("snapshot", "proposed", "reason"),
    [
        (fleet(FULL, FREE), order(), None),
        (fleet(FULL, FREE), order("free", "free"), "the same"),
        (fleet(FULL, FREE), order("full", "nobody"), "nobody is unknown"),
        (fleet(FULL, FREE), order("nobody", "free"), "nobody is unknown"),
        (fleet(FULL, LEAVING), order(), "free is terminating"),
        (fleet(FULL, STALE), order(), "report of free is older than 5 s"),
    ],
)
def test_what_no_policy_may_order(
    snapshot: FleetSnapshot, proposed: MigrateOrder, reason: str | None
) -> None:
    veto = order_veto(proposed, snapshot, OrderBook(RebalanceConfig()), 0.0)

    assert veto is None if reason is None else veto is not None and reason in veto


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        (RebalanceConfig(max_concurrent=1), "1 migrations are under way"),
        (RebalanceConfig(max_concurrent_in=5), "full is already moving away"),
        (RebalanceConfig(max_concurrent_in=1, max_concurrent_out=5), "free is already taking in"),
    ],
)
def test_caps_are_kept_whatever_the_policy(config: RebalanceConfig, reason: str) -> None:
    book = OrderBook(config)
    book.begin(order(), 0.0)
    veto = order_veto(order(), fleet(FULL, FREE), book, 0.0)

    assert veto is not None
    assert reason in veto


# --- rebalance over time --------------------------------------------------------------------


def test_an_order_is_under_way_until_it_ended_and_both_reported_anew() -> None:
    brain = scheduler()
    assert len(brain.rebalance(fleet(FULL, FREE), 0.0)) == 1
    assert brain.rebalance(fleet(FULL, FREE), 0.25) == []

    brain.order_ended(A, B, 0.4, moved=True)
    assert brain.rebalance(fleet(FULL, FREE, now_s=0.5), 0.5) == []
    assert [veto.reason for veto in brain.vetoed] == ["full has not reported since its last move"]
    anew = [load("full", 9_700, 10, reported_at_s=0.6), load("free", 2_000, 10, reported_at_s=0.6)]
    assert len(brain.rebalance(fleet(*anew, now_s=0.75), 0.75)) == 1


def test_a_pair_whose_order_came_to_nothing_is_left_alone_for_a_while() -> None:
    brain = scheduler(rebalance=RebalanceConfig(retry_after_s=2.0))
    brain.rebalance(fleet(FULL, FREE), 0.0)
    brain.order_ended(A, B, 0.5, moved=False)

    assert brain.rebalance(fleet(FULL, FREE), 1.0) == []
    assert "failed a moment ago" in brain.vetoed[0].reason
    assert len(brain.rebalance(fleet(FULL, FREE), 2.6)) == 1


def test_a_lost_order_expires_and_a_gone_instance_leaves_none() -> None:
    brain = scheduler(rebalance=RebalanceConfig(order_timeout_s=1.0, retry_after_s=0.5))
    brain.rebalance(fleet(FULL, FREE), 0.0)
    assert brain.rebalance(fleet(FULL, FREE), 1.1) == []
    assert brain.orders.active() == ()

    assert len(brain.rebalance(fleet(FULL, FREE), 2.0)) == 1
    brain.instance_gone(B)
    assert brain.orders.active() == ()


def test_of_several_orders_of_a_pair_one_end_ends_one() -> None:
    brain = scheduler()
    for now_s in (0.0, 0.1, 0.2):
        brain.order_started(order(), now_s)
    brain.order_ended(A, B, 0.5, moved=True)

    assert [active.started_at_s for active in brain.orders.active()] == [0.1, 0.2]


def test_an_order_by_hand_counts_like_any_other() -> None:
    brain = scheduler()
    brain.order_started(order(), 0.0)

    assert brain.rebalance(fleet(FULL, FREE), 0.25) == []
    brain.order_ended(A, B, 0.5, moved=False)
    assert brain.orders.active() == ()


def test_nothing_is_ordered_while_migration_is_off() -> None:
    leaving = load("full", 9_700, 10, terminating=True)

    assert scheduler(migration=False).rebalance(fleet(leaving, FREE), 0.0) == []
    assert scheduler().rebalance(fleet(), 0.0) == []


def test_a_request_held_back_is_seen_by_the_rebalance() -> None:
    """Late binding must not hide the head of the line: an instance is de-fragmented for it."""
    brain = scheduler()
    snapshot = fleet(load("a", 6_000, 3), load("b", 6_500, 3))
    assert brain.rebalance(snapshot, 0.0) == []

    assert isinstance(brain.dispatch(request("giant", 5_000), snapshot, 0.1), Hold)
    (move,) = brain.rebalance(snapshot, 0.25)
    assert (move.source, move.destination) == ("a", "b")

    brain.order_ended(move.source, move.destination, 0.3, moved=False)
    brain.forget(RequestId("giant"))
    assert brain.rebalance(snapshot, 2.0) == []


# --- two classes ----------------------------------------------------------------------------


def test_urgent_requests_lower_freeness_by_one_headroom_however_many_run() -> None:
    brain = GlobalScheduler(
        SchedulerConfig(classes=(PriorityClass("high", 6_000), PriorityClass("normal")))
    )
    one = fleet(load("i", 2_000, 3, high=1))
    three = fleet(load("i", 2_000, 1, high=3))
    none = fleet(load("i", 2_000, 4))

    assert brain.freeness(one).tolist() == brain.freeness(three).tolist() == [500.0]
    assert brain.freeness(none).tolist() == [2_000.0]


def test_normal_requests_are_moved_away_from_an_urgent_one() -> None:
    """Headroom alone makes the instance a source, and the bound is for the normal ones."""
    brain = GlobalScheduler(SchedulerConfig(PAPER_CLASSES))
    capacity = 13_616
    snapshot = fleet(
        load("urgent", 6_000, 5, high=1, capacity=capacity),
        load("other", 6_000, 6, capacity=capacity),
    )
    (move,) = brain.rebalance(snapshot, 0.0)

    assert (move.source, move.destination) == ("urgent", "other")
    assert move.max_context_tokens > 1_000


def test_no_class_has_headroom_unless_it_is_configured() -> None:
    """How much a class needs depends on the model and the GPU: no default is right for another."""
    brain = GlobalScheduler(SchedulerConfig())
    urgent, usual = fleet(load("i", 2_000, 3, high=1)), fleet(load("i", 2_000, 4))

    assert brain.freeness(urgent).tolist() == brain.freeness(usual).tolist() == [2_000.0]


def test_the_order_of_classes_is_the_callers_and_n_is_free() -> None:
    classes = (*DEFAULT_CLASSES, PriorityClass("batch"))
    brain = GlobalScheduler(SchedulerConfig(classes=classes, dispatch=PolicySpec("least-requests")))
    loads = [load("a"), load("b")]
    snapshot = FleetSnapshot.of(loads, 0.0, classes=3)

    assert chosen(brain.dispatch(request(class_index=HIGH), snapshot, 0.0)) == "a"
    assert np.isfinite(brain.freeness(snapshot)).all()
