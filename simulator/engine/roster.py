"""The requests on an engine, the state of each, and the blocks it holds."""

import bisect
from collections.abc import Iterable
from dataclasses import dataclass

from policies.types import InstanceId, InstanceLoad, MigrationId, RequestId
from simulator.engine.batch import EngineRequest, Place
from simulator.engine.prefix_cache import sharing_of
from simulator.engine.waiting import WaitingLine
from simulator.workload.request import PromptBlocks


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """The size of an engine. The budget covers a full batch, so that no decode is ever left out.

    With `prefix_caching`, prompts that begin alike share their KV.
    """

    capacity_tokens: int
    block_tokens: int
    max_num_seqs: int = 128
    token_budget: int = 512
    classes: int = 1
    prefix_caching: bool = False

    @property
    def usable_tokens(self) -> int:
        """Tokens that fit in whole blocks: no request can have more."""
        return self.capacity_tokens // self.block_tokens * self.block_tokens

    def __post_init__(self) -> None:
        if self.max_num_seqs < 1 or self.classes < 1:
            raise ValueError("max_num_seqs and classes must be at least 1")
        if self.token_budget < self.max_num_seqs:
            raise ValueError(
                f"token_budget {self.token_budget} is below max_num_seqs {self.max_num_seqs}"
            )

    def check_decodes(self, tokens: int) -> None:
        """Raise ValueError where a full batch exceeds the budget at so many tokens per request."""
        if self.token_budget < self.max_num_seqs * tokens:
            raise ValueError(
                f"token_budget {self.token_budget} is below max_num_seqs {self.max_num_seqs} "
                f"times {tokens} tokens"
            )


