"""The source's table: what ends a migration where, and what becomes of the request."""

from dataclasses import replace

import pytest

from migration.config import MigrationConfig
from migration.engine import PAUSABLE, Abilities, Gone, RequestState
from migration.errors import InvalidTransition
from migration.protocol import events as ev
from migration.protocol import instructions as do
from migration.protocol import messages as say
from migration.protocol.pacing import Bandwidth
from migration.protocol.source import HELD, LIVE, SENT, Source, SourceState
from migration.protocol.trip import Trip
from tests.migration.protocol.samples import LAYOUT, A, B, M, R

CONFIG = MigrationConfig(max_stages=4, slack_blocks=1, query_attempts=2)
TRIP = Trip(M, 7, R, A, B, LAYOUT)
STATE = RequestState(R, 0, (1, 2, 3), (4, 5, 6), 5, {})
"""Five tokens with KV in blocks of two: two full blocks and a partial one."""

REST: list[ev.SourceEvent | say.Message] = [
    ev.Start(),
    say.Reserved(M, 7, 0),
    ev.FrameSent(2, 32),
    say.StageAck(M, 7, 0),
    say.Reserved(M, 7, 1),
    ev.Detached(STATE),
    ev.FrameSent(1, 16),
    ev.TimerFired("commit"),
]
PATH = [
    SourceState.NEW,
    SourceState.RESERVING,
    SourceState.COPYING,
    SourceState.ACKING,
    SourceState.RESERVING_LAST,
    SourceState.DETACHING,
    SourceState.COPYING_LAST,
    SourceState.COMMITTING,
    SourceState.ASKING,
]
BIG = replace(STATE, output_token_ids=tuple(range(20)), kv_tokens=20)
"""Grown past what was reserved before it left the batch."""

Done = list[do.SourceInstruction]


def feed(source: Source, event: ev.SourceEvent | say.Message, kv_tokens: int | None = 5) -> Done:
    return source.handle(event, ev.Moment(now_s=1.0, kv_tokens=kv_tokens, step_s=0.0))


def reach(state: SourceState, abilities: Abilities = PAUSABLE) -> Source:
    """Walk a source to a state by the shortest way."""
    source = Source(TRIP, CONFIG, Bandwidth(), abilities=abilities)
    if state in (SourceState.RESERVING_REST, SourceState.UNDOING):
        last = ev.Detached(BIG) if state is SourceState.RESERVING_REST else ev.Stop("over")
        for event in [*REST[:5], last]:
            feed(source, event)
    else:
        for event in REST[: PATH.index(state)]:
            feed(source, event)
    assert source.state is state
    return source


def kinds(done: Done) -> list[type]:
    """Name the instructions, but for timers."""
    return [type(item) for item in done if not isinstance(item, do.SetTimer | do.CancelTimer)]


def sent(done: Done) -> list[say.Message]:
    return [item.message for item in done if isinstance(item, do.Send)]


def test_the_whole_way_to_committed() -> None:
    """Reserve, copy, acknowledge, reserve, detach, copy the rest, commit, release."""
    source = Source(TRIP, CONFIG, Bandwidth())
    done = [item for event in REST[:7] for item in feed(source, event)]
    done += feed(source, say.Committed(M, 7))

    assert [item for item in done if not isinstance(item, do.SetTimer)] == [
        do.Send(say.Reserve(M, 7, R, A, B, 0, 3, LAYOUT)),
        do.SendBlocks(0, 0, 2),
        do.Send(say.StageDone(M, 7, 0, 2)),
        do.Send(say.Reserve(M, 7, R, A, B, 1, 4, LAYOUT)),
        do.Detach(),
        do.SendBlocks(1, 2, 1),
        do.Send(say.Commit(M, 7, 3, STATE)),
        do.Release("migrate:m"),
        do.CancelTimer(),
        do.Ended(do.Outcome.COMMITTED, ""),
    ]


def test_what_grew_meanwhile_is_another_stage() -> None:
    """Blocks that became full while a stage was under way are copied live, too."""
    source = reach(SourceState.ACKING)

    done = feed(source, say.StageAck(M, 7, 0), kv_tokens=9)

    assert sent(done) == [say.Reserve(M, 7, R, A, B, 1, 5, LAYOUT)]
    assert feed(source, say.Reserved(M, 7, 1), kv_tokens=11)[0] == do.SendBlocks(1, 2, 3)


