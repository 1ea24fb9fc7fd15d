"""The llumlet: which requests it moves, what it refuses, and what it tells the fleet."""

from dataclasses import replace

import pytest

from migration.config import MigrationConfig
from migration.engine import Gone
from migration.llumlet.effects import Announce, Answer, Effect, Say, Ship
from migration.llumlet.fleet_messages import MigrateOut, MigrationEvent
from migration.llumlet.llumlet import Llumlet
from migration.protocol.messages import Message, Refused, Reserve, Reserved
from migration.protocol.peer import Peer
from policies.types import InstanceId, MigrateReason, MigrationId, RequestId
from tests.migration.fake_engine import FakeEngine
from tests.migration.protocol.frontend_model import Frontend
from tests.migration.protocol.samples import LAYOUT, A, B

PEER = Peer(B, "127.0.0.1", 1)


class Clock:
    now_s = 100.0

    def __call__(self) -> float:
        return self.now_s


class Bench:
    """A llumlet on a fake engine, with what it wanted done so far."""

    def __init__(self, config: MigrationConfig | None = None, speed: float = 1.0) -> None:
        self.clock = Clock()
        self.frontend = Frontend()
        self.engine = FakeEngine(A, 64, self.frontend)
        config = config or MigrationConfig()
        self.llumlet = Llumlet(self.engine, config, A, self.clock, speed=speed)
        self.engine.listener = self.llumlet
        self.effects: list[Effect] = []

    def request(self, name: str, prompt_tokens: int = 4, run: bool = True) -> None:
        self.frontend.open(self.engine, RequestId(name), list(range(prompt_tokens)), 50)
        if run:
            self.engine.step()

    def order(self, migration: str, request: str | None = None, **more: object) -> MigrationEvent:
        """Give an order; returns the first thing the fleet is told about it."""
        request_id = None if request is None else RequestId(request)
        order = MigrateOut(MigrationId(migration), PEER, request_id, 1000, MigrateReason.REBALANCE)
        self.llumlet.take_effects()
        self.llumlet.order(replace(order, **more))  # type: ignore[arg-type]
        effects = self.llumlet.take_effects()
        self.effects += effects
        return next(effect.event for effect in effects if isinstance(effect, Announce))

    def reserve(self, migration: str, request: str = "x", **more: object) -> Message:
        """Ask for room as another llumlet would; returns the answer."""
        reserve = Reserve(MigrationId(migration), 1, RequestId(request), B, A, 0, 2, LAYOUT)
        return self.say(replace(reserve, **more))  # type: ignore[arg-type]

    def say(self, message: Message) -> Message:
        self.llumlet.received(message, "conn")
        answers = [item for item in self.llumlet.take_effects() if isinstance(item, Answer)]
        return answers[-1].message


@pytest.fixture(name="bench")
def _bench() -> Bench:
    return Bench()


def test_an_order_names_its_request_or_leaves_the_choice(bench: Bench) -> None:
    """Left the choice, the llumlet moves the shortest context."""
    bench.request("long", 9)
    bench.request("short", 4)

    assert bench.order("m1").request_id == "short"
    assert bench.order("m2", "long").request_id == "long"


