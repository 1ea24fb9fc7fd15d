"""One emulated engine: its requests, their KV, and everything between steps."""

import asyncio
import logging
from collections.abc import Callable

from llumnix.emulator.config import EmulatorConfig
from llumnix.emulator.model.kv import KvPool
from llumnix.emulator.requests import EmulatedRequest, FinishReason, Sampling
from migration.engine import EngineListener, Gone, RequestState
from migration.llumlet.memory import Ended
from policies.types import MigrationId, RequestId
from simulator.engine.batch import EngineRequest, Place
from simulator.engine.engine import Engine, EngineLimits

_log = logging.getLogger(__name__)


class EmulatedInstance:
    """Combines the engine model (counts), the KV pool (bytes) and the requests (tokens).

    Synchronous, used from one event loop. `loop.StepLoop` makes it step; `hooks.EmulatorHooks`
    migrates its requests; the HTTP server feeds it.
    """

    def __init__(self, config: EmulatorConfig) -> None:
        sizes = config.sizes()
        self.config = config
        self.sizes = sizes
        limits = EngineLimits(
            capacity_tokens=sizes.capacity_tokens,
            block_tokens=sizes.block_tokens,
            max_num_seqs=config.max_num_seqs,
            token_budget=config.token_budget,
            classes=len(config.classes),
        )
        self.engine = Engine(limits, sizes.preset.costs, self)
        self.pool = KvPool(
            sizes.total_blocks,
            sizes.block_tokens,
            config.kv_payload_bytes_per_token,
            pretouch=config.kv_pretouch,
        )
        self.requests: dict[RequestId, EmulatedRequest] = {}
        self.terminating = False
        self.steps = 0
        self.listener: EngineListener | None = None
        self.on_change: Callable[[], None] = lambda: None
        """Called when there may be something new to compute."""
        self.on_arrived: Callable[[RequestId], None] = lambda _: None
        self.on_ended: Callable[[RequestId, Ended], None] = lambda _id, _ended: None
        self._unclaimed: dict[MigrationId, tuple[EmulatedRequest, asyncio.TimerHandle]] = {}

    # --- requests in and out ---------------------------------------------------------------

    def submit(self, request: EmulatedRequest) -> None:
        """Enqueue a request, with any outputs it already has; raises ValueError if it cannot.

        One that is already complete is not computed at all.
        """
        if request.finish is not None:
            return
        self.engine.add(
            request.request_id, request.class_index, request.prompt_tokens, request.output_tokens
        )
        self.requests[request.request_id] = request
        self.on_arrived(request.request_id)
        self.on_change()

    def cancel(self, request: EmulatedRequest) -> None:
        """Drop a request whose client left, whatever its state; nothing if it is already gone."""
        if self.requests.get(request.request_id) is not request:
            return
        self._drop(request, FinishReason("abort"))
        self._remember(request, complete=False)
        self._tell_gone(request.request_id, Gone.CANCELLED)

    @property
    def waiting(self) -> int:
        """The number of queued requests."""
        return self.engine.waiting

    def new_request(
        self,
        request_id: RequestId,
        class_index: int,
        prompt_token_ids: list[int] | tuple[int, ...],
        output_token_ids: list[int] | tuple[int, ...],
        sampling: Sampling,
    ) -> EmulatedRequest:
        """Create a request whose KV will be in this instance's pool."""
        return EmulatedRequest(
            request_id,
            class_index,
            prompt_token_ids,
            output_token_ids,
            sampling,
            self.pool.table(),
        )

    def end_here(self, request_id: RequestId, stop_reason: str) -> None:
        """End a request that continues elsewhere; its stream says so in the stop reason."""
        request = self.requests.get(request_id)
        if request is not None:
            self._drop(request, FinishReason("abort", stop_reason))

    def _drop(self, request: EmulatedRequest, finish: FinishReason) -> None:
        self.engine.cancel(request.request_id)
        self._forget(request)
        request.end(finish)
        self.on_change()

    def _forget(self, request: EmulatedRequest) -> None:
        del self.requests[request.request_id]

    # --- migrated in -----------------------------------------------------------------------

    def attach(self, migration_id: MigrationId, state: RequestState) -> bool:
        """Attach a migrated request, which its stream must claim in time."""
        try:
            sampling = Sampling.from_params(state.params)
        except ValueError:
            _log.warning("attach refused migration_id=%s reason=params", migration_id)
            self.engine.free_reservation(migration_id)
            return False
        request = self.new_request(
            state.request_id,
            state.class_index,
            state.prompt_token_ids,
            state.output_token_ids,
            sampling,
        )
        fits = request.prompt_tokens + sampling.max_tokens <= self.sizes.max_model_len
        if request.finish is not None or not fits:
            self.engine.free_reservation(migration_id)
            return False
        attached = self.engine.attach(
            migration_id,
            state.request_id,
            state.class_index,
            request.prompt_tokens,
            request.output_tokens,
            state.kv_tokens,
        )
        if attached is None:
            return False
        self.requests[state.request_id] = request
        timer = asyncio.get_running_loop().call_later(
            self.config.claim_timeout_s, self._expire, migration_id
        )
        self._unclaimed[migration_id] = (request, timer)
        self.on_arrived(state.request_id)
        self.on_change()
        return True

    def claim(self, migration_id: MigrationId) -> EmulatedRequest | None:
        """Return a migrated request, running or finished, to the stream that claims it, once."""
        request, timer = self._unclaimed.pop(migration_id, (None, None))
        if timer is not None:
            timer.cancel()
        return request

    def awaits_claim(self, request_id: RequestId) -> bool:
        """Return whether a request has migrated here and its stream has yet to claim it."""
        return any(request.request_id == request_id for request, _ in self._unclaimed.values())

    def _expire(self, migration_id: MigrationId) -> None:
        request, _ = self._unclaimed.pop(migration_id)
        _log.warning("unclaimed migration_id=%s request_id=%s", migration_id, request.request_id)
        self.cancel(request)

    def close(self) -> None:
        """Stop waiting for claims."""
        for _, timer in self._unclaimed.values():
            timer.cancel()
        self._unclaimed.clear()

    # --- what the engine model tells (EngineHost) ------------------------------------------

    def produced(self, request: EngineRequest) -> bool:
        """Append the token the step computed."""
        mine = self.requests[request.request_id]
        return mine.accept(mine.next_token)

    def preempted(self, request: EngineRequest) -> None:
        """Reset the block table of a request whose blocks are gone."""
        self.requests[request.request_id].table = self.pool.table()
        self._tell_gone(request.request_id, Gone.PREEMPTED)

    def detached(self, request: EngineRequest) -> None:
        """Report to the llumlet that the request is detached, with its full state."""
        if self.listener is not None:
            self.listener.detached(request.request_id, self._state(request))

    def completed(self, finished: tuple[EngineRequest, ...]) -> None:
        """Process the end of a step."""
        self.steps += 1
        for request in finished:
            mine = self.requests[request.request_id]
            self._forget(mine)
            self._remember(mine, complete=True)
            self._tell_gone(request.request_id, Gone.FINISHED)
        if self.listener is not None:
            self.listener.stepped()

    def _state(self, request: EngineRequest) -> RequestState:
        assert request.place is Place.DETACHED, "only a detached request has a settled state"
        mine = self.requests[request.request_id]
        return RequestState(
            request_id=mine.request_id,
            class_index=mine.class_index,
            prompt_token_ids=tuple(mine.tokens[: mine.prompt_tokens]),
            output_token_ids=tuple(mine.outputs),
            kv_tokens=request.kv_tokens,
            params=mine.sampling.to_params(),
        )

    def _remember(self, request: EmulatedRequest, *, complete: bool) -> None:
        if request.owner:
            ended = Ended(request.owner, tuple(request.outputs), complete)
            self.on_ended(request.request_id, ended)

    def _tell_gone(self, request_id: RequestId, why: Gone) -> None:
        if self.listener is not None:
            self.listener.gone(request_id, why)
