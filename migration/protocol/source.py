"""The source's side of one migration: a state machine without I/O, clock or engine.

    NEW → RESERVING → COPYING → ACKING ─┐   the request keeps decoding; any number of times
            ↑───────────────────────────┤
            RESERVING_LAST → DETACHING  ←┘   ask the engine for a step boundary
              → (RESERVING_REST) → COPYING_LAST    the request is held, in no batch
                → COMMITTING → (ASKING) → ENDED

Any failure before the commit was sent ends with the request in the batch here (UNDOING waits
for a detach that cannot be recalled). After it, only an explicit refusal brings the request
back; without any answer the source lets go and the frontend, which holds the stream, arbitrates.
It lets go at once if the engine cannot take back a detached request (`Abilities`).
"""

import enum
from dataclasses import replace

from migration.config import MigrationConfig
from migration.engine import PAUSABLE, Abilities, RequestState
from migration.protocol import events as ev
from migration.protocol import instructions as do
from migration.protocol import messages as say
from migration.protocol import pacing
from migration.protocol.machine import Action, StateMachine, Table, late, rows
from migration.protocol.trip import Trip


class SourceState(enum.Enum):
    """The source's state, named after what it waits for or does."""

    NEW = "new"
    RESERVING = "reserve"
    COPYING = "copy"
    ACKING = "ack"
    RESERVING_LAST = "reserve last"
    DETACHING = "detach"
    RESERVING_REST = "reserve rest"
    COPYING_LAST = "copy last"
    COMMITTING = "commit"
    ASKING = "query"
    UNDOING = "undo"
    ENDED = "ended"


LIVE = (SourceState.RESERVING, SourceState.COPYING, SourceState.ACKING, SourceState.RESERVING_LAST)
HELD = (SourceState.RESERVING_REST, SourceState.COPYING_LAST)
SENT = (SourceState.COMMITTING, SourceState.ASKING)


Todo = list[do.SourceInstruction]