def test_a_request_without_full_blocks_is_moved_in_one_stage() -> None:
    """There is nothing to copy while it decodes."""
    source = Source(TRIP, CONFIG, Bandwidth())

    assert sent(feed(source, ev.Start(), kv_tokens=1)) == [say.Reserve(M, 7, R, A, B, 0, 2, LAYOUT)]
    assert source.state is SourceState.RESERVING_LAST


def test_nothing_left_to_copy_means_commit_at_once() -> None:
    """When the KV ends on a block already copied, the last stage is the commit alone."""
    source = reach(SourceState.DETACHING)

    done = feed(source, ev.Detached(replace(STATE, kv_tokens=4, output_token_ids=(4, 5))))

    assert [type(message) for message in sent(done)] == [say.Commit]


def test_a_request_that_outgrew_its_room_asks_again_before_it_copies() -> None:
    """Blocks are never sent beyond what was reserved."""
    source = reach(SourceState.DETACHING)

    assert sent(feed(source, ev.Detached(BIG))) == [say.Reserve(M, 7, R, A, B, 2, 11, LAYOUT)]
    assert feed(source, say.Reserved(M, 7, 2))[0] == do.SendBlocks(2, 2, 8)


def test_a_stage_is_done_when_its_last_frame_is_sent() -> None:
    """Frames are counted, and each is a sign of life that rewinds the timer."""
    source = reach(SourceState.COPYING)

    assert feed(source, ev.FrameSent(1, 16)) == [do.SetTimer("copy", CONFIG.stage_timeout_s)]
    assert sent(feed(source, ev.FrameSent(1, 16))) == [say.StageDone(M, 7, 0, 2)]


ENDINGS: list[tuple[ev.SourceEvent | say.Message, do.Outcome, bool]] = [
    (say.Refused(M, 7, "no"), do.Outcome.REFUSED, False),
    (say.Abort(M, 7, "no"), do.Outcome.ABORTED, False),
    (ev.PeerLost(), do.Outcome.ABORTED, False),
    (ev.Stop("no"), do.Outcome.ABORTED, True),
    (say.Committed(M, 7), do.Outcome.ABORTED, True),
]


@pytest.mark.parametrize("state", LIVE + HELD)
@pytest.mark.parametrize(("event", "outcome", "tells"), ENDINGS)
def test_before_the_commit_whatever_fails_leaves_the_request_here(
    state: SourceState, event: ev.SourceEvent | say.Message, outcome: do.Outcome, tells: bool
) -> None:
    """It goes on at the source: put back if it was held, else untouched, and never released."""
    done = feed(reach(state), event)

    expected = [do.Send] * tells + [do.Reattach] * (state in HELD) + [do.Ended]
    assert kinds(done) == expected
    assert isinstance(done[-1], do.Ended)
    assert done[-1].outcome is outcome


@pytest.mark.parametrize("state", [*LIVE, *HELD])
def test_before_the_commit_silence_ends_it_here(state: SourceState) -> None:
    """Every wait is bounded, and the destination is told."""
    done = feed(reach(state), ev.TimerFired(state.value))

    assert kinds(done) == [do.Send] + [do.Reattach] * (state in HELD) + [do.Ended]
    assert isinstance(sent(done)[0], say.Abort)


@pytest.mark.parametrize("event", [ending[0] for ending in ENDINGS])
def test_a_detach_is_waited_for_before_it_is_undone(
    event: ev.SourceEvent | say.Message,
) -> None:
    """The engine cannot be called off: once the request is out, it is put back."""
    source = reach(SourceState.DETACHING)
    feed(source, event)

    assert source.state is SourceState.UNDOING
    assert kinds(feed(source, ev.Detached(STATE))) == [do.Reattach, do.Ended]


def test_a_request_that_finishes_instead_of_detaching_needs_no_undoing() -> None:
    """There is nothing to put back."""
    assert kinds(feed(reach(SourceState.UNDOING), ev.Left(Gone.FINISHED))) == [do.Ended]


@pytest.mark.parametrize("state", [*LIVE, *HELD, SourceState.DETACHING, *SENT])
@pytest.mark.parametrize("why", Gone)
def test_a_request_that_is_gone_ends_it_and_the_destination_is_told(
    state: SourceState, why: Gone
) -> None:
    """INV-5: finished, cancelled or preempted, the destination frees at once."""
    done = feed(reach(state), ev.Left(why))

    assert kinds(done) == [do.Send, do.Ended]
    assert isinstance(sent(done)[0], say.Abort)


