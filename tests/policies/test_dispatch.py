"""Where requests go: each policy by example, and the laws all of them keep."""

from collections import Counter

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies import columns
from policies.dispatch import dispatch_policies
from policies.types import Dispatch, Hold, InstanceLoad
from tests.policies.fleets import (
    HIGH,
    PAPER_CLASSES,
    chosen,
    dispatch_all,
    fleet,
    law,
    load,
    load_lists,
    request,
    scheduler,
    spread,
)

POLICIES = ("freeness", "least-requests", "load-aware", "power-of-two", "random", "round-robin")
COUNTING = ("freeness", "least-requests", "load-aware", "round-robin")
SCORING = ("freeness", "least-requests", "load-aware")


@pytest.mark.parametrize(
    ("policy", "loads", "winner"),
    [
        ("freeness", [load("a", 2_000, 8), load("b", 6_000, 2)], "b"),
        ("freeness", [load("a", 5_000, 5), load("b", 1_000, 5, waiting=9, queued=8_000)], "a"),
        ("freeness", [load("a", 5_000, 5), load("b", 4_900, 5, reserved=200)], "a"),
        ("load-aware", [load("a", 2_000, 8), load("b", 6_000, 2)], "a"),
        ("load-aware", [load("a", 3_000, 5), load("b", 1_000, 5, waiting=9, queued=3_000)], "a"),
        ("load-aware", [load("a", 4_000, 5), load("b", 5_000, 5, capacity=20_000)], "b"),
        ("least-requests", [load("a", 2_000, 8), load("b", 6_000, 2)], "b"),
        ("least-requests", [load("a", 100, 3), load("b", 100, 1, waiting=3, queued=9)], "a"),
        ("power-of-two", [load("a", 2_000, 8), load("b", 6_000, 2)], "b"),
    ],
)
def test_each_policy_by_example(policy: str, loads: list[InstanceLoad], winner: str) -> None:
    assert chosen(scheduler(policy).dispatch(request(), fleet(*loads), 0.0)) == winner


def test_round_robin_goes_round() -> None:
    snapshot = fleet(load("a"), load("b", 9_000, 30), load("c"))

    assert dispatch_all(scheduler("round-robin"), snapshot, 7) == list("abcabca")


def test_random_depends_on_the_seed_alone_and_is_even() -> None:
    snapshot = fleet(*(load(name) for name in "abcd"))
    draws = dispatch_all(scheduler("random", seed=3), snapshot, 400)

    assert draws == dispatch_all(scheduler("random", seed=3), snapshot, 400)
    assert draws != dispatch_all(scheduler("random", seed=4), snapshot, 400)
    assert min(Counter(draws).values()) > 60


def test_power_of_two_compares_two_different_ones() -> None:
    snapshot = fleet(load("a", 10, 500), load("b", 10, 1))

    assert set(dispatch_all(scheduler("power-of-two"), snapshot, 60)) == {"b"}


def test_power_of_two_never_takes_the_worst_of_a_fleet() -> None:
    snapshot = fleet(load("a", 10, 1), load("b", 10, 2), load("c", 10, 500))

    assert set(dispatch_all(scheduler("power-of-two"), snapshot, 60)) == {"a", "b"}


@pytest.mark.parametrize("policy", COUNTING)
@law
@given(n=st.integers(1, 60), k=st.integers(1, 8), running=st.integers(0, 12))
def test_a_burst_on_one_stale_snapshot_spreads_evenly(
    policy: str, n: int, k: int, running: int
) -> None:
    """The in-flight ledger prevents herding: equal instances differ by one request at most."""
    names = [f"i{row}" for row in range(k)]
    snapshot = fleet(*(load(name, running * 50, running, capacity=50_000) for name in names))

    assert spread(dispatch_all(scheduler(policy), snapshot, n), names) <= 1


def test_an_instance_that_just_came_up_does_not_swallow_a_burst() -> None:
    """What is in flight will share the room: it counts in the batch as well as in the memory."""
    snapshot = fleet(load("new"), load("old", 4_000, 10))
    sent = dispatch_all(scheduler(), snapshot, 40, tokens=50)

    assert sent.count("old") >= 5


@pytest.mark.parametrize("policy", POLICIES)
@law
@given(loads=load_lists(), seed=st.integers(0, 99), tokens=st.integers(1, 12_000))
def test_a_terminating_instance_gets_nothing(
    policy: str, loads: list[InstanceLoad], seed: int, tokens: int
) -> None:
    terminating = {one.instance_id for one in loads if one.terminating}
    decision = scheduler(policy, seed=seed).dispatch(request(tokens=tokens), fleet(*loads), 0.0)

    if isinstance(decision, Dispatch):
        assert decision.instance_id not in terminating
    elif len(terminating) == len(loads):
        assert isinstance(decision, Hold)
    for instance_id in terminating:
        assert decision.explanation.vetoed[instance_id] == "terminating"


@pytest.mark.parametrize("policy", SCORING)
@law
@given(loads=load_lists(), data=st.data())
def test_the_order_of_instances_does_not_matter(
    policy: str, loads: list[InstanceLoad], data: st.DataObject
) -> None:
    """A permutation may choose another of equally good instances, never a worse one."""
    shuffled = data.draw(st.permutations(loads))
    one = scheduler(policy).dispatch(request(), fleet(*loads), 0.0)
    other = scheduler(policy).dispatch(request(), fleet(*shuffled), 0.0)

    assert type(one) is type(other)
    if isinstance(one, Dispatch) and isinstance(other, Dispatch):
        scores = one.explanation.scores
        assert scores == other.explanation.scores
        assert scores[one.instance_id] == scores[other.instance_id]


@pytest.mark.parametrize("policy", POLICIES)
def test_equal_calls_give_equal_decisions(policy: str) -> None:
    snapshot = fleet(load("a", 4_000, 3), load("b", 3_000, 3), load("c"))

    assert dispatch_all(scheduler(policy, seed=7), snapshot, 40) == dispatch_all(
        scheduler(policy, seed=7), snapshot, 40
    )


def test_ties_go_to_the_fewest_pending_then_in_rotation() -> None:
    pending = np.array([1, 0, 0])
    everywhere, not_first = np.array([True, True, True]), np.array([False, True, True])

    def best(scores: list[float], eligible: npt.NDArray[np.bool_], turn: int) -> int:
        return columns.best(np.array(scores), eligible, pending, turn)

    assert [best([0.0, 0.0, 0.0], everywhere, turn) for turn in range(4)] == [1, 2, 1, 2]
    assert best([0.5, 0.0, 0.0], everywhere, 1) == 0
    assert best([0.5, 0.0, 0.0], not_first, 1) == 2


def test_headroom_sends_normal_requests_away_from_urgent_ones() -> None:
    snapshot = fleet(load("urgent", 500, 0, high=1), load("busy", 7_000, 10))

    assert chosen(scheduler().dispatch(request(), snapshot, 0.0)) == "urgent"
    protected = scheduler(classes=PAPER_CLASSES)
    assert chosen(protected.dispatch(request(), snapshot, 0.0)) == "busy"
    assert chosen(protected.dispatch(request("h", class_index=HIGH), snapshot, 0.0)) == "busy"


def test_the_table_covers_every_shipped_policy() -> None:
    assert set(POLICIES) <= set(dispatch_policies.names())