class Source(StateMachine[SourceState]):
    """Moves one request away. `handle` takes an event or message and returns instructions."""

    def __init__(
        self,
        trip: Trip,
        config: MigrationConfig,
        bandwidth: pacing.Bandwidth,
        *,
        abilities: Abilities = PAUSABLE,
    ) -> None:
        super().__init__(SourceState.NEW, trip.epoch)
        self._abilities = abilities
        self.trip = trip
        self.config = config
        self.stage = -1
        self.copied_blocks = 0
        self.copied_bytes = 0
        self.held: RequestState | None = None
        self.detached_s: float | None = None
        self._moment = ev.Moment(0.0, None, 0.0)
        self._bandwidth = bandwidth
        self._reserved_blocks = 0
        self._sending_blocks = 0
        self._unsent_blocks = 0
        self._stage_started_s = 0.0
        self._asked = 0
        self._verdict = do.Ended(do.Outcome.ABORTED, "")

    @property
    def redirect(self) -> str:
        """The stop reason that redirects the request's stream to the destination."""
        return f"migrate:{self.trip.migration_id}"

    def handle(self, event: ev.SourceEvent | say.Message, moment: ev.Moment) -> Todo:
        """Process one event or message; return the instructions, in order."""
        self._moment = moment
        return self.follow(TABLE, event)

    # --- stages ---

    def _start(self, _event: ev.Start) -> Todo:
        return self._next_stage()

    def _next_stage(self) -> Todo:
        if self._moment.kv_tokens is None:
            return self._give_up("request not running", tell=True)
        self.stage += 1
        step = pacing.next_stage(
            stage=self.stage,
            max_stages=self.config.max_stages,
            copied_blocks=self.copied_blocks,
            kv_tokens=self._moment.kv_tokens,
            block_tokens=self.trip.layout.block_tokens,
            block_bytes=self.trip.layout.block_bytes,
            bandwidth=self._bandwidth,
            step_s=self._moment.step_s,
        )
        if isinstance(step, pacing.Copy):
            return self._reserve(SourceState.RESERVING, step.first_block + step.n_blocks)
        return self._reserve(SourceState.RESERVING_LAST, step.n_blocks)

    def _reserve(self, state: SourceState, n_blocks: int) -> Todo:
        self._reserved_blocks = max(self._reserved_blocks, n_blocks + self.config.slack_blocks)
        reserve = self.trip.reserve(self.stage, self._reserved_blocks)
        return [do.Send(reserve), *self._wait(state, self.config.reserve_timeout_s)]

    def _reserved(self, event: say.Reserved) -> Todo:
        if event.stage != self.stage:
            return self._stale_or_wrong(event.stage)
        if self.state is SourceState.RESERVING_LAST:
            return [do.Detach(), *self._wait(SourceState.DETACHING, self.config.detach_timeout_s)]
        if self.state is SourceState.RESERVING_REST:
            return self._copy_last()
        if self._moment.kv_tokens is None:
            return self._give_up("request not running", tell=True)
        full_blocks = self._moment.kv_tokens // self.trip.layout.block_tokens
        return self._copy(SourceState.COPYING, min(full_blocks, self._reserved_blocks))

    def _copy(self, state: SourceState, until_block: int) -> Todo:
        first, self._stage_started_s = self.copied_blocks, self._moment.now_s
        self._sending_blocks = self._unsent_blocks = until_block - first
        assert self._unsent_blocks > 0, list(self.story)
        return [
            do.SendBlocks(self.stage, first, self._unsent_blocks),
            *self._wait(state, self.config.stage_timeout_s),
        ]

    def _frame_sent(self, event: ev.FrameSent) -> Todo:
        self._unsent_blocks -= event.n_blocks
        self.copied_bytes += event.n_bytes
        self._bandwidth.observe_sending(event.n_bytes, event.seconds)
        assert self._unsent_blocks >= 0, list(self.story)
        if self._unsent_blocks:
            return self._wait(self.state, self.config.stage_timeout_s)
        if self.state is SourceState.COPYING_LAST:
            self.copied_blocks += self._sending_blocks
            return self._commit()
        n_blocks = self.copied_blocks + self._sending_blocks
        done = self.trip.stage_done(self.stage, n_blocks)
        return [do.Send(done), *self._wait(SourceState.ACKING, self.config.stage_timeout_s)]

    def _acknowledged(self, event: say.StageAck) -> Todo:
        if event.stage != self.stage:
            return self._stale_or_wrong(event.stage)
        n_bytes = self._sending_blocks * self.trip.layout.block_bytes
        self._bandwidth.observe(n_bytes, self._moment.now_s - self._stage_started_s)
        self.copied_blocks += self._sending_blocks
        return self._next_stage()

    # --- the last stage ---

    def _detached(self, event: ev.Detached) -> Todo:
        self.held, self.detached_s = self._with_tail(event.state), self._moment.now_s
        needed = self._needed_blocks()
        if needed > self._reserved_blocks:
            self.stage += 1
            return self._reserve(SourceState.RESERVING_REST, needed)
        return self._copy_last()

    def _with_tail(self, state: RequestState) -> RequestState:
        """Drop the last tokens' KV where recomputing it is predicted to be faster than copying."""
        layout = self.trip.layout
        copied_tokens = self.copied_blocks * layout.block_tokens
        copies = pacing.tail_is_copied(
            tail_tokens=state.kv_tokens - copied_tokens,
            block_tokens=layout.block_tokens,
            block_bytes=layout.block_bytes,
            bandwidth=self._bandwidth,
            step_s=self._moment.step_s,
        )
        if copies or not self._abilities.recompute:
            return state
        return replace(state, kv_tokens=copied_tokens)

    def _needed_blocks(self) -> int:
        assert self.held is not None, list(self.story)
        return pacing.blocks_for(self.held.kv_tokens, self.trip.layout.block_tokens)

    def _copy_last(self) -> Todo:
        needed = self._needed_blocks()
        if needed == self.copied_blocks:
            return self._commit()
        return self._copy(SourceState.COPYING_LAST, needed)

    def _commit(self) -> Todo:
        assert self.held is not None, list(self.story)
        commit = self.trip.commit(self._needed_blocks(), self.held)
        return [do.Send(commit), *self._wait(SourceState.COMMITTING, self.config.commit_timeout_s)]

    def _committed(self, _event: say.Committed) -> Todo:
        return self._let_go(do.Outcome.COMMITTED, "")

    def _let_go(self, outcome: do.Outcome, reason: str) -> Todo:
        return [do.Release(self.redirect), *self._end(do.Ended(outcome, reason))]

    def _ask(self, _event: ev.TimerFired | ev.PeerLost | ev.AskFailed) -> Todo:
        if self._asked == self.config.query_attempts:
            return self._let_go(do.Outcome.UNRESOLVED, "commit never answered")
        self._asked += 1
        return [
            do.Ask(self.trip.query()),
            *self._wait(SourceState.ASKING, self.config.query_timeout_s),
        ]

    # --- ends before the commit, or by the destination's word ---

    def _refused(self, event: say.Refused) -> Todo:
        return self._give_up(event.reason, tell=False, outcome=do.Outcome.REFUSED)

    def _aborted(self, event: say.Abort) -> Todo:
        return self._give_up(f"destination: {event.reason}", tell=False)

    def _peer_lost(self, _event: ev.PeerLost) -> Todo:
        return self._give_up("link lost", tell=False)

    def _timed_out(self, event: ev.TimerFired) -> Todo:
        return self._give_up(f"timeout: {event.name}", tell=True)

    def _stopped(self, event: ev.Stop) -> Todo:
        return self._give_up(event.reason, tell=True)

    def _unexpected(self, event: say.Message) -> Todo:
        name = type(event).__name__
        return self._give_up(f"protocol: {name} while {self.state.value}", tell=True)

    def _left(self, event: ev.Left) -> Todo:
        reason = f"request {event.why.value}"
        return [*self._tell(reason), *self._end(do.Ended(do.Outcome.ABORTED, reason))]

    def _give_up(
        self, reason: str, *, tell: bool, outcome: do.Outcome = do.Outcome.ABORTED
    ) -> Todo:
        """Let the request continue here, once it can be put back."""
        told: Todo = self._tell(reason) if tell else []
        verdict = do.Ended(outcome, reason)
        if self.state is SourceState.DETACHING:
            self.state, self._verdict = SourceState.UNDOING, verdict
            return [*told, do.CancelTimer()]
        if self.state in HELD + SENT:
            return [*told, *self._take_back(verdict)]
        return [*told, *self._end(verdict)]

    def _undone(self, event: ev.Detached | ev.Left) -> Todo:
        if isinstance(event, ev.Detached):
            return self._take_back(self._verdict)
        return self._end(self._verdict)

    def _take_back(self, verdict: do.Ended) -> Todo:
        """Put a detached request back, or leave it to the frontend where that is impossible."""
        if self._abilities.reattach:
            return [do.Reattach(), *self._end(verdict)]
        return self._let_go(do.Outcome.UNRESOLVED, verdict.reason)

    # --- small things ---

    def _tell(self, reason: str) -> Todo:
        return [do.Send(self.trip.abort(reason))]

    def _wait(self, state: SourceState, seconds: float) -> Todo:
        self.state = state
        return [do.SetTimer(state.value, seconds)]

    def _end(self, verdict: do.Ended) -> Todo:
        self.state = SourceState.ENDED
        return [do.CancelTimer(), verdict]

    def _stale_or_wrong(self, stage: int) -> Todo:
        if stage < self.stage:
            return [do.Drop("late")]
        return self._give_up("protocol: an answer to a stage that has not begun", tell=True)


