"""The engine hooks of the llumlet of an instance laid out in columns."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from migration.engine import DirectMemory, RequestState
from migration.layout import Layout
from migration.protocol.pacing import blocks_for
from policies.types import (
    InstanceId,
    InstanceLoad,
    MigrationId,
    RequestId,
    RequestPhase,
    RequestView,
)
from simulator.events import EventQueue
from simulator.fleet.instance import InstanceShape
from simulator.kernel.compiled import Kernel
from simulator.kernel.engine.roster import add_to_instance, decoding, free_slots
from simulator.kernel.holdings import Holding, Reservation
from simulator.kernel.state import (
    AFTER_MOVE,
    ALLOCATED,
    AT,
    BATCH,
    BY_CLASS,
    CHUNK,
    CLASS,
    CLASS_COLUMNS,
    COMING,
    DETACHED,
    DETACHED_COUNT,
    FITS_TOKENS,
    FREE,
    GONE,
    HERE,
    INTERFERENCE_AT_JOIN_NS,
    INTERFERENCE_NS,
    KV,
    LEAVING,
    MOVE_GAP,
    MOVING,
    ORDER,
    OUT,
    PLACE,
    QUEUED,
    RESERVATIONS,
    RESERVED,
    SHARES,
    SIZE,
    TOTAL_BLOCKS,
    WAITS_FOR,
    WATCHED,
    WATCHED_COUNT,
    WIDTH,
    State,
)


class Names(Protocol):
    """Knows the requests by name, and is told of those that moved: the fleet."""

    def position(self, request_id: RequestId) -> int:
        """Return a request's row."""

    def name(self, position: int) -> RequestId:
        """Return the request of this row."""

    def attached(self, position: int, instance_id: InstanceId, migration_id: MigrationId) -> None:
        """Record that a request has moved."""

    def requeued(self, position: int) -> None:
        """Hold a queued request that was sent back to the front."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What a request that has left the batch, but not yet the instance, holds there."""

    position: int
    order: int
    holding: Holding