@pytest.mark.parametrize("state", SENT)
@pytest.mark.parametrize("word", [say.Refused(M, 7, "no"), say.Abort(M, 7, "no")])
def test_after_the_commit_only_the_destinations_word_brings_it_back(
    state: SourceState, word: say.Message
) -> None:
    """A refusal is for good, so the request can go on here."""
    assert kinds(feed(reach(state), word)) == [do.Reattach, do.Ended]


@pytest.mark.parametrize("event", [ev.PeerLost(), ev.TimerFired("commit")])
def test_an_unanswered_commit_is_asked_about_and_then_handed_over(
    event: ev.SourceEvent,
) -> None:
    """The source asks a bounded number of times, then lets go: the frontend arbitrates."""
    source = reach(SourceState.COMMITTING)
    assert kinds(feed(source, event)) == [do.Ask]
    assert kinds(feed(source, ev.TimerFired("query"))) == [do.Ask]

    done = feed(source, ev.AskFailed())

    assert kinds(done) == [do.Release, do.Ended]
    assert isinstance(done[-1], do.Ended)
    assert done[-1].outcome is do.Outcome.UNRESOLVED


@pytest.mark.parametrize("state", SENT)
def test_a_commit_cannot_be_called_off(state: SourceState) -> None:
    """Neither a shutdown nor a late answer to a stage changes anything any more."""
    for event in (ev.Stop("no"), say.Reserved(M, 7, 0), say.StageAck(M, 7, 1)):
        assert feed(reach(state), event) == [do.Drop("late")]


@pytest.mark.parametrize("state", [*LIVE, *HELD, SourceState.DETACHING, *SENT, SourceState.UNDOING])
@pytest.mark.parametrize(
    "message",
    [
        say.Reserved(M, 6, 0),
        say.Refused(M, 6, ""),
        say.StageAck(M, 8, 0),
        say.Committed(M, 6),
        say.Abort(M, 6, ""),
    ],
)
def test_another_attempts_messages_are_dropped(state: SourceState, message: say.Message) -> None:
    """Whatever is left over from an old epoch is counted and changes nothing."""
    source = reach(state)

    assert feed(source, message) == [do.Drop("old epoch")]
    assert source.state is state


@pytest.mark.parametrize("state", [*LIVE, *HELD, SourceState.DETACHING, *SENT, SourceState.UNDOING])
def test_answers_that_come_twice_are_dropped(state: SourceState) -> None:
    """Doubled acknowledgements of earlier stages change nothing."""
    source = reach(state)
    if source.stage == 0:
        source.stage = 1

    for message in (say.Reserved(M, 7, 0), say.StageAck(M, 7, 0)):
        assert feed(source, message) == [do.Drop("late")]


def test_a_stale_timer_is_dropped() -> None:
    """A timer that fired for an earlier wait changes nothing."""
    assert feed(reach(SourceState.ACKING), ev.TimerFired("reserve")) == [do.Drop("stale timer")]


@pytest.mark.parametrize(
    ("state", "event"),
    [
        (SourceState.RESERVING, ev.Detached(STATE)),
        (SourceState.ACKING, ev.FrameSent(1, 16)),
        (SourceState.COMMITTING, ev.Detached(STATE)),
        (SourceState.COPYING, ev.Start()),
    ],
)
def test_our_own_mistakes_raise_with_the_whole_story(
    state: SourceState, event: ev.SourceEvent
) -> None:
    """An engine or driver that breaks its contract is told how it came to that."""
    with pytest.raises(InvalidTransition, match="Start"):
        feed(reach(state), event)


@pytest.mark.parametrize(
    "state", [SourceState.RESERVING, SourceState.ACKING, SourceState.RESERVING_LAST]
)
def test_an_answer_to_a_stage_not_begun_aborts(state: SourceState) -> None:
    """A peer cannot run ahead."""
    ahead = say.StageAck(M, 7, 9) if state is SourceState.ACKING else say.Reserved(M, 7, 9)

    assert kinds(feed(reach(state), ahead)) == [do.Send, do.Ended]


@pytest.mark.parametrize("state", [SourceState.NEW, SourceState.RESERVING, SourceState.ACKING])
def test_a_request_that_does_not_run_is_not_moved(state: SourceState) -> None:
    """Without KV there is nothing to copy; the destination is told."""
    event = {SourceState.NEW: REST[0], SourceState.RESERVING: REST[1], SourceState.ACKING: REST[3]}[
        state
    ]

    assert kinds(feed(reach(state), event, kv_tokens=None)) == [do.Send, do.Ended]