def test_an_order_begins_with_a_reservation(bench: Bench) -> None:
    """The fleet hears `started`, the destination `Reserve` with this instance's layout."""
    bench.request("r")
    event = bench.order("m")

    assert (event.kind, event.source, event.destination) == ("started", A, B)
    says = [effect for effect in bench.effects if isinstance(effect, Say)]
    assert [says[0].peer, type(says[0].message)] == [PEER, Reserve]
    bench.llumlet.received(Reserved(MigrationId("m"), 1, 0), None)
    assert any(isinstance(effect, Ship) for effect in bench.llumlet.take_effects())


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"request_id": RequestId("nobody")}, "no such request"),
        ({"request_id": RequestId("queued")}, "request cannot be moved now"),
        ({"request_id": RequestId("moving")}, "request cannot be moved now"),
        ({"max_context_tokens": 1}, "no request to move"),
        ({"destination": Peer(A, "127.0.0.1", 1)}, "source and destination are the same"),
        ({"migration_id": MigrationId("m")}, "migration id in use"),
    ],
)
def test_an_order_that_cannot_be_carried_out_is_refused(
    bench: Bench, more: dict[str, object], reason: str
) -> None:
    """The fleet is told why at once, and nothing is sent."""
    bench.request("moving")
    bench.request("other", 6)
    bench.request("queued", run=False)
    bench.order("m", "moving")
    bench.effects.clear()

    event = bench.order("m2", **more)  # type: ignore[arg-type]

    assert (event.kind, event.detail) == ("refused", reason)
    assert event.reason is MigrateReason.REBALANCE
    assert [type(effect) for effect in bench.effects] == [Announce]


def test_no_more_move_away_at_once_than_allowed() -> None:
    """The cap holds for orders, and is free again when one ends."""
    bench = Bench(MigrationConfig(max_concurrent_out=1))
    bench.request("r1")
    bench.request("r2")
    bench.order("m1", "r1")
    assert bench.order("m2", "r2").detail == "too many requests are moving away"

    bench.llumlet.received(Refused(MigrationId("m1"), 1, "no memory"), None)

    assert bench.order("m3", "r2").kind == "started"


def test_no_more_move_in_at_once_than_allowed() -> None:
    """The cap is a refusal like any other."""
    bench = Bench(MigrationConfig(max_concurrent_in=1))
    assert isinstance(bench.reserve("m1", "x"), Reserved)

    answer = bench.reserve("m2", "y")

    assert isinstance(answer, Refused)
    assert answer.reason == "too many requests are moving in"


def test_a_request_moves_one_way_at_a_time(bench: Bench) -> None:
    """One moving away, or in by another migration, is not taken in."""
    bench.request("r")
    bench.order("m", "r")
    answers = [bench.reserve("n", "r"), bench.reserve("m", "z")]
    bench.reserve("o", "x")
    answers.append(bench.reserve("p", "x"))

    reasons = [answer.reason for answer in answers if isinstance(answer, Refused)]
    assert reasons == [
        "request is moving away from here",
        "migration id in use",
        "request is moving here already",
    ]


def test_no_memory_is_refused_and_nothing_is_kept(bench: Bench) -> None:
    """A reservation is all or nothing."""
    answer = bench.reserve("m", n_blocks=65)

    assert isinstance(answer, Refused)
    bench.engine.check_blocks()
    assert not bench.engine.reservations


def test_a_drain_takes_nothing_in_and_bounces_the_queue(bench: Bench) -> None:
    """Queued requests go back to the frontend; running ones wait for orders; off undoes it."""
    bench.request("running")
    bench.request("queued", run=False)
    bench.llumlet.drain(True)

    assert bench.frontend.waiting() == ["queued"]
    assert bench.engine.terminating
    assert bench.llumlet.load().terminating
    answer = bench.reserve("m")
    assert isinstance(answer, Refused)
    assert answer.reason == "draining"
    bench.request("late", run=False)
    bench.llumlet.bounce_queued()
    assert bench.frontend.waiting() == ["queued", "late"]
    bench.llumlet.drain(False)
    assert isinstance(bench.reserve("n"), Reserved)


@pytest.mark.parametrize(
    ("wall_s", "reason", "kind"),
    [
        (1.9, MigrateReason.REBALANCE, "refused"),
        (1.9, MigrateReason.DRAIN, "started"),
        (2.1, MigrateReason.REBALANCE, "started"),
    ],
)
def test_what_has_moved_here_stays_a_while(wall_s: float, reason: MigrateReason, kind: str) -> None:
    """Cooldowns are fleet seconds, here five in a wall second; a drain does not wait for them."""
    bench = Bench(MigrationConfig(cooldown_s=10.0), speed=5.0)
    bench.request("r")
    bench.llumlet.arrivals.attached.append(RequestId("r"))
    bench.llumlet._note_attached()

    bench.clock.now_s += wall_s

    assert bench.order("m", reason=reason).kind == kind


