"""An engine small enough to hold in the hand: real block accounting, real KV bytes, no clock.

The KV row of a token is a hash of the row before it, of one earlier row and of the token itself,
all read back out of block memory, and the next token is read off the newest row: so a block that
was lost, swapped, stale or overwritten changes the answer.
"""

from collections.abc import Sequence

from migration.engine import DirectMemory, EngineListener, Gone, RequestState
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
from tests.migration.chain import ROW_BYTES, earlier_position, kv_row, read_token
from tests.migration.fake_request import FakeRequest, StreamSink


class FakeEngine(DirectMemory):
    """Implements `EngineHooks`. Nothing happens but by calls: `step` is one engine step."""

    def __init__(
        self,
        instance_id: InstanceId,
        n_blocks: int,
        sink: StreamSink,
        *,
        block_tokens: int = 2,
        model: str = "fake",
    ) -> None:
        self.instance_id = instance_id
        self.sink = sink
        self.listener: EngineListener | None = None
        self.block_tokens = block_tokens
        self.block_bytes = block_tokens * ROW_BYTES
        self.model = model
        self.n_blocks = n_blocks
        self.memory = bytearray(n_blocks * self.block_bytes)
        self.free = list(range(n_blocks))
        self.reservations: dict[MigrationId, list[int]] = {}
        self.running: dict[RequestId, FakeRequest] = {}
        self.unclaimed_finished: dict[MigrationId, FakeRequest] = {}
        self.terminating = False
        self.redirects: dict[RequestId, str] = {}
        self.denies_room = False
        self.denies_attach = False
        self._arrivals = 0

    # --- the engine's own life ---

    def submit(
        self, request_id: RequestId, prompt: Sequence[int], outputs: Sequence[int], max_tokens: int
    ) -> None:
        """Queue a request; `outputs` are those it had elsewhere (resume by recompute)."""
        assert request_id not in self.running
        self._arrivals += 1
        self.running[request_id] = FakeRequest(
            request_id, tuple(prompt), list(outputs), max_tokens, self._arrivals
        )

    def step(self) -> None:
        """Detach what asked for it, admit what fits, and give every running request one token."""
        for request in list(self.running.values()):
            if request.wants_detach:
                request.wants_detach, request.phase = False, "detached"
                assert self.listener is not None
                self._let_stand(request)
                self.listener.detached(request.request_id, self._state(request))
        for request in list(self.running.values()):
            if request.phase == "queued" and self._grow(request):
                request.phase = "running"
            if request.phase == "running" and request.request_id in self.running:
                self._advance(request)
        if self.listener is not None:
            self.listener.stepped()

    def _let_stand(self, request: FakeRequest) -> None:
        """Do what else this engine does with a request that leaves the batch."""

    def can_step(self) -> bool:
        """Say whether a step would change anything."""
        return any(
            request.wants_detach or request.phase in ("running", "queued")
            for request in self.running.values()
        )

    def cancel(self, request_id: RequestId) -> None:
        self._leave(self.running[request_id], Gone.CANCELLED)

    def preempt(self, request_id: RequestId) -> None:
        request = self.running[request_id]
        assert request.phase == "running", request
        self._free_blocks(request)
        request.phase, request.kv_tokens, request.wants_detach = "queued", 0, False
        if self.listener is not None:
            self.listener.gone(request_id, Gone.PREEMPTED)

    def claim(self, migration_id: MigrationId) -> FakeRequest | None:
        """Let the frontend take over an attached request's stream; once."""
        finished = self.unclaimed_finished.pop(migration_id, None)
        if finished is not None:
            return finished
        for request in self.running.values():
            if request.migration_id == migration_id:
                request.migration_id = None
                return request
        return None

    def unclaimed(self) -> list[MigrationId]:
        """List the migrations whose attached requests wait to be claimed."""
        attached = [request.migration_id for request in self.running.values()]
        return [*filter(None, attached), *self.unclaimed_finished]

    def expire_claim(self, migration_id: MigrationId) -> None:
        """Free an attached request nobody came for."""
        self.unclaimed_finished.pop(migration_id, None)
        for request in list(self.running.values()):
            if request.migration_id == migration_id:
                self._leave(request, Gone.CANCELLED)

    def _advance(self, request: FakeRequest) -> None:
        while not self._grow(request):
            running = [item for item in self.running.values() if item.phase == "running"]
            latest = max(running, key=lambda item: item.order)
            self.preempt(latest.request_id)
            if latest is request:
                return
        tokens = request.tokens
        while request.kv_tokens < len(tokens):
            position = request.kv_tokens
            before = self._row(request, position - 1) if position else b""
            earlier = self._row(request, earlier_position(position)) if position > 1 else b""
            self._write_row(request, position, kv_row(before, earlier, tokens[position]))
            request.kv_tokens += 1
        token = read_token(self._row(request, request.kv_tokens - 1))
        request.outputs.append(token)
        if request.migration_id is None:
            self.sink.token(self.instance_id, request.request_id, token)
        if len(request.outputs) >= request.max_tokens:
            if request.migration_id is not None:
                self.unclaimed_finished[request.migration_id] = request
            self._leave(request, Gone.FINISHED)

    def _leave(self, request: FakeRequest, why: Gone) -> None:
        self._free_blocks(request)
        del self.running[request.request_id]
        if why is Gone.FINISHED and request.migration_id is None:
            self.sink.ended(self.instance_id, request.request_id, "")
        if self.listener is not None:
            self.listener.gone(request.request_id, why)

    def _grow(self, request: FakeRequest) -> bool:
        needed = blocks_for(len(request.tokens), self.block_tokens) - len(request.blocks)
        if needed > len(self.free):
            return False
        request.blocks += [self.free.pop() for _ in range(needed)]
        return True

    def _free_blocks(self, request: FakeRequest) -> None:
        self.free += request.blocks
        request.blocks = []

    def _row(self, request: FakeRequest, position: int) -> bytes:
        start = self._address(request, position)
        return bytes(self.memory[start : start + ROW_BYTES])

    def _write_row(self, request: FakeRequest, position: int, row: bytes) -> None:
        start = self._address(request, position)
        self.memory[start : start + ROW_BYTES] = row

    def _address(self, request: FakeRequest, position: int) -> int:
        block = request.blocks[position // self.block_tokens]
        return block * self.block_bytes + position % self.block_tokens * ROW_BYTES

    def _state(self, request: FakeRequest) -> RequestState:
        return RequestState(
            request_id=request.request_id,
            class_index=0,
            prompt_token_ids=request.prompt,
            output_token_ids=tuple(request.outputs),
            kv_tokens=request.kv_tokens,
            params={"max_tokens": request.max_tokens},
        )

    def views(self, blocks: Sequence[int]) -> list[memoryview]:
        memory, size = memoryview(self.memory), self.block_bytes
        return [memory[block * size : (block + 1) * size] for block in blocks]

    def check_blocks(self) -> None:
        """Hold INV-3: every block is free, reserved or allocated, and only once."""
        held = [block for request in self.running.values() for block in request.blocks]
        reserved = [block for blocks in self.reservations.values() for block in blocks]
        assert sorted(self.free + held + reserved) == list(range(self.n_blocks))

    # --- EngineHooks ---

    def layout(self) -> Layout:
        return Layout("fake", self.model, "u8", self.block_tokens, self.block_bytes)

    def load(self) -> InstanceLoad:
        running = [request for request in self.running.values() if request.phase == "running"]
        held = sum(len(request.blocks) for request in self.running.values())
        reserved = sum(len(blocks) for blocks in self.reservations.values())
        return InstanceLoad(
            instance_id=self.instance_id,
            capacity_tokens=self.n_blocks * self.block_tokens,
            physical_tokens=held * self.block_tokens,
            head_demand_tokens=0,
            queued_demand_tokens=0,
            running=(len(running),),
            waiting=(len(self.running) - len(running),),
            reserved_tokens=reserved * self.block_tokens,
        )

    def requests(self) -> Sequence[RequestView]:
        return [
            RequestView(
                request_id=request.request_id,
                class_index=0,
                phase=(RequestPhase.QUEUED if request.phase == "queued" else RequestPhase.RUNNING),
                context_tokens=request.kv_tokens,
                arrived_order=request.order,
                movable=request.phase == "running" and request.migration_id is None,
            )
            for request in self.running.values()
        ]

    def kv_tokens(self, request_id: RequestId) -> int | None:
        request = self.running.get(request_id)
        return request.kv_tokens if request and request.phase != "queued" else None

    def gather(self, request_id: RequestId, first_block: int, n_blocks: int) -> list[memoryview]:
        return self.views(self.running[request_id].blocks[first_block : first_block + n_blocks])

    def reserve(self, migration_id: MigrationId, n_blocks: int) -> bool:
        held = self.reservations.get(migration_id, [])
        more = n_blocks - len(held)
        if self.denies_room or more > len(self.free):
            return False
        self.reservations[migration_id] = held + [self.free.pop() for _ in range(more)]
        return True

    def reserved_views(
        self, migration_id: MigrationId, first_block: int, n_blocks: int
    ) -> list[memoryview]:
        blocks = self.reservations[migration_id][first_block : first_block + n_blocks]
        assert len(blocks) == n_blocks
        return self.views(blocks)

    def free_reservation(self, migration_id: MigrationId) -> None:
        self.free += self.reservations.pop(migration_id, [])

    def attach(self, migration_id: MigrationId, state: RequestState) -> bool:
        blocks = self.reservations.pop(migration_id, None)
        if blocks is None:
            return False
        needed = blocks_for(state.kv_tokens, self.block_tokens)
        if self.denies_attach or state.request_id in self.running or needed > len(blocks):
            self.free += blocks
            return False
        self.free += blocks[needed:]
        self._arrivals += 1
        self.running[state.request_id] = FakeRequest(
            request_id=state.request_id,
            prompt=state.prompt_token_ids,
            outputs=list(state.output_token_ids),
            max_tokens=int(str(state.params["max_tokens"])),
            order=self._arrivals,
            phase="running",
            kv_tokens=state.kv_tokens,
            blocks=blocks[:needed],
            migration_id=migration_id,
        )
        return True

    def detach(self, request_id: RequestId) -> None:
        request = self.running[request_id]
        assert request.phase == "running", request
        request.wants_detach = True

    def reattach(self, request_id: RequestId) -> None:
        request = self.running[request_id]
        assert request.phase == "detached", request
        request.phase = "running"

    def release(self, request_id: RequestId, redirect: str) -> None:
        request = self.running.pop(request_id)
        assert request.phase == "detached", request
        self._free_blocks(request)
        self.sink.ended(self.instance_id, request_id, redirect)

    def requeue(self, request_id: RequestId) -> bool:
        request = self.running.get(request_id)
        if request is None or request.phase != "queued":
            return False
        del self.running[request_id]
        self.sink.ended(self.instance_id, request_id, "migrate:requeue")
        return True

    def set_terminating(self, on: bool) -> None:
        self.terminating = on
