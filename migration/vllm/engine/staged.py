"""KV received for a request, and what is known of that request: one record per migration.

Both threads use it: the agent's writes what the network delivers, the engine's takes it from there.
Every method holds the lock for a few dictionary operations at most.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

from migration.engine import RequestState
from migration.vllm.arena import Slots
from policies.types import MigrationId


@dataclass(slots=True, eq=False)
class Staged:
    """What is here of one migration: blocks still landing, and blocks `waiting` for a request.

    `receiving` while the llumlet receives more: until then slots in `landing` may be written to at
    any moment and belong to it alone. `over` says why none of it is available any more; `touched_s`
    when data last arrived; `claimed` that a request here takes blocks of it, or is about to.
    """

    migration_id: MigrationId
    touched_s: float
    landing: dict[int, int] = field(default_factory=dict)
    waiting: dict[int, int] = field(default_factory=dict)
    commit: RequestState | None = None
    over: str | None = None
    receiving: bool = True
    claimed: bool = False

    def until(self, first_block: int) -> int:
        """Return the end of the contiguous waiting blocks that begin with this one."""
        while first_block in self.waiting:
            first_block += 1
        return first_block


class Shelf:
    """All records, by migration. `freed` is called, on any thread, when slots were given back."""

    def __init__(self, slots: Slots, clock: Callable[[], float]) -> None:
        self.freed: Callable[[], None] = lambda: None
        self._slots = slots
        self._clock = clock
        self._lock = threading.Lock()
        self._records: dict[MigrationId, Staged] = {}

    @property
    def capacity(self) -> int:
        """Count the blocks that fit in at once."""
        return len(self._slots)

    # --- the agent's thread ---

    def open(self, migration_id: MigrationId) -> bool:
        """Begin or continue a record; False when requests here are done with it."""
        with self._lock:
            record = self._records.get(migration_id)
            if record is not None and not record.receiving and not record.claimed:
                self._forget(record)  # left by an earlier attempt
                record = None
            if record is None:
                record = self._records[migration_id] = Staged(migration_id, self._clock())
            return record.receiving and record.over is None

    def place(self, migration_id: MigrationId, first_block: int, n_blocks: int) -> bool:
        """Assign a frame's blocks slots to land in; False when there are not enough now."""
        with self._lock:
            record = self._records.get(migration_id)
            if record is None or not record.receiving:
                return True  # the llumlet throws this frame away
            blocks = range(first_block, first_block + n_blocks)
            missing = [block for block in blocks if block not in record.landing]
            slots = self._slots.acquire(len(missing)) if missing else []
            if slots is None:
                return False
            record.landing.update(zip(missing, slots, strict=True))
            return True

    def landing_slots(
        self, migration_id: MigrationId, first_block: int, n_blocks: int
    ) -> list[int]:
        """Return where a frame's blocks land; `place` must have returned True."""
        with self._lock:
            landing = self._records[migration_id].landing
            return [landing[block] for block in range(first_block, first_block + n_blocks)]

    def arrived(self, migration_id: MigrationId, first_block: int, n_blocks: int) -> None:
        """Note that a frame has arrived."""
        with self._lock:
            record = self._records.get(migration_id)
            if record is None or not record.receiving:
                return
            record.touched_s = self._clock()
            blocks = range(first_block, first_block + n_blocks)
            here = {block: record.landing.pop(block) for block in blocks}
            if record.over is None:
                record.waiting.update(here)
            else:
                self._give_back(here)

    def commit(self, migration_id: MigrationId, state: RequestState) -> bool:
        """Note that the request is handed over; False when nothing here could take it any more."""
        with self._lock:
            record = self._records.get(migration_id)
            if record is None or record.over is not None or not record.receiving:
                return False
            record.commit, record.touched_s, record.receiving = state, self._clock(), False
            self._give_back(record.landing)
            return True

    def drop(self, migration_id: MigrationId, reason: str) -> None:
        """Note that no more will arrive; what lies in slots is kept while a request may want it."""
        with self._lock:
            record = self._records.get(migration_id)
            if record is None:
                return
            record.over, record.receiving = record.over or reason, False
            self._give_back(record.landing)

    def expire(self, migration_id: MigrationId) -> None:
        """Forget a record that has ended and that no request has claimed."""
        with self._lock:
            record = self._records.get(migration_id)
            if record is not None and not record.claimed and not record.receiving:
                self._forget(record)

    # --- the engine's thread ---

    def take(self, record: Staged, first_block: int, until_block: int) -> dict[int, int]:
        """Take waiting blocks within these bounds; those below, known here already, are dropped."""
        with self._lock:
            below = [block for block in record.waiting if block < first_block]
            self._give_back({block: record.waiting.pop(block) for block in below})
            wanted = sorted(block for block in record.waiting if block < until_block)
            return {block: record.waiting.pop(block) for block in wanted}

    def give_back(self, taken: dict[int, int]) -> None:
        """Free the slots of blocks taken: they are in the cache now."""
        with self._lock:
            self._give_back(dict(taken))

    def claim(self, migration_id: MigrationId | None) -> Staged | None:
        """Find a record, and keep it until `let_go` or `forget`."""
        with self._lock:
            record = self._records.get(migration_id) if migration_id is not None else None
            if record is not None:
                record.claimed = True
            return record

    def let_go(self, migration_id: MigrationId) -> None:
        """Note that a request which had claimed a record ended; another may still claim it."""
        with self._lock:
            record = self._records.get(migration_id)
            if record is None:
                return
            record.claimed = False
            if not record.receiving:
                self._forget(record)

    def forget(self, migration_id: MigrationId) -> None:
        """Withdraw a record; it is freed as soon as the llumlet is done, too."""
        with self._lock:
            record = self._records.get(migration_id)
            if record is None:
                return
            record.claimed, record.over = False, record.over or "forgotten"
            self._give_back(record.waiting)
            if not record.receiving:
                self._forget(record)

    def active(self) -> int:
        """Count the records."""
        with self._lock:
            return len(self._records)

    def _forget(self, record: Staged) -> None:
        del self._records[record.migration_id]
        record.over = record.over or "forgotten"
        self._give_back(record.landing)
        self._give_back(record.waiting)

    def _give_back(self, placed: dict[int, int]) -> None:
        if placed:
            self._slots.release(list(placed.values()))
            placed.clear()
            self.freed()
