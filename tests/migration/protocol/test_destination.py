"""The destination's table: what it takes, what it refuses, and that its word holds for ever."""

from dataclasses import replace

import pytest

from migration.config import MigrationConfig
from migration.engine import RequestState
from migration.errors import InvalidTransition
from migration.protocol import events as ev
from migration.protocol import instructions as do
from migration.protocol import messages as say
from migration.protocol.destination import Destination, DestinationState
from tests.migration.protocol.samples import LAYOUT, A, B, M, R

CONFIG = MigrationConfig()
RESERVE = say.Reserve(M, 7, R, A, B, 0, 3, LAYOUT)
STATE = RequestState(R, 0, (1, 2, 3), (4, 5, 6), 5, {})
COMMIT = say.Commit(M, 7, 3, STATE)
Done = list[do.DestinationInstruction]
Event = ev.DestinationEvent | say.Message


def frame(first: int, n: int, stage: int = 0) -> say.Blocks:
    return say.Blocks(M, 7, stage, first, n, 0)


def walk(*events: Event) -> tuple[Destination, Done]:
    """Feed events to a fresh destination; returns it, and what the last one led to."""
    machine, done = Destination(M, 7, B, LAYOUT, CONFIG), []
    for event in events:
        done = machine.handle(event)
    return machine, done


def land(first: int, n: int, stage: int = 0) -> list[ev.DestinationEvent]:
    blocks = frame(first, n, stage)
    return [ev.BlocksOffered(blocks), ev.BlocksLanded(blocks, intact=True)]


RECEIVING: list[Event] = [RESERVE, ev.RoomMade()]
COMPLETING: list[Event] = [*RECEIVING, *land(0, 2), COMMIT]
COMPLETE: list[Event] = [*RECEIVING, *land(0, 3), COMMIT]
ATTACHED: list[Event] = [*COMPLETE, ev.Attached()]
FENCED: list[Event] = [*RECEIVING, say.Abort(M, 7, "over")]


def kinds(done: Done) -> list[type]:
    """Name the instructions, but for timers."""
    return [type(item) for item in done if not isinstance(item, do.SetTimer | do.CancelTimer)]


def sent(done: Done) -> list[say.Message]:
    return [item.message for item in done if isinstance(item, do.Send)]


FREED = [do.FreeRoom, do.Ended]


def test_the_whole_way_to_attached() -> None:
    """Room, blocks, acknowledgement, more of both, commit, attached, committed."""
    machine, done = walk(RESERVE)
    assert done == [do.MakeRoom(3)]
    assert sent(machine.handle(ev.RoomMade())) == [say.Reserved(M, 7, 0)]
    assert machine.handle(ev.BlocksOffered(frame(0, 2)))[0] == do.Land(frame(0, 2))
    machine.handle(ev.BlocksLanded(frame(0, 2), intact=True))
    assert sent(machine.handle(say.StageDone(M, 7, 0, 2))) == [say.StageAck(M, 7, 0)]
    assert machine.handle(replace(RESERVE, stage=1, n_blocks=4)) == [do.MakeRoom(4)]
    machine.handle(ev.RoomMade())
    for event in land(2, 1, stage=1):
        machine.handle(event)
    assert machine.handle(COMMIT)[-1] == do.Attach(STATE)
    assert sent(machine.handle(ev.Attached())) == [say.Committed(M, 7)]
    assert machine.state is DestinationState.ATTACHED


def test_a_stage_is_acknowledged_when_its_last_block_is_here() -> None:
    """StageDone may overtake the blocks: they come by another connection."""
    machine, done = walk(*RECEIVING, *land(1, 1), say.StageDone(M, 7, 0, 2))
    assert sent(done) == []

    machine.handle(ev.BlocksOffered(frame(0, 1)))
    done = machine.handle(ev.BlocksLanded(frame(0, 1), intact=True))

    assert sent(done) == [say.StageAck(M, 7, 0)]


def test_a_commit_waits_for_the_last_blocks() -> None:
    """Nothing is attached before every block is here."""
    machine, done = walk(*COMPLETING)
    assert kinds(done) == []

    machine.handle(ev.BlocksOffered(frame(2, 1)))
    done = machine.handle(ev.BlocksLanded(frame(2, 1), intact=True))

    assert kinds(done) == [do.Attach]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"destination": A}, "this is B, not A"),
        ({"layout": replace(LAYOUT, dtype="fp16")}, "layout: dtype: 'u8' here, 'fp16' there"),
        ({"layout": replace(LAYOUT, block_tokens=4)}, "layout: block_tokens: 2 here, 4 there"),
        ({"stage": 1}, "unknown migration"),
    ],
)
def test_what_does_not_fit_is_refused_loudly(change: dict[str, object], reason: str) -> None:
    """Before any memory is asked for, and with the reason."""
    _, done = walk(replace(RESERVE, **change))  # type: ignore[arg-type]

    assert kinds(done) == [do.Ended, do.Send]
    assert sent(done) == [say.Refused(M, 7, reason)]