def test_an_ended_migration_frees_its_request_for_another(bench: Bench) -> None:
    """A refusal is told with the destination's reason; a new order gets a higher epoch."""
    bench.request("r")
    bench.order("m", "r")
    bench.llumlet.received(Refused(MigrationId("m"), 1, "no memory"), None)
    (event,) = [e.event for e in bench.llumlet.take_effects() if isinstance(e, Announce)]
    assert (event.kind, event.detail) == ("refused", "no memory")

    bench.order("m", "r")

    says = [effect.message for effect in bench.effects if isinstance(effect, Say)]
    assert [message.epoch for message in says] == [1, 2]


def test_late_messages_are_counted(bench: Bench) -> None:
    """What belongs to no migration any more leaves a trace in the counters only."""
    bench.llumlet.received(Refused(MigrationId("m"), 1, "no memory"), None)

    assert bench.llumlet.take_effects() == []
    assert bench.llumlet.stats()["dropped"] == {"late": 1}


def test_a_new_attempt_under_an_old_id_supersedes_the_old(bench: Bench) -> None:
    """A restarted source begins with a higher epoch; the old attempt's memory is freed first."""
    bench.reserve("m", n_blocks=60)

    assert isinstance(bench.reserve("m", epoch=2, n_blocks=60), Reserved)
    bench.engine.check_blocks()
    bench.llumlet.received(replace(_reserve(), epoch=1), "conn")
    assert bench.llumlet.stats()["dropped"] == {"old epoch": 1}


def test_ends_are_remembered_but_not_for_ever() -> None:
    """The memory of ended migrations is bounded."""
    bench = Bench(MigrationConfig(max_remembered=3))
    for number in range(10):
        bench.reserve(f"m{number}", n_blocks=65)

    remembered = [bench.llumlet.arrivals.outcome(MigrationId(f"m{n}")) for n in range(10)]
    assert [outcome is not None for outcome in remembered] == [False] * 7 + [True] * 3


def test_an_engine_may_call_back_at_once() -> None:
    """A callback from within a hook waits until what led to it is done."""

    class Eager(FakeEngine):
        def detach(self, request_id: RequestId) -> None:
            super().detach(request_id)
            self.cancel(request_id)

    bench = Bench()
    bench.engine = Eager(A, 64, bench.frontend)
    bench.llumlet.host.hooks = bench.engine
    bench.engine.listener = bench.llumlet
    bench.request("r", prompt_tokens=1)
    bench.order("m", "r")
    bench.llumlet.received(Reserved(MigrationId("m"), 1, 0), None)

    events = [e.event for e in bench.llumlet.take_effects() if isinstance(e, Announce)]
    assert [(event.kind, event.detail) for event in events] == [("aborted", "request cancelled")]


def test_a_shutdown_undoes_what_it_can(bench: Bench) -> None:
    """Requests under way go on here, and their destinations are told."""
    bench.request("r")
    bench.order("m", "r")

    bench.llumlet.stop("shutting down")

    assert bench.llumlet.stats()["migrations_out"] == {"aborted": 1}
    assert bench.llumlet.stats()["active"] == {"out": 0, "in": 0}


def test_requests_that_end_are_forgotten(bench: Bench) -> None:
    """When a request moved here is remembered only while it lives here."""
    bench.llumlet.arrivals.attached.append(RequestId("x"))
    bench.llumlet._note_attached()
    bench.llumlet.gone(RequestId("x"), Gone.PREEMPTED)
    assert bench.llumlet._moved_at_s
    bench.llumlet.gone(RequestId("x"), Gone.FINISHED)
    assert not bench.llumlet._moved_at_s


def _reserve() -> Reserve:
    return Reserve(MigrationId("m"), 1, RequestId("x"), InstanceId("B"), A, 0, 2, LAYOUT)
