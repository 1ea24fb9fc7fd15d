"""Every order of events at small sizes, and proof that the explorer would notice a broken rule."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from migration.protocol import destination, source
from migration.protocol import events as ev
from migration.protocol import instructions as do
from migration.protocol import messages as say
from migration.protocol.destination import Destination
from migration.protocol.source import Source
from tests.migration.fake_engine import FakeEngine
from tests.migration.moves import FAULTS
from tests.migration.protocol.ending_engine import EndingEngine
from tests.migration.protocol.explorer import BrokenLawError, explore
from tests.migration.protocol.world import CONFIG, World

AWAY, IN = source.SourceState, destination.DestinationState


def one_migration(engine: type[FakeEngine] = FakeEngine) -> World:
    """A request of two tokens on its way from A to B, where it will have to ask for more room."""
    config = replace(CONFIG, max_stages=2, slack_blocks=0)
    world = World(n_blocks=8, config=config, engine=engine)
    world.request("A", "r", 2, 4)
    world.migrate("m", "r", "A", "B")
    return world


def crossing() -> World:
    """Two requests moving at once, one each way, where memory is short for both at once."""
    world = World(n_blocks=3, config=replace(CONFIG, max_stages=1))
    world.request("A", "r", 2, 3)
    world.request("B", "s", 1, 3)
    world.migrate("m", "r", "A", "B")
    world.migrate("n", "s", "B", "A")
    return world


def test_one_migration_with_any_one_fault(capsys: pytest.CaptureFixture[str]) -> None:
    """INV-1…6 hold in every reachable state of one migration with any one fault at any moment."""
    explored = explore(one_migration(), faults_allowed=1)

    with capsys.disabled():
        print(f"\n  one migration, one of {len(FAULTS)} faults: {explored.told()}")
    assert explored.states > 4_500
    assert explored.outcomes.keys() == {"committed", "aborted", "refused"}
    transient = {AWAY.NEW, AWAY.ENDED, IN.NEW, IN.RESERVING, IN.ATTACHING}
    assert {*AWAY, *IN} - transient == explored.seen - transient


def test_one_migration_between_engines_that_cannot_take_back(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The same laws where what is detached has ended, as on vLLM: the frontend sees to it."""
    explored = explore(one_migration(EndingEngine), faults_allowed=1)

    with capsys.disabled():
        print(f"\n  the same on engines that cannot take back: {explored.told()}")
    assert explored.states > 4_500
    assert explored.outcomes.keys() == {"committed", "aborted", "refused"}


def test_two_crossing_migrations(capsys: pytest.CaptureFixture[str]) -> None:
    """A to B and B to A at once: whoever finds no room is refused, and nobody waits for ever."""
    explored = explore(crossing(), faults_allowed=0)

    with capsys.disabled():
        print(f"\n  two crossing migrations: {explored.told()}")
    assert explored.states > 4_000
    assert explored.outcomes.keys() == {"committed", "aborted", "refused"}


def _skip_completeness(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Destination, "_has_exactly", lambda *_: True)


def _resume_on_silence(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(source.TABLE, (AWAY.COMMITTING, ev.TimerFired), Source._timed_out)


def _resume_on_lost_link(patch: pytest.MonkeyPatch) -> None:
    patch.setitem(source.TABLE, (AWAY.COMMITTING, ev.PeerLost), Source._peer_lost)


def _answer_without_fencing(patch: pytest.MonkeyPatch) -> None:
    def answer(machine: Destination, _event: object) -> list[do.DestinationInstruction]:
        return [do.Send(say.Refused(machine.migration_id, machine.epoch, "not attached"))]

    for state in (IN.RECEIVING, IN.COMPLETING):
        patch.setitem(destination.TABLE, (state, say.Query), answer)


def _accept_doubled_blocks(patch: pytest.MonkeyPatch) -> None:
    def offered(machine: Destination, event: ev.BlocksOffered) -> list[object]:
        return [do.Land(event.blocks)]

    for state in (IN.RECEIVING, IN.COMPLETING):
        patch.setitem(destination.TABLE, (state, ev.BlocksOffered), offered)


def _keep_room_on_abort(patch: pytest.MonkeyPatch) -> None:
    def aborted(machine: Destination, _event: object) -> list[object]:
        machine.state = IN.FENCED
        return [do.CancelTimer(), do.Ended(do.Outcome.ABORTED, "")]

    for state in (IN.RECEIVING, IN.COMPLETING):
        patch.setitem(destination.TABLE, (state, say.Abort), aborted)


def _forget_to_put_back(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(source, "HELD", ())


def _stop_watching(patch: pytest.MonkeyPatch) -> None:
    def watch(machine: Destination, state: destination.DestinationState) -> list[object]:
        machine.state = state
        return []

    patch.setattr(Destination, "_watch", watch)


@pytest.mark.parametrize(
    ("break_rule", "fault"),
    [
        (_skip_completeness, "drop"),
        (_resume_on_silence, "drop"),
        (_resume_on_lost_link, "crash"),
        (_answer_without_fencing, "early timer"),
        (_accept_doubled_blocks, "double"),
        (_keep_room_on_abort, "cancel"),
        (_forget_to_put_back, "crash"),
        (_stop_watching, "vanish"),
    ],
    ids=lambda rule: getattr(rule, "__name__", rule).strip("_"),
)
def test_a_broken_rule_is_noticed(
    break_rule: Callable[[pytest.MonkeyPatch], None],
    fault: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The explorer is no rubber stamp: each of these bugs breaks a law it checks."""
    break_rule(monkeypatch)

    with pytest.raises(BrokenLawError):
        explore(one_migration(), faults_allowed=1, kinds=(fault,))
