"""The source for engines that end a request where they detach it, and compute short tails anew."""

from dataclasses import replace

import pytest

from migration.engine import Abilities, Gone, RequestState
from migration.protocol import events as ev
from migration.protocol import instructions as do
from migration.protocol import messages as say
from migration.protocol.pacing import SHORT_TAIL_TOKENS, Bandwidth, tail_is_copied
from migration.protocol.source import HELD, LIVE, SENT, Source, SourceState
from tests.migration.protocol.samples import M
from tests.migration.protocol.test_source import (
    BIG,
    CONFIG,
    ENDINGS,
    REST,
    STATE,
    TRIP,
    feed,
    kinds,
    reach,
    sent,
)

ENDING = Abilities(reattach=False, recompute=True)
LET_GO = [do.Release, do.Ended]


def outcome(done: list[do.SourceInstruction]) -> do.Outcome:
    assert isinstance(done[-1], do.Ended)
    return done[-1].outcome


@pytest.mark.parametrize("state", HELD)
@pytest.mark.parametrize(("event", "_", "tells"), ENDINGS)
def test_a_request_that_has_ended_here_is_left_to_the_frontend(
    state: SourceState, event: ev.SourceEvent | say.Message, _: do.Outcome, tells: bool
) -> None:
    """It cannot be put back: the destination is told, the stream has its redirect."""
    done = feed(reach(state, ENDING), event)

    assert kinds(done) == [do.Send] * tells + LET_GO
    assert outcome(done) is do.Outcome.UNRESOLVED
    assert do.Release("migrate:m") in done


@pytest.mark.parametrize("state", HELD)
def test_so_it_is_after_silence(state: SourceState) -> None:
    done = feed(reach(state, ENDING), ev.TimerFired(state.value))

    assert kinds(done) == [do.Send, *LET_GO]
    assert outcome(done) is do.Outcome.UNRESOLVED


@pytest.mark.parametrize("state", SENT)
@pytest.mark.parametrize("word", [say.Refused(M, 7, "no"), say.Abort(M, 7, "no")])
def test_so_it_is_when_the_destination_will_not_have_it(
    state: SourceState, word: say.Message
) -> None:
    done = feed(reach(state, ENDING), word)

    assert kinds(done) == LET_GO
    assert outcome(done) is do.Outcome.UNRESOLVED


@pytest.mark.parametrize("event", [ending[0] for ending in ENDINGS])
def test_a_detach_that_cannot_be_called_off_ends_in_the_same_way(
    event: ev.SourceEvent | say.Message,
) -> None:
    source = reach(SourceState.DETACHING, ENDING)
    feed(source, event)
    done = feed(source, ev.Detached(STATE))

    assert kinds(done) == LET_GO
    assert outcome(done) is do.Outcome.UNRESOLVED


@pytest.mark.parametrize("why", Gone)
def test_one_that_goes_on_or_ends_by_itself_instead_is_no_hand_over(why: Gone) -> None:
    """Preempted, say: the engine has taken the end back."""
    for state in (SourceState.DETACHING, SourceState.UNDOING):
        done = feed(reach(state, ENDING), ev.Left(why))
        assert outcome(done) is not do.Outcome.UNRESOLVED
        assert do.Release not in kinds(done)


@pytest.mark.parametrize("state", LIVE)
@pytest.mark.parametrize(("event", "expected", "_"), ENDINGS)
def test_one_that_still_decodes_is_not_touched(
    state: SourceState, event: ev.SourceEvent | say.Message, expected: do.Outcome, _: bool
) -> None:
    done = feed(reach(state, ENDING), event)

    assert do.Release not in kinds(done)
    assert outcome(done) is expected


def test_the_whole_way_ends_in_a_release_that_was_one_already() -> None:
    source = Source(TRIP, CONFIG, Bandwidth(), abilities=ENDING)
    done = [item for event in REST[:7] for item in feed(source, event)]
    done += feed(source, say.Committed(M, 7))

    assert kinds(done)[-2:] == LET_GO
    assert outcome(done) is do.Outcome.COMMITTED


# --- tails ---


def slow() -> Bandwidth:
    """A link on which any block takes far longer than a step."""
    bandwidth = Bandwidth()
    bandwidth.observe(1, 100.0)
    bandwidth.observe_sending(1, 100.0)
    return bandwidth


def detach(abilities: Abilities, state: RequestState, step_s: float = 0.1) -> Source:
    source = reach(SourceState.DETACHING, abilities)
    source._bandwidth = slow()
    source.handle(ev.Detached(state), ev.Moment(1.0, state.kv_tokens, step_s))
    return source


def test_a_short_tail_on_a_slow_link_is_left_to_be_computed() -> None:
    """The commit says of how many tokens there is KV, and follows at once."""
    source = detach(ENDING, STATE)

    assert source.state is SourceState.COMMITTING
    assert source.held == replace(STATE, kv_tokens=4)


def test_it_is_copied_where_the_engine_cannot_compute_it() -> None:
    source = detach(Abilities(reattach=False, recompute=False), STATE)

    assert source.state is SourceState.COPYING_LAST
    assert source.held == STATE


def test_it_is_copied_while_nothing_is_known_of_steps() -> None:
    assert detach(ENDING, STATE, step_s=0.0).state is SourceState.COPYING_LAST


def test_a_long_tail_is_copied_however_slow_the_link() -> None:
    long = replace(BIG, output_token_ids=tuple(range(60)), kv_tokens=4 + SHORT_TAIL_TOKENS + 1)

    assert detach(ENDING, long).state is SourceState.RESERVING_REST


def test_the_commit_tells_the_blocks_that_were_sent() -> None:
    source = reach(SourceState.DETACHING, ENDING)
    source._bandwidth = slow()
    done = source.handle(ev.Detached(STATE), ev.Moment(1.0, 5, 0.1))

    assert sent(done) == [say.Commit(M, 7, 2, replace(STATE, kv_tokens=4))]


@pytest.mark.parametrize(
    ("tail_tokens", "sending_s", "step_s", "copied"),
    [
        (1, None, 0.1, True),
        (1, 0.05, 0.1, True),
        (1, 0.2, 0.1, False),
        (9, 0.06, 0.1, False),
        (SHORT_TAIL_TOKENS, 9.0, 0.1, False),
        (SHORT_TAIL_TOKENS + 1, 9.0, 0.1, True),
        (1, 9.0, 0.0, True),
    ],
)
def test_a_tail_is_copied_when_that_takes_no_longer_than_a_step(
    tail_tokens: int, sending_s: float | None, step_s: float, copied: bool
) -> None:
    """`sending_s` is for a block of 8 tokens."""
    bandwidth = Bandwidth()
    if sending_s is not None:
        bandwidth.observe_sending(80, sending_s)
    found = tail_is_copied(
        tail_tokens=tail_tokens, block_tokens=8, block_bytes=80, bandwidth=bandwidth, step_s=step_s
    )
    assert found is copied