class ColumnHooks(DirectMemory):
    """`migration.engine.EngineHooks` over row `at` of the columns."""

    def __init__(
        self,
        at: int,
        instance_id: InstanceId,
        shape: InstanceShape,
        state: State,
        kernel: Kernel,
        events: EventQueue,
        names: Names,
    ) -> None:
        self.at = at
        self.instance_id = instance_id
        self.shape = shape
        self.state = state
        self._kernel, self._events, self._names = kernel, events, names
        self._reservations: dict[MigrationId, Reservation] = {}
        self._kept: dict[RequestId, Kept] = {}
        self._departing: set[RequestId] = set()

    @property
    def _shares(self) -> bool:
        return bool(self.state.fleet[SHARES])

    def settle(self) -> None:
        """Advance the columns to the present."""
        self._kernel.single_out(self.state, self.at, self._events.now_ns)

    def wake(self) -> None:
        """Resume computing, if there is anything to compute."""
        self._kernel.wake(self.state, self.at)

    # --- EngineHooks ---

    def layout(self) -> Layout:
        """See EngineHooks."""
        return self.shape.layout

    def load(self) -> InstanceLoad:
        """See EngineHooks; reports are read off the columns."""
        raise AssertionError("a simulated llumlet is never asked for its load")

    def requests(self) -> Sequence[RequestView]:
        """See EngineHooks; waiting requests are left out, they cannot move."""
        self.settle()
        return [self._view(r) for r in self._batch()]

    def kv_tokens(self, request_id: RequestId) -> int | None:
        """See EngineHooks."""
        kept = self._kept.get(request_id)
        if kept is not None:
            return kept.holding.kv_tokens
        r = self._names.position(request_id)
        return int(self.state.req[KV][r]) if self._in_batch(r) and decoding(self.state, r) else None

    def gather(self, _id: RequestId, _first: int, _n: int) -> list[memoryview]:
        """See EngineHooks; there are no bytes here."""
        raise AssertionError("a simulated network needs no bytes")

    def reserve(self, migration_id: MigrationId, n_blocks: int) -> bool:
        """See EngineHooks."""
        self.settle()
        held = self._reservations.get(migration_id)
        if held is None and free_slots(self.state, self.at) <= 0:
            return False
        before = held or Reservation()
        more = max(0, n_blocks - before.blocks)
        if more > self._get(FREE):
            return False
        if held is None:
            self._add(RESERVATIONS, 1)
        self._add(FREE, -more)
        self._add(RESERVED, more)
        last = before.last
        if self._shares:
            last = self._kernel.hand_out(self.state, self.at, last, more, 0)
        self._reservations[migration_id] = Reservation(before.blocks + more, last)
        return True

    def reserved_views(self, _id: MigrationId, _first: int, _n: int) -> list[memoryview]:
        """See EngineHooks; there are no bytes here."""
        return []

    def free_reservation(self, migration_id: MigrationId) -> None:
        """See EngineHooks."""
        self.settle()
        held = self._reservations.pop(migration_id, None)
        if held is not None:
            self._add(RESERVATIONS, -1)
            self._add(FREE, held.blocks)
            self._add(RESERVED, -held.blocks)
            if self._shares:
                self._kernel.hand_back(self.state, self.at, held.last, held.blocks)
        self.wake()

    def attach(self, migration_id: MigrationId, state: RequestState) -> bool:
        """See EngineHooks; `simulator.engine.roster.Roster.attach`."""
        self.settle()
        total = len(state.prompt_token_ids) + len(state.output_token_ids)
        kv_tokens, block_tokens = state.kv_tokens, self.shape.limits.block_tokens
        held = self._reservations.get(migration_id, Reservation()).blocks
        needed = blocks_for(kv_tokens if kv_tokens == total - 1 else total, block_tokens)
        acceptable = 0 <= kv_tokens < total and blocks_for(kv_tokens, block_tokens) <= held > 0
        acceptable = acceptable and self.reserve(migration_id, needed)
        r = self._names.position(state.request_id)
        acceptable &= state.request_id not in self._kept and not self._here(r)
        acceptable &= blocks_for(total, block_tokens) <= self.state.fleet[TOTAL_BLOCKS]
        if not acceptable:
            self.free_reservation(migration_id)
            return False
        taken = self._reservations.pop(migration_id)
        self._add(RESERVATIONS, -1)
        self._add(RESERVED, -taken.blocks)
        self._add(ALLOCATED, taken.blocks)
        req = self.state.req
        assert req[PLACE][r] in (GONE, DETACHED), f"{state.request_id} runs elsewhere"
        assert req[OUT][r] == len(state.output_token_ids), state.request_id
        add_to_instance(self.state, self.at, r)
        req[KV][r], req[FITS_TOKENS][r] = kv_tokens, taken.blocks * block_tokens
        if self._shares:
            self._kernel.move_in(self.state, self.at, r, taken.last)
        req[WAITS_FOR][r] |= AFTER_MOVE
        req[MOVE_GAP][r] = 0
        req[INTERFERENCE_AT_JOIN_NS][r] = self._get(INTERFERENCE_NS)
        self._kernel.enter_batch(self.state, self.at, r)
        self._names.attached(r, self.instance_id, migration_id)
        self.wake()
        return True

    def detach(self, request_id: RequestId) -> None:
        """See EngineHooks."""
        r = self._names.position(request_id)
        if self._in_batch(r) and decoding(self.state, r):
            self.state.req[LEAVING][r] = 1

    def reattach(self, request_id: RequestId) -> None:
        """See EngineHooks."""
        self.settle()
        kept = self._kept.pop(request_id, None)
        r = self._names.position(request_id)
        if kept is not None:
            self._add(DETACHED_COUNT, -1)
            self._add_here(r, -1)
            self.state.req[CHUNK][r] = 0
            self.state.req[INTERFERENCE_AT_JOIN_NS][r] = self._get(INTERFERENCE_NS)
            self._kernel.enter_batch(self.state, self.at, r)
        elif self._in_batch(r):
            self.state.req[LEAVING][r] = 0
        self.wake()

    def release(self, request_id: RequestId, _redirect: str) -> None:
        """See EngineHooks."""
        self.settle()
        if self._cancel(request_id):
            self.wake()

    def departing(self, request_id: RequestId, _redirect: str) -> None:
        """See EngineHooks: from now on, the llumlet is told of each of the request's steps."""
        self.settle()
        self._departing.add(request_id)
        self._watch(request_id, 1)

    def departed(self, request_id: RequestId) -> None:
        """See EngineHooks."""
        self._departing.remove(request_id)
        self._watch(request_id, -1)

    # --- within ---

    def _watch(self, request_id: RequestId, more: int) -> None:
        self.state.req[MOVING][self._names.position(request_id)] += more
        self.state.fleet[WATCHED_COUNT] += more
        self._add(WATCHED, more)

    def _cancel(self, request_id: RequestId) -> bool:
        kept = self._kept.pop(request_id, None)
        req = self.state.req
        if kept is None:
            r = self._names.position(request_id)
            assert not self._here(r), f"{request_id} was released before it left the batch"
            return False
        r = kept.position
        self._add(DETACHED_COUNT, -1)
        self._add_here(r, -1)
        now = Holding.of(self.state, r)
        kept.holding.put(self.state, r)
        self._kernel.free_blocks(self.state, self.at, r)
        if req[AT][r] == self.at and req[PLACE][r] == DETACHED:
            req[PLACE][r] = GONE
        else:
            now.put(self.state, r)
        return True

    def _batch(self) -> list[int]:
        base = self.at * int(self.state.fleet[WIDTH])
        return [int(r) for r in self.state.batches[base : base + self._get(SIZE)]]

    def _view(self, r: int) -> RequestView:
        req = self.state.req
        phase = RequestPhase.RUNNING if decoding(self.state, r) else RequestPhase.PREFILL
        return RequestView(
            request_id=self._names.name(r),
            class_index=int(req[CLASS][r]),
            phase=RequestPhase.QUEUED if req[PLACE][r] == QUEUED else phase,
            context_tokens=int(req[KV][r]),
            arrived_order=int(req[ORDER][r]),
            movable=not req[LEAVING][r],
        )

    def _here(self, r: int) -> bool:
        req = self.state.req
        return bool(req[AT][r] == self.at and req[PLACE][r] in (QUEUED, BATCH, COMING))

    def _in_batch(self, r: int) -> bool:
        req = self.state.req
        return bool(req[AT][r] == self.at and req[PLACE][r] == BATCH)

    def _get(self, column: int) -> int:
        return int(self.state.ins[column][self.at])

    def _put(self, column: int, value: int) -> None:
        self.state.ins[column][self.at] = value

    def _add(self, column: int, more: int) -> None:
        self.state.ins[column][self.at] += more

    def _add_here(self, r: int, more: int) -> None:
        self._add(BY_CLASS + CLASS_COLUMNS * int(self.state.req[CLASS][r]) + HERE, more)
