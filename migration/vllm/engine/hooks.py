"""What a llumlet sees of a vLLM engine: `EngineHooks`, on the agent's thread.

Nothing here waits for the engine: calls to it are sent over the bridge, and its answers come back
as calls of the llumlet's agent.
"""

import asyncio
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from migration.engine import Abilities, RequestState
from migration.errors import LinkError
from migration.layout import Layout
from migration.vllm.arena import Arena, Slots
from migration.vllm.engine.bridge import Bridge
from migration.vllm.engine.engine_side import EngineSide
from migration.vllm.engine.register import Tracked
from policies.types import (
    InstanceId,
    InstanceLoad,
    MigrationId,
    RequestId,
    RequestPhase,
    RequestView,
)

_LOOK_AGAIN_S = 0.05


@dataclass(slots=True, eq=False)
class StagedDeparture:
    """A request on its way out: where its staged blocks are, and how far staging has come."""

    slots: dict[int, int] = field(default_factory=dict)
    staged_until: int = 0
    over: bool = False


class VllmHooks:
    """Implements `migration.engine.EngineHooks`; blocks pass through the ranks' arenas."""

    def __init__(
        self,
        engine: EngineSide,
        bridge: Bridge,
        arenas: Sequence[Arena],
        slots: Slots,
        layout: Layout,
        instance_id: InstanceId,
        wait_s: float,
        claim_s: float,
    ) -> None:
        self._engine = engine
        self._bridge = bridge
        self._arenas = arenas
        self._slots = slots
        self._layout = layout
        self._instance_id = instance_id
        self._wait_s = wait_s
        self._claim_s = claim_s
        self._departures: dict[RequestId, StagedDeparture] = {}
        self._freed = asyncio.Event()

    # --- looking ---

    def layout(self) -> Layout:
        """See EngineHooks."""
        return self._layout

    def load(self) -> InstanceLoad:
        """See EngineHooks."""
        return self._engine.load(self._instance_id)

    def steps_done(self) -> int:
        """See EngineHooks. A step that is never planned follows one that never ends."""
        return self._engine.steps

    def requests(self) -> Sequence[RequestView]:
        """See EngineHooks."""
        return self._engine.register.views()

    def kv_tokens(self, request_id: RequestId) -> int | None:
        """See EngineHooks."""
        tracked = self._running(request_id)
        return None if tracked is None else tracked.kv_tokens()

    def _running(self, request_id: RequestId) -> Tracked | None:
        tracked = self._engine.register.get(request_id)
        return tracked if tracked is not None and tracked.phase is RequestPhase.RUNNING else None

    # --- moving away ---

    def abilities(self) -> Abilities:
        """See EngineHooks; vLLM can end a request at an exact token, but not pause it."""
        return Abilities(reattach=False, recompute=True)

    def departing(self, request_id: RequestId, redirect: str) -> None:
        """See EngineHooks."""
        self._departures[request_id] = StagedDeparture()
        tracked = self._engine.register.get(request_id)
        if tracked is not None:
            self._bridge.to_engine(lambda: self._engine.outgoing.begin(tracked, redirect))

    def departed(self, request_id: RequestId) -> None:
        """See EngineHooks."""
        departure = self._departures.pop(request_id, None)
        self._bridge.to_engine(lambda: self._engine.outgoing.over(request_id))
        if departure is not None:
            departure.over = True
            self._free(departure, list(departure.slots))

    def stage(
        self, request_id: RequestId, first_block: int, n_blocks: int
    ) -> Awaitable[bool] | None:
        """See EngineHooks."""
        departure = self._departures.get(request_id)
        blocks = range(first_block, first_block + n_blocks)
        if departure is not None and all(block in departure.slots for block in blocks):
            return None
        return self._stage(departure, request_id, blocks)

    async def _stage(
        self, departure: StagedDeparture | None, request_id: RequestId, blocks: range
    ) -> bool:
        if departure is None:
            return False
        done: asyncio.Future[dict[int, int] | None] = asyncio.get_running_loop().create_future()
        try:
            async with asyncio.timeout(self._wait_s):
                slots = await self._acquire(len(blocks))
                self._bridge.to_engine(
                    lambda: self._engine.outgoing.gather(
                        request_id,
                        blocks.start,
                        slots,
                        lambda placed: self._bridge.to_agent(self._staged, departure, placed, done),
                    )
                )
                placed = await done
        except TimeoutError:
            return False  # the migration's own timer ends it; the slots come back with the job
        return placed is not None and not departure.over

    def _staged(
        self,
        departure: StagedDeparture,
        placed: dict[int, int] | None,
        done: "asyncio.Future[dict[int, int] | None]",
    ) -> None:
        if placed is not None:
            departure.slots.update(placed)
            departure.staged_until = max(departure.staged_until, max(placed) + 1)
            if departure.over:
                self._free(departure, list(placed))
        if not done.done():
            done.set_result(placed)

    def gather(self, request_id: RequestId, first_block: int, n_blocks: int) -> list[memoryview]:
        """See EngineHooks; each block is its ranks' parts, one after the other."""
        slots = self._departures[request_id].slots
        return self._views([slots[block] for block in range(first_block, first_block + n_blocks)])

    def unstage(self, request_id: RequestId, first_block: int, n_blocks: int) -> None:
        """See EngineHooks."""
        departure = self._departures.get(request_id)
        if departure is not None:
            blocks = range(first_block, first_block + n_blocks)
            self._free(departure, [block for block in blocks if block in departure.slots])

    def _free(self, departure: StagedDeparture, blocks: list[int]) -> None:
        self._slots.release([departure.slots.pop(block) for block in blocks])
        self._freed.set()

    async def _acquire(self, n: int) -> list[int]:
        while (slots := self._slots.acquire(n)) is None:
            await self._slots_come_free()
        return slots

    async def _slots_come_free(self) -> None:
        """Wait until slots were given back; the engine's thread does not always notify."""
        self._freed.clear()
        with suppress(TimeoutError):
            async with asyncio.timeout(_LOOK_AGAIN_S):
                await self._freed.wait()

    def detach(self, request_id: RequestId) -> None:
        """See EngineHooks; the request ends here at its next step."""
        departure = self._departures.get(request_id)
        if departure is not None:
            tail = departure.staged_until
            self._bridge.to_engine(lambda: self._engine.outgoing.end(request_id, tail))

    def leaves(self, state: RequestState, tail_slots: dict[int, int]) -> bool:
        """Take over the last blocks of a request that has ended here; False: not wanted."""
        departure = self._departures.get(state.request_id)
        if departure is None:
            self._slots.release(list(tail_slots.values()))
            self._freed.set()
            return False
        departure.slots.update(tail_slots)
        return True

    def reattach(self, request_id: RequestId) -> None:
        """See EngineHooks; never called (`abilities`)."""
        raise AssertionError(f"{request_id} cannot be reattached")

    def release(self, request_id: RequestId, redirect: str) -> None:
        """See EngineHooks; its stream ended with the redirect when it was detached."""

    # --- moving in ---

    def reserve(self, migration_id: MigrationId, n_blocks: int) -> bool:
        """See EngineHooks; the blocks themselves are taken when the early claim is here."""
        if not self._engine.has_room(migration_id, n_blocks):
            return False
        return self._engine.shelf.open(migration_id)

    def room(
        self, migration_id: MigrationId, first_block: int, n_blocks: int
    ) -> Awaitable[bool] | None:
        """See EngineHooks. Raises LinkError when no staging memory comes free in time."""
        if self._engine.shelf.place(migration_id, first_block, n_blocks):
            return None
        return self._wait_for_room(migration_id, first_block, n_blocks)

    async def _wait_for_room(
        self, migration_id: MigrationId, first_block: int, n_blocks: int
    ) -> bool:
        if n_blocks > self._engine.shelf.capacity:
            raise LinkError(f"{n_blocks} blocks in a frame exceed the staging memory")
        try:
            async with asyncio.timeout(self._wait_s):
                while not self._engine.shelf.place(migration_id, first_block, n_blocks):
                    await self._slots_come_free()
        except TimeoutError:
            raise LinkError("no staging memory was freed in time") from None
        return True

    def slots_freed(self) -> None:
        """Note, on the agent's thread, that slots were given back."""
        self._freed.set()

    def reserved_views(
        self, migration_id: MigrationId, first_block: int, n_blocks: int
    ) -> list[memoryview]:
        """See EngineHooks."""
        slots = self._engine.shelf.landing_slots(migration_id, first_block, n_blocks)
        return self._views(slots)

    def arrived(self, migration_id: MigrationId, first_block: int, n_blocks: int) -> None:
        """See EngineHooks."""
        self._engine.shelf.arrived(migration_id, first_block, n_blocks)
        self._bridge.ring()

    def free_reservation(self, migration_id: MigrationId) -> None:
        """See EngineHooks; received KV is kept for a while, for a claim that may follow."""
        self._engine.shelf.drop(migration_id, "aborted")
        self._expire_later(migration_id)

    def attach(self, migration_id: MigrationId, state: RequestState) -> bool:
        """See EngineHooks; the request runs as soon as its claim and all of its KV are here."""
        taken = self._engine.shelf.commit(migration_id, state)
        self._bridge.ring()
        self._expire_later(migration_id)
        return taken

    def _expire_later(self, migration_id: MigrationId) -> None:
        loop = asyncio.get_running_loop()
        loop.call_later(self._claim_s, self._engine.shelf.expire, migration_id)

    # --- draining ---

    def requeue(self, request_id: RequestId) -> bool:
        """See EngineHooks."""
        tracked = self._engine.register.get(request_id)
        if (
            tracked is None
            or tracked.phase is not RequestPhase.QUEUED
            or tracked.request.num_output_tokens
        ):
            return False
        self._bridge.to_engine(lambda: self._engine.requeue(tracked))
        return True

    def set_terminating(self, on: bool) -> None:
        """See EngineHooks; new requests are sent back by ending their streams, vLLM's only way."""
        self._engine.terminating = on

    def _views(self, slots: Sequence[int]) -> list[memoryview]:
        return [arena.view(slot) for slot in slots for arena in self._arenas]