class Roster:
    """The requests of an engine, its batch, its queues, its blocks and its reservations.

    This class does not know steps: they are `Engine`'s. INV-3 (blocks) and the batch's order by
    urgency hold after every call.
    """

    def __init__(self, limits: EngineLimits) -> None:
        self.limits = limits
        self._sharing = sharing_of(
            limits.capacity_tokens // limits.block_tokens,
            limits.block_tokens,
            prefix_caching=limits.prefix_caching,
        )
        self.blocks = self._sharing.blocks
        self._requests: dict[RequestId, EngineRequest] = {}
        self._waiting = WaitingLine(limits.classes)
        self._batch: list[EngineRequest] = []
        self._detached_requests = 0
        self._reservations: dict[MigrationId, list[int]] = {}
        self._arrivals = 0

    # --- requests --------------------------------------------------------------------------

    def add(
        self,
        request_id: RequestId,
        class_index: int,
        prompt_tokens: int,
        output_tokens: int = 0,
        prompt_blocks: PromptBlocks | None = None,
    ) -> EngineRequest:
        """Queue a request; `output_tokens` it already has are recomputed, like its prompt.

        Raises ValueError for an id in use, a class out of range, or more tokens than fit.
        """
        request = self._new_request(
            request_id, class_index, prompt_tokens, output_tokens, prompt_blocks
        )
        self._waiting.push(request)
        return request

    def cancel(self, request_id: RequestId) -> bool:
        """Forget a request in whatever state, and free its blocks at once; False if unknown.

        This is also how a detached request is released once it runs elsewhere.
        """
        request = self._requests.get(request_id)
        if request is None:
            return False
        self._remove(request)
        return True

    def get(self, request_id: RequestId) -> EngineRequest | None:
        """Find a request by id."""
        return self._requests.get(request_id)

    def requests(self) -> list[EngineRequest]:
        """All requests here, in order of arrival."""
        return list(self._requests.values())

    @property
    def waiting(self) -> int:
        """How many requests are queued."""
        return len(self._waiting)

    @property
    def free_slots(self) -> int:
        """Free places in the batch; detached requests and reservations hold theirs."""
        taken = len(self._batch) + self._detached_requests + len(self._reservations)
        return self.limits.max_num_seqs - taken

    def load(self, instance_id: InstanceId, *, terminating: bool = False) -> InstanceLoad:
        """Report the load. Detached requests still count as running: they hold memory.

        `prefill_backlog_tokens` counts what running and waiting requests must still compute before
        their next token, decodes left out.
        """
        running = [0] * self.limits.classes
        backlog = 0
        for request in self._requests.values():
            if request.place is not Place.QUEUED:
                running[request.class_index] += 1
            if not request.decoding:
                backlog += self._sharing.remaining_tokens(request)
        head = self._waiting.head()
        block_tokens = self.blocks.block_tokens
        return InstanceLoad(
            instance_id=instance_id,
            capacity_tokens=self.blocks.total_blocks * block_tokens,
            physical_tokens=self.blocks.allocated_blocks * block_tokens,
            head_demand_tokens=0 if head is None else self._demand_tokens([head]),
            queued_demand_tokens=self._demand_tokens(self._waiting),
            running=tuple(running),
            waiting=self._waiting.counts(),
            reserved_tokens=self.blocks.reserved_blocks * block_tokens,
            prefill_backlog_tokens=backlog,
            terminating=terminating,
        )

    def _demand_tokens(self, requests: Iterable[EngineRequest]) -> int:
        return self._sharing.demand_blocks(requests) * self.blocks.block_tokens

    def _new_request(
        self,
        request_id: RequestId,
        class_index: int,
        prompt_tokens: int,
        output_tokens: int,
        prompt_blocks: PromptBlocks | None,
    ) -> EngineRequest:
        if request_id in self._requests:
            raise ValueError(f"request id {request_id!r} is in use")
        if not 0 <= class_index < self.limits.classes:
            raise ValueError(f"{request_id}: no class {class_index}")
        if prompt_tokens < 1 or output_tokens < 0:
            raise ValueError(f"{request_id}: a prompt needs at least one token")
        if self.blocks.blocks_for(prompt_tokens + output_tokens) > self.blocks.total_blocks:
            raise ValueError(f"{request_id}: {prompt_tokens + output_tokens} tokens never fit")
        self._arrivals += 1
        request = EngineRequest(
            request_id, class_index, prompt_tokens, self._arrivals, output_tokens
        )
        request.prefix = self._sharing.prefix(request, prompt_blocks)
        self._requests[request_id] = request
        return request

    def _remove(self, request: EngineRequest) -> None:
        if request.place is Place.QUEUED:
            self._waiting.remove(request)
        elif request.place is Place.BATCH:
            self._batch.remove(request)
        elif request.place is Place.DETACHED:
            self._detached_requests -= 1
        self._free_blocks(request)
        request.place = Place.GONE
        del self._requests[request.request_id]

    # --- the batch -------------------------------------------------------------------------

    def _admit_one(self) -> EngineRequest | None:
        """Admit the head of the line if a slot and all its blocks are free."""
        request = self._waiting.head()
        if request is None or self.free_slots <= 0:
            return None
        blocks = self._sharing.start(request)
        if blocks is None:
            return None
        self._waiting.remove(request)
        request.blocks = blocks
        self._enter_batch(request)
        return request

    def _enter_batch(self, request: EngineRequest) -> None:
        request.place = Place.BATCH
        bisect.insort(self._batch, request, key=lambda one: one.urgency)

    def _preempt_least_urgent(self) -> EngineRequest:
        victim = self._batch.pop()
        self._free_blocks(victim)
        victim.place = Place.QUEUED
        victim.detaching = False
        victim.kv_tokens = 0
        self._waiting.push_front(victim)
        return victim

    def _free_blocks(self, request: EngineRequest) -> None:
        self._sharing.leave(request)
        self.blocks.free(request.blocks)
        request.blocks = []

    # --- migration -------------------------------------------------------------------------

    def reserve(self, migration_id: MigrationId, n_blocks: int) -> bool:
        """Grow a migration's reservation to `n_blocks` in total; False when memory is short.

        A reservation also holds a slot of the batch, so that its request can always be attached.
        """
        held = self._reservations.get(migration_id)
        if held is None and self.free_slots <= 0:
            return False
        more = self.blocks.reserve(max(0, n_blocks - len(held or ())))
        if more is None:
            return False
        self._reservations.setdefault(migration_id, []).extend(more)
        return True

    def reserved_blocks(self, migration_id: MigrationId) -> list[int]:
        """The blocks of a reservation, in order; empty when there is none."""
        return self._reservations.get(migration_id, [])

    def free_reservation(self, migration_id: MigrationId) -> None:
        """Free a reservation; unknown ids are ignored."""
        self.blocks.unreserve(self._reservations.pop(migration_id, []))

    def attach(
        self,
        migration_id: MigrationId,
        request_id: RequestId,
        class_index: int,
        prompt_tokens: int,
        output_tokens: int,
        kv_tokens: int,
        prompt_blocks: PromptBlocks | None = None,
    ) -> EngineRequest | None:
        """Turn a reservation into a running request, computed from the next step on.

        The first `kv_tokens` are not recomputed; what is missing, beyond the one token every decode
        computes, is computed like a prompt. None, with the reservation freed, when it is unknown or
        too small, the request not acceptable, or memory for the rest short.
        """
        total = prompt_tokens + output_tokens
        needed = self.blocks.blocks_for(kv_tokens if kv_tokens == total - 1 else total)
        held = len(self.reserved_blocks(migration_id))
        acceptable = (
            0 <= kv_tokens < total and self.blocks.blocks_for(kv_tokens) <= held and held > 0
        )
        if acceptable and self.reserve(migration_id, needed):
            try:
                request = self._new_request(
                    request_id, class_index, prompt_tokens, output_tokens, prompt_blocks
                )
            except ValueError:
                request = None
            if request is not None:
                request.kv_tokens = kv_tokens
                request.blocks = self._reservations.pop(migration_id)
                self.blocks.commit(request.blocks)
                self._sharing.note(request, kv_tokens)
                self._enter_batch(request)
                return request
        self.free_reservation(migration_id)
        return None

    def detach(self, request_id: RequestId) -> bool:
        """Detach a decoding request at the next step boundary; it keeps its blocks.

        False when no request of that id is decoding here.
        """
        request = self._requests.get(request_id)
        if request is None or request.place is not Place.BATCH or not request.decoding:
            return False
        request.detaching = True
        return True

    def reattach(self, request_id: RequestId) -> bool:
        """Put a detached request back into the batch, or cancel a pending detach.

        False when neither applies.
        """
        request = self._requests.get(request_id)
        if request is None:
            return False
        if request.place is Place.DETACHED:
            self._detached_requests -= 1
            self._enter_batch(request)
            return True
        wished, request.detaching = request.detaching, False
        return wished

    def _take_detaching(self) -> list[EngineRequest]:
        leaving = [request for request in self._batch if request.detaching]
        for request in leaving:
            self._batch.remove(request)
            self._detached_requests += 1
            request.place = Place.DETACHED
            request.detaching = False
        return leaving
