"""What a llumlet sees of a simulated engine: counts of blocks and tokens, never their bytes."""

from collections.abc import Callable, Sequence

from migration.engine import DirectMemory, RequestState
from migration.layout import Layout
from policies.types import InstanceId, InstanceLoad, MigrationId, RequestId, RequestView
from simulator.engine.batch import EngineRequest
from simulator.engine.engine import Engine
from simulator.engine.views import decoded_kv_tokens, request_views, requeueable
from simulator.workload.request import PromptBlocks

NO_PARAMS: dict[str, object] = {}


class SimulatedHooks(DirectMemory):
    """`migration.engine.EngineHooks` over an engine model.

    `changed` is called when there may be something to compute again; `requeued` for a queued
    request sent back to the frontend; `attached` for one that has moved here. `prompt_blocks`
    returns what its prompt is made of.
    """

    def __init__(
        self,
        engine: Engine,
        instance_id: InstanceId,
        layout: Layout,
        changed: Callable[[], None],
        requeued: Callable[[RequestId], None],
        attached: Callable[[RequestId, MigrationId], None],
        prompt_blocks: Callable[[RequestId], PromptBlocks | None],
    ) -> None:
        self.terminating = False
        self._engine = engine
        self._instance_id = instance_id
        self._layout = layout
        self._changed = changed
        self._requeued = requeued
        self._attached = attached
        self._prompt_blocks = prompt_blocks

    def layout(self) -> Layout:
        """See EngineHooks."""
        return self._layout

    def load(self) -> InstanceLoad:
        """See EngineHooks."""
        return self._engine.load(self._instance_id, terminating=self.terminating)

    def requests(self) -> Sequence[RequestView]:
        """See EngineHooks."""
        return request_views(self._engine)

    def kv_tokens(self, request_id: RequestId) -> int | None:
        """See EngineHooks."""
        return decoded_kv_tokens(self._engine, request_id)

    def gather(self, _id: RequestId, _first: int, _n: int) -> list[memoryview]:
        """See EngineHooks; there are no bytes here."""
        raise AssertionError("a simulated network needs no bytes")

    def reserve(self, migration_id: MigrationId, n_blocks: int) -> bool:
        """See EngineHooks."""
        return self._engine.reserve(migration_id, n_blocks)

    def reserved_views(self, _id: MigrationId, _first: int, _n: int) -> list[memoryview]:
        """See EngineHooks; there are no bytes here."""
        return []

    def free_reservation(self, migration_id: MigrationId) -> None:
        """See EngineHooks."""
        self._engine.free_reservation(migration_id)
        self._changed()

    def attach(self, migration_id: MigrationId, state: RequestState) -> bool:
        """See EngineHooks."""
        taken = self._engine.attach(
            migration_id,
            state.request_id,
            state.class_index,
            len(state.prompt_token_ids),
            len(state.output_token_ids),
            state.kv_tokens,
            self._prompt_blocks(state.request_id),
        )
        if taken is None:
            return False
        self._attached(state.request_id, migration_id)
        self._changed()
        return True

    def detach(self, request_id: RequestId) -> None:
        """See EngineHooks."""
        self._engine.detach(request_id)

    def reattach(self, request_id: RequestId) -> None:
        """See EngineHooks."""
        self._engine.reattach(request_id)
        self._changed()

    def release(self, request_id: RequestId, _redirect: str) -> None:
        """See EngineHooks."""
        if self._engine.cancel(request_id):
            self._changed()

    def requeue(self, request_id: RequestId) -> bool:
        """See EngineHooks."""
        if not requeueable(self._engine, request_id):
            return False
        self._engine.cancel(request_id)
        self._requeued(request_id)
        return True

    def set_terminating(self, on: bool) -> None:
        """See EngineHooks."""
        self.terminating = on


def state_of(request: EngineRequest) -> RequestState:
    """Summarise a detached request; of its tokens, only the number is true."""
    return RequestState(
        request_id=request.request_id,
        class_index=request.class_index,
        prompt_token_ids=(0,) * request.prompt_tokens,
        output_token_ids=(0,) * request.output_tokens,
        kv_tokens=request.kv_tokens,
        params=NO_PARAMS,
    )
