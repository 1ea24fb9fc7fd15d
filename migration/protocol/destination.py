"""The destination's side of one migration: a state machine without I/O, clock or engine.

    NEW → RESERVING → RECEIVING ⇄ RESERVING
                         ↓ commit
                     (COMPLETING) → ATTACHING → ATTACHED
    FENCED: refused, aborted, lost or timed out; all is freed, and this id is never attached here

Both outcomes are remembered, so that a late commit or question always gets the same answer: what
was attached stays attached, what was fenced stays fenced. The source relies on that promise when
it takes a request back.
"""

import enum

from migration.config import MigrationConfig
from migration.engine import RequestState
from migration.layout import Layout
from migration.protocol import events as ev
from migration.protocol import instructions as do
from migration.protocol import messages as say
from migration.protocol import pacing
from migration.protocol.machine import Action, StateMachine, Table, late, rows
from policies.types import InstanceId, MigrationId

Todo = list[do.DestinationInstruction]


class DestinationState(enum.Enum):
    """The destination's state, named after what it waits for or does."""

    NEW = "new"
    RESERVING = "reserve"
    RECEIVING = "receive"
    COMPLETING = "complete"
    ATTACHING = "attach"
    ATTACHED = "attached"
    FENCED = "fenced"


ENDS = (DestinationState.ATTACHED, DestinationState.FENCED)


class Destination(StateMachine[DestinationState]):
    """Receives one request. `handle` takes an event or message and returns instructions."""

    def __init__(
        self,
        migration_id: MigrationId,
        epoch: int,
        instance_id: InstanceId,
        layout: Layout,
        config: MigrationConfig,
    ) -> None:
        super().__init__(DestinationState.NEW, epoch)
        self.migration_id = migration_id
        self.stage = -1
        self._instance_id = instance_id
        self._layout = layout
        self._config = config
        self._room_blocks = 0
        self._landing: set[int] = set()
        self._received: set[int] = set()
        self._top_block = 0
        self._promised_blocks: int | None = None
        self._state: RequestState | None = None

    def handle(self, event: ev.DestinationEvent | say.Message) -> Todo:
        """Process one event or message; return the instructions, in order."""
        return self.follow(TABLE, event)

    # --- room ---

    def _open(self, event: say.Reserve) -> Todo:
        if event.destination != self._instance_id:
            return self._refuse(f"this is {self._instance_id}, not {event.destination}")
        if difference := self._layout.mismatch(event.layout):
            return self._refuse(f"layout: {difference}")
        if event.stage != 0:
            return self._refuse("unknown migration")
        return self._make_room(event)

    def _grow(self, event: say.Reserve) -> Todo:
        if event.stage <= self.stage:
            return [do.Drop("late")]
        in_order = event.stage == self.stage + 1 and event.n_blocks >= self._room_blocks
        if not in_order or self.state is DestinationState.COMPLETING:
            return self._abort("protocol: reservations out of order")
        return self._make_room(event)

    def _make_room(self, event: say.Reserve) -> Todo:
        self.state = DestinationState.RESERVING
        self.stage, self._room_blocks = event.stage, event.n_blocks
        self._promised_blocks = None
        return [do.MakeRoom(event.n_blocks)]

    def _room_made(self, _event: ev.RoomMade) -> Todo:
        reserved = say.Reserved(self.migration_id, self.epoch, self.stage)
        return [do.Send(reserved), *self._watch(DestinationState.RECEIVING)]

    def _room_denied(self, event: ev.RoomDenied) -> Todo:
        return self._refuse(event.reason)

    # --- blocks ---

    def _offered(self, event: ev.BlocksOffered) -> Todo:
        blocks = event.blocks
        if blocks.epoch != self.epoch:
            return [do.Drop("old epoch")]
        wanted = range(blocks.first_block, blocks.first_block + blocks.n_blocks)
        if blocks.stage != self.stage or not wanted or wanted.stop > self._room_blocks:
            return self._abort("protocol: blocks not requested")
        if not self._received.isdisjoint(wanted) or not self._landing.isdisjoint(wanted):
            return self._abort("blocks sent twice")
        self._landing.update(wanted)
        self._top_block = max(self._top_block, wanted.stop)
        return [do.Land(blocks), *self._watch(self.state)]

    def _landed(self, event: ev.BlocksLanded) -> Todo:
        if not event.intact:
            return self._abort("blocks damaged on the way")
        first = event.blocks.first_block
        arrived = range(first, first + event.blocks.n_blocks)
        self._landing.difference_update(arrived)
        self._received.update(arrived)
        if self.state is DestinationState.COMPLETING:
            return self._attach_when_complete()
        return self._acknowledge_when_complete()

    def _has_exactly(self, n_blocks: int) -> bool | None:
        """Whether blocks [0, n) and no others are here; None: not yet."""
        if self._top_block > n_blocks:
            return False
        return True if len(self._received) == n_blocks else None

    def _stage_done(self, event: say.StageDone) -> Todo:
        if event.stage != self.stage or self._promised_blocks is not None:
            return [do.Drop("late")]
        self._promised_blocks = event.n_blocks
        return [*self._watch(DestinationState.RECEIVING), *self._acknowledge_when_complete()]

    def _acknowledge_when_complete(self) -> Todo:
        if self._promised_blocks is None:
            return self._watch(DestinationState.RECEIVING)
        complete = self._has_exactly(self._promised_blocks)
        if complete is None:
            return self._watch(DestinationState.RECEIVING)
        if not complete:
            return self._abort("protocol: more blocks than the stage has")
        return [do.Send(say.StageAck(self.migration_id, self.epoch, self.stage))]

    # --- commit ---

    def _commit(self, event: say.Commit) -> Todo:
        state = event.state
        tokens = len(state.prompt_token_ids) + len(state.output_token_ids)
        if not 0 <= state.kv_tokens <= tokens:
            return self._refuse("protocol: more KV than tokens")
        if event.n_blocks != pacing.blocks_for(state.kv_tokens, self._layout.block_tokens):
            return self._refuse("protocol: wrong number of blocks")
        self._promised_blocks, self._state = event.n_blocks, state
        return [*self._watch(DestinationState.COMPLETING), *self._attach_when_complete()]

    def _attach_when_complete(self) -> Todo:
        assert self._promised_blocks is not None, list(self.story)
        assert self._state is not None, list(self.story)
        complete = self._has_exactly(self._promised_blocks)
        if complete is None:
            return self._watch(DestinationState.COMPLETING)
        if not complete:
            return self._refuse("protocol: more blocks than the request has")
        self.state = DestinationState.ATTACHING
        return [do.CancelTimer(), do.Attach(self._state)]

    def _attached(self, _event: ev.Attached) -> Todo:
        self._forget_blocks()
        self.state = DestinationState.ATTACHED
        return [*self._confirm(None), do.Ended(do.Outcome.COMMITTED, "")]

    def _attach_denied(self, _event: ev.AttachDenied) -> Todo:
        return self._refuse("the engine refused the request")

    # --- ends ---

    def _confirm(self, _event: say.Message | None) -> Todo:
        return [do.Send(say.Committed(self.migration_id, self.epoch))]

    def _repeat_refusal(self, _event: say.Message) -> Todo:
        return [do.Send(say.Refused(self.migration_id, self.epoch, "ended before"))]

    def _refuse(self, reason: str) -> Todo:
        refused = say.Refused(self.migration_id, self.epoch, reason)
        return [*self._fence(do.Outcome.REFUSED, reason), do.Send(refused)]

    def _abort(self, reason: str) -> Todo:
        abort = say.Abort(self.migration_id, self.epoch, reason)
        return [*self._fence(do.Outcome.ABORTED, reason), do.Send(abort)]

    def _fence(self, outcome: do.Outcome, reason: str) -> Todo:
        had_room = self.state not in (DestinationState.NEW, *ENDS)
        self._forget_blocks()
        self.state = DestinationState.FENCED
        if not had_room:
            return [do.Ended(outcome, reason)]
        return [do.CancelTimer(), do.FreeRoom(), do.Ended(outcome, reason)]

    def _forget_blocks(self) -> None:
        self._landing, self._received, self._state = set(), set(), None
        self.story.clear()

    def _unknown(self, _event: say.Message) -> Todo:
        return self._refuse("unknown migration")

    def _asked(self, _event: say.Query) -> Todo:
        return self._refuse("not attached when asked")

    def _aborted(self, event: say.Abort) -> Todo:
        return self._fence(do.Outcome.ABORTED, f"source: {event.reason}")

    def _peer_lost(self, _event: ev.PeerLost) -> Todo:
        return self._fence(do.Outcome.ABORTED, "link lost")

    def _superseded(self, _event: ev.Superseded) -> Todo:
        return self._fence(do.Outcome.ABORTED, "superseded by a new attempt")

    def _silence(self, event: ev.TimerFired) -> Todo:
        return self._abort(f"timeout: {event.name}")

    def _watch(self, state: DestinationState) -> Todo:
        self.state = state
        return [do.SetTimer(state.value, self._config.stage_timeout_s)]


