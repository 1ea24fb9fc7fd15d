"""Requests moving away, as the engine sees them: which blocks to copy, and the exact end.

A request ends here by lowering its `max_tokens` in the very step whose KV is the last to be copied:
vLLM then finishes it by itself at a known token, nothing in flight is lost, and its last chunk
carries the redirect (`check_stop`, v1/core/sched/utils.py; `request_finished` runs before the
output is made, v1/core/sched/scheduler.py). All methods run on the engine's thread.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from vllm.v1.request import Request, RequestStatus

from migration.engine import RequestState
from migration.protocol.pacing import blocks_for
from migration.vllm.arena import Slots
from migration.vllm.engine.copies import Copies
from migration.vllm.engine.core import EngineCore
from migration.vllm.engine.register import Tracked
from policies.types import RequestId

Staged = Callable[[dict[int, int] | None], None]
"""Receives which slots hold which blocks, or None when they are gone."""


@dataclass(slots=True, eq=False)
class Departing:
    """One request on its way out. `tail_block`: where its last copy begins, once it is to end.

    `cap`: how many outputs it ends with, `kv_tokens`: how many tokens' KV had been copied then.
    """

    tracked: Tracked
    redirect: str
    preemptions: int
    max_tokens: int
    tail_block: int | None = None
    cap: int | None = None
    kv_tokens: int = 0
    tail_slots: dict[int, int] = field(default_factory=dict)
    tail_copied: bool = False
    state: RequestState | None = None
    called_off: bool = False


class Outgoing:
    """`detached` and `preempted` are called for requests that end here."""

    def __init__(
        self,
        core: EngineCore,
        copies: Copies,
        slots: Slots,
        detached: Callable[[RequestState, dict[int, int]], None],
        preempted: Callable[[RequestId], None],
    ) -> None:
        self._core = core
        self._copies = copies
        self._slots = slots
        self._detached = detached
        self._preempted = preempted
        self._by_id: dict[RequestId, Departing] = {}

    def __bool__(self) -> bool:
        return bool(self._by_id)

    def begin(self, tracked: Tracked, redirect: str) -> None:
        """Note that a migration of this request has begun."""
        request = tracked.request
        self._by_id[tracked.request_id] = Departing(
            tracked, redirect, request.num_preemptions, request.max_tokens
        )

    def over(self, request_id: RequestId) -> None:
        """Note that the migration is over: a request that was to end, but has not, continues."""
        departing = self._by_id.pop(request_id, None)
        if departing is not None and departing.cap is not None:
            self._call_off(departing)

    def end(self, request_id: RequestId, tail_block: int) -> None:
        """Make the request end here at its next step; blocks from `tail_block` on are copied."""
        departing = self._by_id.get(request_id)
        if departing is not None:
            departing.tail_block = tail_block

    def gather(
        self, request_id: RequestId, first_block: int, slots: Sequence[int], staged: Staged
    ) -> None:
        """Copy full blocks of a running request to staging slots."""
        departing = self._by_id.get(request_id)
        block_ids: list[int] = []
        if departing is not None and self._runs(departing):
            mine = self._core.block_ids(departing.tracked.request)
            block_ids = mine[first_block : first_block + len(slots)]
        if len(block_ids) < len(slots):  # it ended, or was preempted since this was asked for
            self._slots.release(slots)
            staged(None)
            return
        placed = dict(enumerate(slots, first_block))
        self._copies.add(block_ids, slots, lambda: staged(placed), gather=True)

    def plan(self, scheduled: dict[str, int]) -> None:
        """Check each request as a step is planned: `scheduled` tokens by vLLM's request id."""
        for departing in list(self._by_id.values()):
            request = departing.tracked.request
            if request.is_finished():
                continue
            if request.num_preemptions != departing.preemptions:
                self._give_back(departing)
            elif departing.tail_block is not None and departing.cap is None:
                self._cap(departing, departing.tail_block, scheduled.get(request.request_id, 0))

    def finished(self, request: Request, tracked: Tracked) -> bool:
        """Note that a request ended; True when it ended because it moves away."""
        departing = self._by_id.get(tracked.request_id)
        if departing is None or departing.tracked is not tracked or departing.cap is None:
            return False
        capped = request.status is RequestStatus.FINISHED_LENGTH_CAPPED
        if not capped or request.num_output_tokens != departing.cap:
            self._drop_tail(departing)
            return False
        request.stop_reason = departing.redirect
        departing.state = self._state(departing)
        self._tell_when_complete(departing)
        return True

    def _runs(self, departing: Departing) -> bool:
        request = departing.tracked.request
        return (
            request.status is RequestStatus.RUNNING
            and request.num_preemptions == departing.preemptions
        )

    def _cap(self, departing: Departing, tail_block: int, scheduled: int) -> None:
        request = departing.tracked.request
        cap = request.num_output_tokens + request.num_output_placeholders + 1
        computed = request.num_computed_tokens + scheduled
        decodes = scheduled == 1 and computed == request.num_prompt_tokens + cap - 1
        natural = cap >= departing.max_tokens or computed + 1 >= self._core.max_model_len
        if not decodes or natural:  # not its turn, or it ends by itself with this token
            return
        block_tokens = self._core.block_tokens
        until = min(blocks_for(computed, block_tokens), tail_block + len(self._slots))
        blocks = range(tail_block, until)
        slots = self._slots.acquire(len(blocks))
        if slots is None:  # other copies are under way; the next step will do
            return
        departing.cap = request.max_tokens = cap
        departing.kv_tokens = min(computed, until * block_tokens)
        departing.tail_slots = dict(zip(blocks, slots, strict=True))
        block_ids = self._core.block_ids(request)[blocks.start : blocks.stop]
        self._copies.add(
            block_ids, slots, lambda: self._tail_done(departing), gather=True, urgent=True
        )

    def _tail_done(self, departing: Departing) -> None:
        departing.tail_copied = True
        if departing.called_off:
            self._drop_tail(departing)
        else:
            self._tell_when_complete(departing)

    def _tell_when_complete(self, departing: Departing) -> None:
        if departing.state is not None and departing.tail_copied:
            self._detached(departing.state, departing.tail_slots)

    def _give_back(self, departing: Departing) -> None:
        """Let a preempted request continue as if nothing had happened."""
        self._call_off(departing)
        del self._by_id[departing.tracked.request_id]
        self._preempted(departing.tracked.request_id)

    def _call_off(self, departing: Departing) -> None:
        """Let a request that was to end here continue; one that has ended has."""
        request = departing.tracked.request
        if not request.is_finished():
            request.max_tokens = departing.max_tokens
            self._drop_tail(departing)

    def _drop_tail(self, departing: Departing) -> None:
        departing.called_off = True
        if departing.tail_copied:  # else once it is
            self._slots.release(list(departing.tail_slots.values()))
            departing.tail_slots = {}

    def _state(self, departing: Departing) -> RequestState:
        tracked = departing.tracked
        request = tracked.request
        prompt: Any = request.prompt_token_ids
        return RequestState(
            request_id=tracked.request_id,
            class_index=tracked.class_index,
            prompt_token_ids=tuple(prompt),
            output_token_ids=tuple(request.output_token_ids),
            kv_tokens=departing.kv_tokens,
            params={},
        )
