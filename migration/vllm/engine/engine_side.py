"""The scheduler's side of the connector: vLLM calls it on the engine's thread, at every step."""

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from vllm.v1.request import Request, RequestStatus

from migration.engine import Gone, RequestState
from migration.llumlet.memory import Ended
from migration.vllm import tags
from migration.vllm.arena import Slots
from migration.vllm.engine.bridge import Bridge
from migration.vllm.engine.copies import Copies
from migration.vllm.engine.core import EngineCore
from migration.vllm.engine.incoming import Incoming
from migration.vllm.engine.outgoing import Outgoing
from migration.vllm.engine.register import Register, Tracked, is_movable
from migration.vllm.engine.staged import Shelf
from migration.vllm.settings import PluginSettings
from migration.vllm.step_orders import StepOrders, StepResults
from policies.types import InstanceId, InstanceLoad, MigrationId, RequestId

REFUSED = "llumnix:refused:"
LINGER_S = 0.005
"""How long an engine that has only requests waiting for KV pauses at a time."""


class AgentCallbacks:
    """Who is notified of engine events, on the agent's thread; until there is one, nobody."""

    def __init__(self) -> None:
        self.stepped: Callable[[], None] = lambda: None
        self.detached: Callable[[RequestState, dict[int, int]], None] = lambda _state, _slots: None
        self.gone: Callable[[RequestId, Gone], None] = lambda _id, _why: None
        self.arrived: Callable[[RequestId], None] = lambda _id: None
        self.ended: Callable[[RequestId, Ended], None] = lambda _id, _ended: None


