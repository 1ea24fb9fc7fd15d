"""The fleet's client: reports, orders and events over a real connection."""

import asyncio

import pytest

from migration.errors import AuthError, LinkError
from migration.llumlet.control import ControlClient
from migration.llumlet.fleet_messages import EventKind, MigrationEvent, Report, StepReport
from policies.types import MigrateReason, RequestId
from tests.migration.instances import SECRET, Instance, running, until
from tests.migration.protocol.frontend_model import Frontend
from tests.migration.protocol.samples import A, B, M


class Fleet:
    """A client and what it heard."""

    def __init__(self, instance: Instance, secret: bytes = SECRET) -> None:
        self.reports: list[Report] = []
        self.events: list[MigrationEvent] = []
        self.closed: list[str] = []
        self.client = ControlClient(
            "127.0.0.1",
            instance.port,
            secret,
            self.reports.append,
            self.events.append,
            self.closed.append,
        )

    def new_ids(self) -> list[str]:
        return [key for report in self.reports for key in report.new_request_ids]


async def test_reports_carry_load_and_each_request_once() -> None:
    """Requests there before the subscription are new to the subscriber, too."""
    frontend = Frontend()
    instance = Instance("A", frontend)
    instance.stepping = False
    async with running(instance):
        frontend.open(instance.engine, RequestId("r"), [1, 2], 10)
        fleet = Fleet(instance)
        await fleet.client.connect()
        await fleet.client.subscribe(0.01)
        await until(lambda: fleet.reports)
        instance.agent.request_arrived(RequestId("s"))
        await until(lambda: "s" in fleet.new_ids())
        seen = len(fleet.reports)
        await until(lambda: len(fleet.reports) > seen + 3)
        await fleet.client.close()

        assert fleet.new_ids() == ["r", "s"]
        assert fleet.reports[0].load == instance.agent.llumlet.load()
        assert fleet.closed == []


async def test_orders_lead_to_events() -> None:
    """A migration is told of twice, when it starts and when it ends; a refusal once."""
    frontend = Frontend()
    a, b = Instance("A", frontend), Instance("B", frontend)
    async with running(a, b):
        frontend.open(a.engine, RequestId("r"), list(range(30)), 5000)
        await until(lambda: frontend.streams[RequestId("r")].tokens)
        fleet = Fleet(a)
        await fleet.client.connect()
        await fleet.client.migrate_out("m", b.peer, reason=MigrateReason.REBALANCE)
        await until(lambda: len(fleet.events) == 2)
        await fleet.client.migrate_out("n", b.peer, request_id="nobody")
        await until(lambda: len(fleet.events) == 3)
        await fleet.client.close()

        started, committed, refused = fleet.events
        assert (started.kind, started.request_id, started.reason) == ("started", "r", "rebalance")
        assert (committed.kind, committed.destination) == ("committed", "B")
        assert committed.stages >= 1
        assert committed.copied_bytes >= 16 * committed.copied_tokens // 2 > 0
        assert 0 < committed.source_downtime_s <= committed.started_at_s
        assert (refused.kind, refused.detail) == ("refused", "no such request")
        b.engine.cancel(RequestId("r"))


async def test_a_drain_is_seen_in_the_next_report() -> None:
    """And taken back."""
    instance = Instance("A", Frontend())
    async with running(instance):
        fleet = Fleet(instance)
        await fleet.client.connect()
        await fleet.client.subscribe(0.01)
        await fleet.client.drain(True)
        await until(lambda: fleet.reports and fleet.reports[-1].load.terminating)
        await fleet.client.drain(False)
        await until(lambda: not fleet.reports[-1].load.terminating)
        await fleet.client.close()


async def test_a_client_learns_that_its_instance_is_gone() -> None:
    """Once, and orders fail from then on."""
    instance = Instance("A", Frontend())
    await instance.start()
    fleet = Fleet(instance)
    await fleet.client.connect()
    await instance.close()
    await until(lambda: fleet.closed)
    await asyncio.sleep(0)

    assert len(fleet.closed) == 1
    with pytest.raises(LinkError):
        await fleet.client.drain(True)
    await fleet.client.close()


@pytest.mark.parametrize(
    ("kind", "unresolved", "redirected"),
    [
        (EventKind.STARTED, False, False),
        (EventKind.COMMITTED, False, True),
        (EventKind.ABORTED, False, False),
        (EventKind.ABORTED, True, True),
    ],
)
def test_an_event_says_whether_the_stream_was_redirected(
    kind: EventKind, unresolved: bool, redirected: bool
) -> None:
    """After a commit, and when one was never answered: then a claim must be tried.

    What its detail says in words decides nothing.
    """
    words = "handed over: commit never answered"
    event = MigrationEvent(
        kind, M, "r", A, B, MigrateReason.DRAIN, detail=words, unresolved=unresolved
    )

    assert event.redirected is redirected


async def test_a_client_is_told_why_it_cannot_connect() -> None:
    """Nobody there, or another secret."""
    instance = Instance("A", Frontend())
    async with running(instance):
        with pytest.raises(AuthError):
            await Fleet(instance, b"wrong").client.connect()
    with pytest.raises(LinkError):
        await Fleet(instance).client.connect(1.0)


async def test_steps_are_counted_only_for_those_who_ask() -> None:
    """A fleet of before asks as before, and gets the reports that it knows."""
    instance = Instance("A", Frontend())
    instance.engine.steps_done = lambda: 7  # type: ignore[method-assign]
    async with running(instance):
        old, new = Fleet(instance), Fleet(instance)
        await old.client.connect()
        await old.client.subscribe(0.01)
        await new.client.connect()
        await new.client.subscribe(0.01, with_steps=True)
        await until(lambda: old.reports and new.reports)
        await old.client.close()
        await new.client.close()

        assert {type(report) for report in old.reports} == {Report}
        assert all(isinstance(each, StepReport) and each.steps == 7 for each in new.reports)
