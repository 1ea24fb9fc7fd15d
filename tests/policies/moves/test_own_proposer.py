"""The proposer in policies/README.md works as printed; and whoever proposes, the rules are kept."""

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.groups import Group
from policies.moves.config import RebalanceConfig
from policies.moves.proposers import DEFAULT_MOVES, move_policies
from policies.moves.view import MovesView
from policies.registry import NoParams, PolicySpec, UnknownPolicyError
from policies.scheduler import GlobalScheduler, SchedulerConfig
from policies.types import (
    Explanation,
    FleetSnapshot,
    InstanceId,
    InstanceLoad,
    MigrateOrder,
)
from tests.policies.fleets import PLAIN_CLASSES, fleet, law, load, load_lists
from tests.policies.test_own_policy import README

Proposer = Callable[[MovesView], list[MigrateOrder]]


@pytest.fixture(name="registry", autouse=True)
def _registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget what a test registers."""
    monkeypatch.setattr(move_policies, "_entries", dict(move_policies._entries))


def brain_with(*proposers: Proposer, config: RebalanceConfig) -> GlobalScheduler:
    """Build a scheduler whose shipped proposers share the slots with these, which come last."""
    brain = GlobalScheduler(SchedulerConfig(classes=PLAIN_CLASSES, rebalance=config))
    brain._proposers += proposers
    return brain


def test_the_example_in_the_readme_works() -> None:
    *_, proposer, test = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    namespace: dict[str, object] = {"__name__": __name__}
    exec(proposer, namespace)  # the README's own lines
    exec(test, namespace)
    law_of_the_readme = namespace["test_the_longest_batch_gives_a_request_away"]
    assert callable(law_of_the_readme)
    law_of_the_readme()

    assert move_policies.names() == ("drain", "level", "rebalance")
    assert len([line for line in proposer.splitlines() if line.strip()]) <= 15


def test_proposers_are_asked_in_the_order_of_the_configuration() -> None:
    """The first has the slot; with the order turned round, the other has it."""

    @move_policies.register("contrary", NoParams)
    def contrary(view: MovesView, _: NoParams) -> list[MigrateOrder]:
        return [order_of("full", "other")][: view.slots]

    snapshot = fleet(load("full", 9_700, 10), load("free", 1_000, 10), load("other", 5_000, 10))
    one_slot = RebalanceConfig(max_concurrent=1)
    given = {}
    for names in (("rebalance", "contrary"), ("contrary", "rebalance")):
        moves = tuple(map(PolicySpec, names))
        brain = GlobalScheduler(SchedulerConfig(moves=moves, rebalance=one_slot))
        given[names[0]] = [one.destination for one in brain.rebalance(snapshot, 0.0)]

    assert given == {"rebalance": ["free"], "contrary": ["other"]}


def test_an_unknown_proposer_is_refused_when_the_scheduler_is_built() -> None:
    with pytest.raises(UnknownPolicyError, match="there are: drain, rebalance"):
        GlobalScheduler(SchedulerConfig(moves=(PolicySpec("shuffle"),)))


def test_without_the_drain_a_leaving_instance_keeps_what_runs() -> None:
    leaving, free = load("leaving", 9_700, 10, terminating=True), load("free", 1_000, 10)
    rebalance_alone = SchedulerConfig(moves=(PolicySpec("rebalance"),))

    assert GlobalScheduler(rebalance_alone).rebalance(fleet(leaving, free), 0.0) == []
    assert GlobalScheduler(SchedulerConfig()).rebalance(fleet(leaving, free), 0.0) != []
    assert SchedulerConfig().moves == DEFAULT_MOVES


def order_of(source: str, destination: str, tokens: int = 1_000) -> MigrateOrder:
    why = Explanation("toy")
    return MigrateOrder(InstanceId(source), InstanceId(destination), tokens, "toy", why)


def test_a_proposer_is_shown_what_those_before_it_have_left() -> None:
    """Slots less what they proposed, and the room that takes at the destination."""
    views: list[MovesView] = []

    def watch(view: MovesView) -> list[MigrateOrder]:
        views.append(view)
        return [order_of("full", "free", 700)]

    brain = brain_with(watch, watch, config=RebalanceConfig(max_concurrent=4))
    snapshot = fleet(load("full", 9_700, 10), load("free", 1_000, 10))
    (relief,) = brain.rebalance(snapshot, 0.0)
    first, second = views

    assert (first.slots, second.slots) == (3, 2)
    assert first.slots_out.tolist() == [0, 1]
    assert (first.slots_in.tolist(), second.slots_in.tolist()) == ([2, 1], [2, 0])
    assert first.snapshot.in_flight_tokens.tolist() == [0, relief.max_context_tokens]
    assert second.snapshot.in_flight_tokens.tolist() == [0, relief.max_context_tokens + 700]
    assert second.snapshot.in_flight_requests.tolist() == [0, 2]
    assert snapshot.in_flight_tokens.tolist() == [0, 0]
    assert [veto.order for veto in brain.vetoed] == [order_of("full", "free", 700)] * 2


# --- whoever proposes, whatever ---------------------------------------------------------------

GROUPS = [Group(frozenset({"small"})), Group(frozenset({"large"}))]
NAMES = [f"i{row}" for row in range(6)] + ["nobody"]
CONFIGS = st.builds(
    RebalanceConfig,
    max_concurrent=st.integers(0, 5),
    max_concurrent_out=st.integers(1, 3),
    max_concurrent_in=st.integers(1, 3),
    max_concurrent_drain=st.integers(1, 4),
    retry_after_s=st.just(2.0),
)
ORDERS = st.lists(st.builds(order_of, st.sampled_from(NAMES), st.sampled_from(NAMES)), max_size=8)


class Rules:
    """What must hold of the orders of every round, counted here a second time."""

    def __init__(self, config: RebalanceConfig, groups: dict[str, Group]) -> None:
        self.config = config
        self.groups = groups
        self.under_way: list[MigrateOrder] = []
        self.failed_at_s: dict[tuple[str, str], float] = {}
        self.moved_at_s: dict[str, float] = {}

    def check(self, orders: list[MigrateOrder], loads: list[InstanceLoad], now_s: float) -> None:
        at = {one.instance_id: one for one in loads}
        for order in orders:
            pair = order.source, order.destination
            source, destination = at[order.source], at[order.destination]
            assert order.source != order.destination
            assert self.groups[order.source] == self.groups[order.destination]
            assert not destination.terminating
            for one in (source, destination):
                assert now_s - one.reported_at_s <= self.config.max_age_s
                assert one.reported_at_s >= self.moved_at_s.get(one.instance_id, 0.0)
            failed_at_s = self.failed_at_s.get(pair)
            assert failed_at_s is None or now_s >= failed_at_s + self.config.retry_after_s
        self.under_way += orders
        assert len(self.under_way) <= self.config.max_concurrent
        out = Counter(order.source for order in self.under_way)
        into = Counter(order.destination for order in self.under_way)
        for order in orders:
            caps = self.config.max_concurrent_out, self.config.max_concurrent_drain
            assert out[order.source] <= caps[at[order.source].terminating]
            assert into[order.destination] <= self.config.max_concurrent_in

    def end(self, order: MigrateOrder, now_s: float, *, moved: bool) -> None:
        self.under_way.remove(order)
        if moved:
            self.moved_at_s[order.source] = self.moved_at_s[order.destination] = now_s
        else:
            self.failed_at_s[order.source, order.destination] = now_s


@law
@given(
    loads=load_lists(min_size=2),
    groups=st.lists(st.sampled_from(GROUPS), min_size=6, max_size=6),
    config=CONFIGS,
    rounds=st.integers(1, 5),
    data=st.data(),
)
def test_the_union_of_all_proposals_keeps_slots_pauses_and_vetoes(
    loads: list[InstanceLoad],
    groups: list[Group],
    config: RebalanceConfig,
    rounds: int,
    data: st.DataObject,
) -> None:
    """Two proposers that ask for anything, one before and one after drain and rebalance."""
    brain = brain_with(lambda _: data.draw(ORDERS), config=config)
    brain._proposers.insert(0, lambda _: data.draw(ORDERS))
    rules = Rules(config, dict(zip(NAMES, groups, strict=False)))
    now_s = 0.0
    for _ in range(rounds):
        snapshot = FleetSnapshot.of(loads, now_s, classes=2, groups=groups[: len(loads)])
        orders = brain.rebalance(snapshot, now_s)
        rules.check(orders, loads, now_s)
        now_s += data.draw(st.sampled_from([0.25, 1.0, 3.0]))
        for order in list(rules.under_way):
            if data.draw(st.booleans()):
                moved = data.draw(st.booleans())
                rules.end(order, now_s, moved=moved)
                brain.order_ended(order.source, order.destination, now_s, moved=moved)
        loads = [
            replace(one, reported_at_s=now_s) if data.draw(st.booleans()) else one for one in loads
        ]


@law
@given(loads=load_lists(min_size=2), config=CONFIGS)
def test_a_proposer_that_wants_nothing_changes_nothing(
    loads: list[InstanceLoad], config: RebalanceConfig
) -> None:
    alone, beside = brain_with(config=config), brain_with(lambda _: [], config=config)

    assert beside.rebalance(fleet(*loads), 0.0) == alone.rebalance(fleet(*loads), 0.0)


@law
@given(loads=load_lists(min_size=2), config=CONFIGS)
def test_shipped_proposers_never_ask_for_more_than_they_are_shown(
    loads: list[InstanceLoad], config: RebalanceConfig
) -> None:
    """Together they propose within the slots: what is vetoed is so for other reasons."""
    brain = brain_with(config=config)
    orders = brain.rebalance(fleet(*loads), 0.0)

    assert not brain.vetoed
    assert len(orders) <= config.max_concurrent
    assert np.all(brain.orders.slots_in(fleet(*loads)) >= 0)
