"""Continuous batching without a clock, in the manner of vLLM V1.

One step at a time: `plan_step` decides what is computed and allocates its blocks, `complete_step`
counts the tokens it yields. In between, the host lets time pass. The rules:

- a step computes at most `token_budget` tokens: running decodes first, then chunks of prompts;
- admission is first come, first served within a class, the most urgent class first; a request is
  admitted when a batch slot and blocks for all its tokens are free, and none overtakes it;
- a decode that needs a block when none is free preempts the least urgent running request (lowest
  class, then latest arrival), which goes to the head of its class's queue and later recomputes
  prompt and outputs; nothing is admitted in a step that preempted.

With speculation (`speculation.py`), a decode computes and may yield more than one token per step;
all it computes counts towards the budget, and needs blocks. With prefix caching
(`prefix_cache.py`), an admitted request reuses the KV found of it; prompts of one step find each
other's too.

vLLM allocates the blocks of a long prompt chunk by chunk. Here admission allocates them at once:
the load shows them from the start, and two half-computed prompts can never starve each other.
"""

from collections.abc import Sequence

from simulator.costs.presets import CostModel
from simulator.engine.batch import (
    EngineHost,
    EngineRequest,
    Place,
    PrefillChunk,
    StepPlan,
    StepResult,
)
from simulator.engine.roster import EngineLimits, Roster
from simulator.engine.speculation import Guesses

__all__ = ["Engine", "EngineLimits"]


class Engine(Roster):
    """One engine replica: a roster of requests and the steps that serve them. Deterministic."""

    def __init__(
        self,
        limits: EngineLimits,
        costs: CostModel,
        host: EngineHost,
        guesses: Guesses | None = None,
    ) -> None:
        super().__init__(limits)
        self.costs = costs
        self.preemptions = 0
        self._guesses = guesses
        self._draft_tokens = 0 if guesses is None else guesses.speculation.draft_tokens
        limits.check_decodes(1 + self._draft_tokens)
        self._host = host
        self._in_flight: StepPlan | None = None

    def plan_step(self) -> StepPlan | None:
        """Decide the next step and allocate its blocks; None when there is nothing to compute.

        The host must complete the step before it plans another.
        """
        assert self._in_flight is None, "the step in flight was not completed"
        self._settle_detaching()
        preempted: list[EngineRequest] = []
        decodes = self._plan_decodes(preempted)
        budget = self.limits.token_budget - len(decodes) * (1 + self._draft_tokens)
        prefills = self._plan_prefills(budget, admit=not preempted)
        if decodes or prefills:
            cost_ns = self._cost_ns(decodes, prefills)
            self._in_flight = StepPlan(tuple(decodes), tuple(prefills), cost_ns, self._draft_tokens)
        self.preemptions += len(preempted)
        for request in preempted:
            self._host.preempted(request)
        return self._in_flight

    def complete_step(self, plan: StepPlan) -> StepResult:
        """Count the tokens of the planned step; requests cancelled meanwhile are left out."""
        assert plan is self._in_flight, "only the step in flight can be completed"
        self._in_flight = None
        produced = []
        for request in plan.decodes:
            if request.place is Place.BATCH:
                request.kv_tokens += 1
                produced.append(request)
        decoded = len(produced)
        for chunk in plan.prefills:
            if chunk.request.place is Place.BATCH:
                chunk.request.kv_tokens += chunk.tokens
                if chunk.request.remaining_tokens == 0:
                    produced.append(chunk.request)
        finished = []
        for number, request in enumerate(produced):
            request.output_tokens += 1
            ended = self._host.produced(request)
            if self._guesses is not None and number < decoded:
                ended = self._keep_guesses(request, self._guesses, ended=ended)
            if ended:
                self._remove(request)
                finished.append(request)
        self._settle_detaching()
        return StepResult(tuple(produced), tuple(finished))

    def decodes_ns(self, decodes: Sequence[EngineRequest]) -> int:
        """Cost of a step that computes only these."""
        return self._cost_ns(decodes, ())

    def _keep_guesses(self, request: EngineRequest, guesses: Guesses, *, ended: bool) -> bool:
        """Count the right guesses after a first token; True when one of these was the last."""
        right = 0 if ended else guesses.right(request.request_id, request.output_tokens - 1)
        while right and not ended:
            right -= 1
            request.kv_tokens += 1
            request.output_tokens += 1
            ended = self._host.produced(request)
        if ended:
            guesses.forget(request.request_id)
        return ended

    def _plan_decodes(self, preempted: list[EngineRequest]) -> list[EngineRequest]:
        # Most urgent first: a victim, the least urgent of all, is never one planned already.
        return [
            request
            for request in list(self._batch)
            if request.place is Place.BATCH and request.decoding and self._grow(request, preempted)
        ]

    def _plan_prefills(self, budget: int, *, admit: bool) -> list[PrefillChunk]:
        chunks = []
        prefilling = [request for request in self._batch if not request.decoding]
        while budget > 0:
            request = prefilling.pop(0) if prefilling else self._admit_one() if admit else None
            if request is None:
                break
            tokens = min(request.remaining_tokens, budget)
            chunks.append(PrefillChunk(request, request.kv_tokens, tokens))
            self._sharing.note(request, request.kv_tokens + tokens)
            budget -= tokens
        return chunks

    def _grow(self, request: EngineRequest, preempted: list[EngineRequest]) -> bool:
        """Give a decode the blocks its input tokens need; False when that preempted itself."""
        needed = self.blocks.blocks_for(request.total_tokens + self._draft_tokens)
        missing = needed - len(request.blocks)
        if missing <= 0:
            return True
        if needed > self.blocks.total_blocks:
            missing -= self._past_the_end(request, needed)
        while (blocks := self.blocks.allocate(missing)) is None:
            preempted.append(self._preempt_least_urgent())
            if preempted[-1] is request:
                return False
        request.blocks.extend(blocks)
        return True

    def _past_the_end(self, request: EngineRequest, needed: int) -> int:
        """Count the blocks wanted for guesses that, past all memory, are past the last token."""
        if self.blocks.blocks_for(request.total_tokens) > self.blocks.total_blocks:
            raise RuntimeError(
                f"{request.request_id} grew to {request.total_tokens} tokens: no preemption can "
                f"make room; the host must limit requests to {self.limits.capacity_tokens} tokens"
            )
        return needed - self.blocks.total_blocks

    def _cost_ns(self, decodes: Sequence[EngineRequest], prefills: Sequence[PrefillChunk]) -> int:
        chunks = [(chunk.start, chunk.tokens) for chunk in prefills]
        contexts = sum(request.total_tokens for request in decodes)
        if self._guesses is None:
            return self.costs.step_ns(chunks, len(decodes), contexts)
        return self._guesses.speculation.step_ns(self.costs, chunks, len(decodes), contexts)

    def _settle_detaching(self) -> None:
        for request in self._take_detaching():
            self._host.detached(request)
