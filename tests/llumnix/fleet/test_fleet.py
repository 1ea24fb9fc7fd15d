"""The fleet driver: who may get a request, what happens when instances come and go."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from llumnix.fleet.fleet import PlacementRequest
from llumnix.instances.instance import Instance, InstanceState
from migration.llumlet.fleet_messages import EventKind, MigrationEvent
from policies.registry import PolicySpec
from policies.scheduler import SchedulerConfig
from policies.types import (
    DispatchRequest,
    Hold,
    InstanceId,
    MigrateReason,
    MigrationId,
    Reject,
    RequestId,
)
from tests.llumnix.frontend.stage import Stage, until

FREENESS = SchedulerConfig(dispatch=PolicySpec("freeness"))


@pytest.fixture(name="stage")
async def _stage() -> AsyncIterator[Stage]:
    async with Stage(3, scheduler=FREENESS) as stage:
        yield stage


def ask(name: str = "r", model: str | None = None, **more: object) -> PlacementRequest:
    request = DispatchRequest(RequestId(name), 1, 10, 0.0, model=model)
    return PlacementRequest(request, **more)  # type: ignore[arg-type]


def where(placed: Instance | Hold | Reject) -> str | None:
    return placed.id if isinstance(placed, Instance) else None


def names(*ids: str) -> frozenset[InstanceId]:
    return frozenset(map(InstanceId, ids))


async def test_dispatch_goes_where_there_is_room(stage: Stage) -> None:
    stage.report("a", physical_tokens=500, running=(0, 1))
    stage.report("c", physical_tokens=200, running=(0, 1))

    assert where(stage.fleet.dispatch(ask())) == "b"


async def test_what_is_in_flight_counts_until_it_is_reported(stage: Stage) -> None:
    """A burst between two reports spreads out; a report that names a request settles it."""
    burst = [where(stage.fleet.dispatch(ask(str(i)))) for i in range(6)]

    assert sorted(map(str, burst)) == ["a", "a", "b", "b", "c", "c"]
    assert len(stage.brain.ledger) == 6
    stage.report("a", new_ids=[str(i) for i in range(6)])
    assert len(stage.brain.ledger) == 4
    stage.fleet.forget(RequestId(str(burst.index("b"))))
    assert len(stage.brain.ledger) == 3


async def test_those_that_failed_a_request_are_its_last_resort(stage: Stage) -> None:
    fleet = stage.fleet

    assert where(fleet.dispatch(ask(avoided=names("a", "b")))) == "c"
    assert where(fleet.dispatch(ask(avoided=names("a", "b", "c")))) is not None
    assert where(fleet.dispatch(ask(avoided=names("a"), barred=names("b", "c")))) == "a"
    assert where(fleet.dispatch(ask(barred=names("a", "b", "c")))) is None


async def test_a_model_is_served_by_those_that_have_it(stage: Stage) -> None:
    stage.instance("b").know_models([{"id": "other"}])

    assert where(stage.fleet.dispatch(ask(model="other"))) == "b"
    assert stage.fleet.serves("other")
    assert not stage.fleet.serves("nobody's")
    assert stage.fleet.only_model() is None


async def test_draining_instances_get_nothing(stage: Stage) -> None:
    for name in "ac":
        await stage.fleet.mover.drain(stage.instance(name), on=True)

    assert {where(stage.fleet.dispatch(ask(str(i)))) for i in range(5)} == {"b"}
    await stage.fleet.mover.drain(stage.instance("b"), on=True)
    assert isinstance(stage.fleet.dispatch(ask()), Hold)


async def test_decisions_are_explained(stage: Stage) -> None:
    """Why one was chosen, and what spoke against each of the others."""
    stage.instance("a").set_draining(on=True)
    stage.fleet.dispatch(ask("x", avoided=names("b")))
    (decision,) = stage.fleet.requests.explain(RequestId("x")) or []

    assert decision.instance_id == "c"
    assert decision.explanation.policy == "freeness"
    assert "c" in decision.explanation.scores
    assert decision.explanation.vetoed == {"a": "draining", "b": "it failed this request"}


async def test_being_held_again_and_again_is_explained_once(stage: Stage) -> None:
    for name in "abc":
        stage.instance(name).set_draining(on=True)
    for _ in range(5):
        stage.fleet.dispatch(ask("x"))

    assert [each.kind for each in stage.fleet.requests.explain(RequestId("x")) or []] == ["hold"]


async def test_a_lost_instance_is_down_at_once_and_comes_back(stage: Stage) -> None:
    """Down means: no requests, its migrations given up; its keeper links up again by itself."""
    stage.order("m1", "a", "b")
    stage.order("m2", "b", "c")
    stage.links["a"].give_up("unplugged")
    await until(lambda: not list(stage.fleet.mover.book.of_instance(InstanceId("a"))))

    assert [each.migration_id for each in stage.fleet.mover.book] == ["m2"]
    assert stage.metric("migrations_total", reason="manual", result="aborted") == 1
    texts = [event.text for event in stage.fleet.events.after(0)]
    assert "a is down: unplugged" in texts
    await until(lambda: stage.instance("a").state is InstanceState.UP)


async def test_an_instance_that_refuses_connections_is_taken_out(stage: Stage) -> None:
    stage.fleet.suspect(stage.instance("a"), "connection refused")

    assert stage.instance("a").state is InstanceState.DOWN
    assert {where(stage.fleet.dispatch(ask(str(i)))) for i in range(4)} == {"b", "c"}


async def test_a_drain_outlives_a_lost_connection(stage: Stage) -> None:
    """An instance being drained that links up anew is told again, and stays draining."""
    await stage.fleet.mover.drain(stage.instance("a"), on=True)
    stage.links["a"].give_up("hiccup")
    await until(lambda: stage.stubs[0].drained == [True, True])
    await until(lambda: stage.instance("a").alive)

    assert stage.instance("a").state is InstanceState.DRAINING


async def test_a_request_on_the_move_is_found_by_its_migration(stage: Stage) -> None:
    """While it moves and after: until it is claimed, or the migration comes to nothing."""
    fleet = stage.fleet
    stage.order("m", "a", "b")
    assert fleet.claim_of(RequestId("r")) is None
    stage.started("m", "r", "a", "b")
    assert fleet.claim_of(RequestId("r")) == ("m", stage.instance("b"))
    stage.ended("m", "committed", "r", "a", "b")
    assert fleet.claim_of(RequestId("r")) == ("m", stage.instance("b"))
    fleet.mover.book.claimed(RequestId("r"), MigrationId("m"))
    assert fleet.claim_of(RequestId("r")) is None
    assert fleet.claim_at(MigrationId("m")) == ("m", stage.instance("b"))

    stage.started("m2", "r", "b", "c")
    assert fleet.claim_of(RequestId("r")) == ("m2", stage.instance("c"))
    stage.ended("m2", "aborted", "r", "b", "c")
    assert fleet.claim_of(RequestId("r")) is None


async def test_an_imbalance_is_rebalanced() -> None:
    """A full source and an empty destination: an order goes out by itself, and is booked."""
    config = SchedulerConfig(dispatch=PolicySpec("freeness"))
    async with Stage(2, scheduler=config) as stage:
        stage.report("a", physical_tokens=990, running=(0, 10))
        stage.report("b")
        await until(lambda: stage.stubs[0].orders)
        (order,) = stage.stubs[0].orders

        assert (order.destination.id, order.request_id, order.reason) == ("b", None, "rebalance")
        (migration,) = stage.fleet.mover.book
        assert migration.migration_id == order.migration_id
        stage.ended(order.migration_id, "refused", "", "a", "b")
        assert stage.metric("migrations_total", reason="rebalance", result="refused") == 1


async def test_news_of_an_unknown_migration_is_taken_calmly(stage: Stage) -> None:
    """Late news of a migration given up, or of one another frontend ordered."""
    pair = InstanceId("a"), InstanceId("b")
    event = MigrationEvent(EventKind.COMMITTED, MigrationId("?"), "r", *pair, MigrateReason.MANUAL)
    stage.fleet.heard(event)

    assert stage.fleet.tally.migrations["committed"] == 0


async def test_waiting_for_instances_is_bounded(stage: Stage) -> None:
    assert await stage.fleet.wait_up(3, 10.0)
    assert not await stage.fleet.wait_up(4, 0.01)


async def test_the_clock_runs_in_fleet_seconds(stage: Stage) -> None:
    before = stage.fleet.now_s()
    await asyncio.sleep(0)

    assert 0 <= before <= stage.fleet.now_s()