def test_no_room_is_a_refusal() -> None:
    """At any stage; what was reserved before is freed."""
    _, done = walk(RESERVE, ev.RoomDenied("no memory"))
    assert sent(done) == [say.Refused(M, 7, "no memory")]

    grown = replace(RESERVE, stage=1, n_blocks=9)
    _, done = walk(*RECEIVING, grown, ev.RoomDenied("draining"))

    assert kinds(done) == [*FREED, do.Send]
    assert sent(done) == [say.Refused(M, 7, "draining")]


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        ([ev.BlocksOffered(frame(2, 2))], "not requested"),
        ([ev.BlocksOffered(frame(0, 0))], "not requested"),
        ([ev.BlocksOffered(frame(0, 1, stage=1))], "not requested"),
        ([*land(0, 2), ev.BlocksOffered(frame(1, 1))], "twice"),
        ([ev.BlocksOffered(frame(0, 2)), ev.BlocksOffered(frame(0, 1))], "twice"),
        ([ev.BlocksOffered(frame(0, 1)), ev.BlocksLanded(frame(0, 1), False)], "damaged"),
        ([*land(0, 3), say.StageDone(M, 7, 0, 2)], "more blocks than the stage"),
        ([replace(RESERVE, stage=2)], "out of order"),
        ([replace(RESERVE, stage=1, n_blocks=1)], "out of order"),
        ([ev.TimerFired("receive")], "timeout: receive"),
    ],
)
def test_what_is_wrong_aborts_and_frees(events: list[Event], reason: str) -> None:
    """Blocks doubled, damaged, misplaced or missing for too long: all is freed, the source told."""
    machine, done = walk(*RECEIVING, *events)

    assert kinds(done) == [*FREED, do.Send]
    (abort,) = sent(done)
    assert isinstance(abort, say.Abort)
    assert reason in abort.reason
    assert machine.state is DestinationState.FENCED


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"n_blocks": 2}, "wrong number of blocks"),
        ({"state": replace(STATE, kv_tokens=7)}, "more KV than tokens"),
        ({"state": replace(STATE, kv_tokens=-1)}, "more KV than tokens"),
        ({"state": replace(STATE, kv_tokens=4), "n_blocks": 2}, "more blocks than the request"),
    ],
)
def test_a_commit_that_does_not_add_up_is_refused(change: dict[str, object], reason: str) -> None:
    """Blocks, tokens and KV must agree before anything is attached."""
    _, done = walk(*RECEIVING, *land(0, 3), replace(COMMIT, **change))  # type: ignore[arg-type]

    assert kinds(done) == [*FREED, do.Send]
    (refused,) = sent(done)
    assert isinstance(refused, say.Refused)
    assert reason in refused.reason


def test_an_engine_that_will_not_attach_is_a_refusal() -> None:
    """The source then puts the request back."""
    machine, done = walk(*COMPLETE, ev.AttachDenied())

    assert [type(message) for message in sent(done)] == [say.Refused]
    assert machine.state is DestinationState.FENCED


@pytest.mark.parametrize("way", [RECEIVING, COMPLETING])
@pytest.mark.parametrize(
    "end", [say.Abort(M, 7, "gone"), ev.PeerLost(), ev.Superseded()], ids=lambda end: str(end)
)
def test_what_is_over_is_freed_at_once(way: list[Event], end: Event) -> None:
    """INV-5: an abort, a lost link and a new attempt all free at once, without an answer."""
    machine, done = walk(*way, end)

    assert kinds(done) == FREED
    assert machine.state is DestinationState.FENCED


@pytest.mark.parametrize("way", [[], RECEIVING, COMPLETING, FENCED])
def test_a_question_before_attaching_is_answered_no_for_good(
    way: list[Event],
) -> None:
    """After the answer even the commit it asked about comes too late."""
    machine, done = walk(*way, say.Query(M, 7))
    assert [type(message) for message in sent(done)] == [say.Refused]

    for late in (COMMIT, RESERVE, say.StageDone(M, 7, 0, 2), say.Query(M, 7)):
        done = machine.handle(late)
        assert kinds(done) == [do.Send]
        assert isinstance(sent(done)[0], say.Refused)


def test_an_abort_that_overtakes_everything_fences() -> None:
    """What comes after it is refused, and nothing is reserved."""
    _, done = walk(say.Abort(M, 7, "over"), RESERVE)

    assert [type(message) for message in sent(done)] == [say.Refused]


def test_attached_is_attached_for_good() -> None:
    """Commits and questions are confirmed again; nothing else touches the request."""
    machine, _ = walk(*ATTACHED)
    for again in (COMMIT, say.Query(M, 7)):
        assert machine.handle(again) == [do.Send(say.Committed(M, 7))]
    stray = (
        RESERVE,
        say.Abort(M, 7, "gone"),
        say.StageDone(M, 7, 0, 3),
        ev.BlocksOffered(frame(0, 1)),
        ev.PeerLost(),
    )
    for event in stray:
        assert machine.handle(event) == [do.Drop("late")]
    assert machine.state is DestinationState.ATTACHED


@pytest.mark.parametrize(
    ("way", "again"),
    [
        (RECEIVING, RESERVE),
        ([*RECEIVING, *land(0, 2), say.StageDone(M, 7, 0, 2)], say.StageDone(M, 7, 0, 2)),
        (COMPLETING, COMMIT),
        (COMPLETING, RESERVE),
        (FENCED, say.Abort(M, 7, "over")),
    ],
)
def test_what_comes_twice_changes_nothing(way: list[Event], again: say.Message) -> None:
    """Doubled messages are counted and dropped."""
    machine, _ = walk(*way)
    before = machine.state

    assert machine.handle(again) == [do.Drop("late")]
    assert machine.state is before


def test_another_attempts_messages_and_blocks_are_dropped() -> None:
    """Even blocks: they are not written anywhere."""
    machine, _ = walk(*RECEIVING)

    assert machine.handle(say.Abort(M, 6, "")) == [do.Drop("old epoch")]
    old = replace(frame(0, 1), epoch=6)
    assert machine.handle(ev.BlocksOffered(old)) == [do.Drop("old epoch")]


def test_our_own_mistakes_raise_with_the_whole_story() -> None:
    """A driver that breaks its contract is told how it came to that."""
    machine, _ = walk(*RECEIVING)

    with pytest.raises(InvalidTransition, match="Reserve"):
        machine.handle(ev.Attached())