TABLE: Table[DestinationState] = {}
"""The action for each event in each state. A pair not listed cannot happen."""

# ruff: noqa: SLF001 (the table is part of the class; it only reads better outside)
_NEW: dict[type, Action] = {
    say.Reserve: Destination._open,
    say.StageDone: Destination._unknown,
    say.Commit: Destination._unknown,
    say.Query: Destination._unknown,
    say.Abort: Destination._aborted,
}
_HOLDING: dict[type, Action] = {
    say.Reserve: Destination._grow,
    say.Query: Destination._asked,
    say.Abort: Destination._aborted,
    ev.BlocksOffered: Destination._offered,
    ev.BlocksLanded: Destination._landed,
    ev.PeerLost: Destination._peer_lost,
    ev.TimerFired: Destination._silence,
    ev.Superseded: Destination._superseded,
}
_ENDED = dict.fromkeys(
    (say.Reserve, say.StageDone, say.Abort, ev.BlocksOffered, ev.PeerLost, ev.TimerFired), late
)
_FENCED = dict.fromkeys(
    (say.Reserve, say.StageDone, say.Commit, say.Query), Destination._repeat_refusal
)
_ROOM: dict[type, Action] = {
    ev.RoomMade: Destination._room_made,
    ev.RoomDenied: Destination._room_denied,
}
_ATTACHING: dict[type, Action] = {
    ev.Attached: Destination._attached,
    ev.AttachDenied: Destination._attach_denied,
}
rows(TABLE, (DestinationState.NEW,), _NEW)
rows(TABLE, (DestinationState.RESERVING,), _ROOM)
rows(TABLE, (DestinationState.RECEIVING, DestinationState.COMPLETING), _HOLDING)
rows(
    TABLE,
    (DestinationState.RECEIVING,),
    {say.StageDone: Destination._stage_done, say.Commit: Destination._commit},
)
rows(TABLE, (DestinationState.COMPLETING,), {say.StageDone: late, say.Commit: late})
rows(TABLE, (DestinationState.ATTACHING,), _ATTACHING)
rows(TABLE, ENDS, _ENDED)
rows(
    TABLE,
    (DestinationState.ATTACHED,),
    dict.fromkeys((say.Commit, say.Query), Destination._confirm),
)
rows(TABLE, (DestinationState.FENCED,), _FENCED)