class EngineSide:
    """Joins requests moving out, requests moving in, and the copies both need."""

    def __init__(
        self,
        core: EngineCore,
        bridge: Bridge,
        settings: PluginSettings,
        secret: bytes,
        ranks: int,
        slots_out: Slots,
        slots_in: Slots,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.register = Register()
        self.listener = AgentCallbacks()
        self.counts: Counter[str] = Counter()
        self.terminating = False
        self.steps = 0
        self._core = core
        self._bridge = bridge
        self._secret = secret
        self._copies = Copies(ranks)
        self._slots = (slots_out, slots_in)
        self.shelf = Shelf(slots_in, clock)
        self.outgoing = Outgoing(core, self._copies, slots_out, self._detached, self._preempted)
        self.incoming = Incoming(core, self._copies, self.shelf, clock, settings.hold_s, self.count)

    def count(self, what: str) -> None:
        """Count an event out of the ordinary."""
        self.counts[what] += 1

    # --- vLLM's hooks, in the order of a request's life ---

    def new_request(self, request: Request) -> None:
        """See `on_new_request`: enter a request that came through a frontend, by its kind."""
        self._bridge.read()
        params = request.kv_transfer_params
        tag = tags.read_tag(params)
        resume = tags.read_resume(params, tag, self._secret, time.time())
        if tag is None and resume is None:
            return
        refusal = self._refusal(request, resume)
        if refusal is not None:  # at once: some requests vLLM starts without asking us again
            self._core.end(request, refusal)
            return
        assert tag is not None, "a resume field without a tag is refused"
        tracked = self.register.add(request, tag)
        if isinstance(resume, tags.Resume):
            self.incoming.begin(tracked, resume)
        self._bridge.to_agent(self.listener.arrived, tracked.request_id)

    def _refusal(
        self, request: Request, resume: tags.Resume | tags.Unacceptable | None
    ) -> str | None:
        """Return the stop reason of a request that is refused; None for one that is accepted."""
        if resume is None:
            return tags.REQUEUE if self.terminating else None
        if isinstance(resume, tags.Unacceptable):
            reason = resume.reason
        elif is_movable(request) and self._sensible(request, resume.output_token_ids):
            return None
        else:
            reason = "this request cannot be resumed"
        self.count("refused_resume")
        return REFUSED + reason

    def matched(self, request: Request, local_tokens: int) -> tuple[int | None, bool]:
        """See `get_num_new_matched_tokens`."""
        if self.incoming.of(request) is None:
            return 0, False
        self._bridge.read()
        return self.incoming.matched(request, local_tokens)

    def allocated(self, request: Request, external_tokens: int) -> None:
        """See `update_state_after_alloc`."""
        if external_tokens:
            self.incoming.allocated(request, external_tokens)

    def plan(self, scheduler_output: Any) -> StepOrders:
        """See `build_connector_meta`: the workers' orders for this step."""
        self.steps += 1
        self._bridge.read()
        scheduled: dict[str, int] = scheduler_output.num_scheduled_tokens
        received: tuple[str, ...] = ()
        if self.outgoing:
            self.outgoing.plan(scheduled)
            self._bridge.to_agent(self.listener.stepped)
        if self.incoming:
            received = self.incoming.plan(scheduled)
        jobs = self._copies.take()
        if self.incoming and not (received or self._copies.pending or self._core.computing):
            self._bridge.linger(LINGER_S, self._core.has_input)
        return StepOrders(jobs, received, flush=bool(received))

    def results(self, output: Any) -> None:
        """See `update_connector_output`."""
        meta = output.kv_connector_worker_meta
        if isinstance(meta, StepResults):
            self._copies.completed(meta.done)
        if output.finished_recving:
            self.incoming.results(set(output.finished_recving))

    def finished(self, request: Request) -> None:
        """See `request_finished`."""
        tracked = self.register.remove(request)
        if tracked is None:
            return
        self.incoming.finished(request)
        moved = self.outgoing.finished(request, tracked)
        if self.register.get(tracked.request_id) is not None:
            return  # another claim of it has taken its name
        if not moved:
            aborted = request.status is RequestStatus.FINISHED_ABORTED
            why = Gone.CANCELLED if aborted else Gone.FINISHED
            self._bridge.to_agent(self.listener.gone, tracked.request_id, why)
            if tracked.owner:
                ids = tuple(request.output_token_ids)
                ended = Ended(tracked.owner, ids, complete=not aborted)
                self._bridge.to_agent(self.listener.ended, tracked.request_id, ended)

    @property
    def must_step(self) -> bool:
        """Whether vLLM must keep stepping without requests: copies are under way."""
        return self._copies.pending

    # --- from the agent's thread ---

    def requeue(self, tracked: Tracked) -> None:
        """Send a request that has not begun back to its frontend; runs on the engine's thread."""
        request = tracked.request
        waits = request.status in (RequestStatus.WAITING, RequestStatus.PREEMPTED)
        if waits and not request.num_output_tokens and self.incoming.of(request) is None:
            self.incoming.send_back(tracked)

    def slots_taken(self) -> int:
        """Count staging slots in use; asked on the agent's thread."""
        return sum(len(slots) - slots.free for slots in self._slots)

    def has_room(self, migration_id: MigrationId, n_blocks: int) -> bool:
        """Whether a request of so many blocks may move in; asked on the agent's thread."""
        if any(
            tracked.arriving and self._is_for(tracked, migration_id)
            for tracked in self.register.all()
        ):
            return True
        return n_blocks <= self._core.free_blocks()

    def load(self, instance_id: InstanceId) -> InstanceLoad:
        """Report the instance's load; asked on the agent's thread."""
        core, tracked = self._core, {t.request.request_id: t for t in self.register.all()}
        # By class; under None those without our tag, whose class only the fleet knows.
        running: Counter[int | None] = Counter()
        waiting: Counter[int | None] = Counter()
        queued: list[tuple[float, int]] = []
        prefill_tokens = 0
        for request in core.requests():
            known = tracked.get(request.request_id)
            class_index = known.class_index if known else None
            arriving = known is not None and known.arriving
            remaining = request.num_tokens - request.num_computed_tokens
            if remaining > 1 and not (request.is_finished() or arriving):  # 1 is a decode step's
                prefill_tokens += remaining
            if request.status is RequestStatus.RUNNING:
                running[class_index] += 1
            elif not request.is_finished():
                waiting[class_index] += 1
                if not arriving:
                    queued.append((request.arrival_time, _whole(request, core.block_tokens)))
        known_classes = [index for index in (*running, *waiting) if index is not None]
        classes = max([*known_classes, 0]) + 1
        used = core.total_blocks - core.free_blocks()
        return InstanceLoad(
            instance_id=instance_id,
            capacity_tokens=core.total_blocks * core.block_tokens,
            physical_tokens=max(0, used) * core.block_tokens,
            head_demand_tokens=min(queued)[1] if queued else 0,
            queued_demand_tokens=sum(tokens for _, tokens in queued),
            running=tuple(running[index] for index in range(classes)),
            waiting=tuple(waiting[index] for index in range(classes)),
            prefill_backlog_tokens=prefill_tokens,
            terminating=self.terminating,
            unclassed_running=running[None],
            unclassed_waiting=waiting[None],
        )

    # --- within ---

    def _is_for(self, tracked: Tracked, migration_id: MigrationId) -> bool:
        arriving = self.incoming.of(tracked.request)
        return arriving is not None and arriving.migration_id == migration_id

    def _sensible(self, request: Request, token_ids: tuple[int, ...]) -> bool:
        """Whether a request can have these outputs and still need another."""
        fits = request.num_tokens + len(token_ids) < self._core.max_model_len
        return fits and len(token_ids) < request.max_tokens

    def _detached(self, state: RequestState, tail_slots: dict[int, int]) -> None:
        self._bridge.to_agent(self.listener.detached, state, tail_slots)

    def _preempted(self, request_id: RequestId) -> None:
        self._bridge.to_agent(self.listener.gone, request_id, Gone.PREEMPTED)


def _whole(request: Request, block_tokens: int) -> int:
    return -(-request.num_tokens // block_tokens) * block_tokens