TABLE: Table[SourceState] = {}
"""The action for each event in each state. A pair not listed cannot happen."""

# ruff: noqa: SLF001 (the table is part of the class; it only reads better outside)
_RESERVING = (SourceState.RESERVING, SourceState.RESERVING_LAST, SourceState.RESERVING_REST)
_LATE = dict.fromkeys((say.Reserved, say.StageAck, ev.PeerLost, ev.TimerFired, ev.Stop), late)
_BEFORE_COMMIT: dict[type, Action] = {
    say.Reserved: late,
    say.StageAck: late,
    say.Refused: Source._refused,
    say.Abort: Source._aborted,
    say.Committed: Source._unexpected,
    ev.PeerLost: Source._peer_lost,
    ev.TimerFired: Source._timed_out,
    ev.Stop: Source._stopped,
    ev.Left: Source._left,
}
_AFTER_COMMIT: dict[type, Action] = _LATE | {
    say.Committed: Source._committed,
    say.Refused: Source._refused,
    say.Abort: Source._aborted,
    ev.TimerFired: Source._ask,
    ev.Left: Source._left,
}
_UNDOING: dict[type, Action] = _LATE | {
    say.Refused: late,
    say.Abort: late,
    say.Committed: late,
    ev.Detached: Source._undone,
    ev.Left: Source._undone,
}
rows(TABLE, (SourceState.NEW,), {ev.Start: Source._start})
rows(TABLE, (*LIVE, SourceState.DETACHING, *HELD), _BEFORE_COMMIT)
rows(TABLE, _RESERVING, {say.Reserved: Source._reserved})
rows(TABLE, (SourceState.COPYING, SourceState.COPYING_LAST), {ev.FrameSent: Source._frame_sent})
rows(TABLE, (SourceState.ACKING,), {say.StageAck: Source._acknowledged})
rows(TABLE, (SourceState.DETACHING,), {ev.Detached: Source._detached})
rows(TABLE, SENT, _AFTER_COMMIT)
rows(TABLE, (SourceState.COMMITTING,), {ev.PeerLost: Source._ask})
rows(TABLE, (SourceState.ASKING,), {ev.AskFailed: Source._ask})
rows(TABLE, (SourceState.UNDOING,), _UNDOING)
