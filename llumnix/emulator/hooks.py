"""The engine hooks of an emulated engine, for its llumlet."""

from collections.abc import Sequence

from llumnix.emulator.instance import EmulatedInstance
from migration.engine import DirectMemory, EngineListener, RequestState
from migration.layout import Layout
from policies.types import InstanceId, InstanceLoad, MigrationId, RequestId, RequestView
from simulator.engine.batch import Place
from simulator.engine.views import decoded_kv_tokens, request_views, requeueable

REQUEUE = "migrate:requeue"


class EmulatorHooks(DirectMemory):
    """`migration.engine.EngineHooks` over an emulated instance.

    Calls about a request that is already gone are ignored: `gone` has been reported.
    """

    def __init__(self, instance: EmulatedInstance) -> None:
        self._instance = instance
        self._engine = instance.engine

    def set_listener(self, listener: EngineListener) -> None:
        """Set the listener for steps, detached requests and requests that are gone."""
        self._instance.listener = listener

    def layout(self) -> Layout:
        """Return the layout of KV blocks."""
        pool = self._instance.pool
        return Layout(
            engine="emulated",
            model=self._instance.config.model,
            dtype="hash64",
            block_tokens=pool.block_tokens,
            block_bytes=pool.block_bytes,
        )

    def load(self) -> InstanceLoad:
        """Return the instance's current load."""
        return self._engine.load(
            InstanceId(self._instance.config.instance_id), terminating=self._instance.terminating
        )

    def steps_done(self) -> int:
        """Count the steps that have ended."""
        return self._instance.steps

    def requests(self) -> Sequence[RequestView]:
        """Return the requests here. Those about to leave, or just arrived, are not movable.

        If one moved on before its stream claimed it, only recompute could resume it.
        """
        return request_views(self._engine, self._instance.awaits_claim)

    def kv_tokens(self, request_id: RequestId) -> int | None:
        """Count the tokens of a decoding request that have KV; None for any other request."""
        return decoded_kv_tokens(self._engine, request_id)

    def gather(self, request_id: RequestId, first_block: int, n_blocks: int) -> list[memoryview]:
        """Return the bytes of some of a request's blocks, in order, without copying.

        Raises KeyError for an unknown request and IndexError for blocks it does not have.
        """
        request = self._engine.get(request_id)
        if request is None:
            raise KeyError(f"no request {request_id!r} here")
        return self._views(request.blocks, first_block, n_blocks)

    def reserve(self, migration_id: MigrationId, n_blocks: int) -> bool:
        """Grow a migration's reservation to `n_blocks` in all; False if memory is short."""
        return self._engine.reserve(migration_id, n_blocks)

    def reserved_views(
        self, migration_id: MigrationId, first_block: int, n_blocks: int
    ) -> list[memoryview]:
        """Return writable views of reserved blocks; raises IndexError beyond the reservation."""
        return self._views(self._engine.reserved_blocks(migration_id), first_block, n_blocks)

    def free_reservation(self, migration_id: MigrationId) -> None:
        """Drop a reservation; unknown ids are ignored."""
        self._engine.free_reservation(migration_id)
        self._instance.on_change()

    def attach(self, migration_id: MigrationId, state: RequestState) -> bool:
        """Turn a reservation into a running request from the next step on."""
        return self._instance.attach(migration_id, state)

    def detach(self, request_id: RequestId) -> None:
        """Take a request out of the batch when the step in flight ends."""
        self._engine.detach(request_id)

    def reattach(self, request_id: RequestId) -> None:
        """Return a detached request to the batch."""
        self._engine.reattach(request_id)
        self._instance.on_change()

    def release(self, request_id: RequestId, redirect: str) -> None:
        """End the stream of a detached request that now runs elsewhere, and free its blocks."""
        request = self._engine.get(request_id)
        if request is not None and request.place is Place.DETACHED:
            self._instance.end_here(request_id, redirect)

    def requeue(self, request_id: RequestId) -> bool:
        """End the stream of a queued request without output, so that it is sent elsewhere."""
        if not requeueable(self._engine, request_id):
            return False
        self._instance.end_here(request_id, REQUEUE)
        return True

    def set_terminating(self, on: bool) -> None:
        """Refuse new requests while on, except continuations of migrated ones."""
        self._instance.terminating = on

    def _views(self, blocks: Sequence[int], first_block: int, n_blocks: int) -> list[memoryview]:
        wanted = blocks[first_block : first_block + n_blocks]
        if first_block < 0 or len(wanted) != n_blocks:
            raise IndexError(
                f"blocks {first_block}..{first_block + n_blocks} requested of {len(blocks)}"
            )
        return self._instance.pool.views(wanted)
