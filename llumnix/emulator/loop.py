"""The real clock of an emulated engine: steps end when the cost model says, on an ideal timeline.

The timeline never slips: a step begins when the previous one should have ended, even if the machine
was late, so lag does not accumulate; the lateness of each step is measured and reported.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable

from llumnix.emulator.instance import EmulatedInstance
from llumnix.emulator.lag import LagMeter
from simulator.engine.batch import EngineRequest, Place, StepPlan

_HASH_TOKENS = 16
_YIELD_AFTER_S = 0.004


class StepLoop:
    """Runs the steps of one instance, `speed` times faster than its cost model says.

    Other tasks get a turn at least every `yield_after_s` while a step is computed.
    """

    def __init__(
        self,
        instance: EmulatedInstance,
        speed: float,
        clock_s: Callable[[], float] = time.perf_counter,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        yield_after_s: float = _YIELD_AFTER_S,
    ) -> None:
        self.lag = LagMeter(instance.engine.costs.decode_base_ns / 1e9 / speed)
        self._instance = instance
        self._speed = speed
        self._clock_s = clock_s
        self._sleep = sleep
        self._yield_after_s = yield_after_s
        self._wake = asyncio.Event()
        self._moves = asyncio.Event()
        self._moves.set()
        instance.on_change = self._wake.set

    def hang(self, on: bool | None = None) -> None:
        """Stand still from the next step's end on, as a hung GPU does, or (None) the other way."""
        if self._moves.is_set() if on is None else on:
            self._moves.clear()
        else:
            self._moves.set()

    async def run(self) -> None:
        """Run steps until cancelled."""
        engine = self._instance.engine
        end_s = self._clock_s()
        while True:
            self._wake.clear()
            plan = engine.plan_step()
            if plan is None:
                await self._wake.wait()
                end_s = self._clock_s()
                continue
            step_s = plan.cost_ns / 1e9 / self._speed
            end_s += step_s
            await self._compute(plan)
            await self._sleep(max(0.0, end_s - self._clock_s()))
            if not self._moves.is_set():
                await self._moves.wait()
                end_s = self._clock_s()
            result = engine.complete_step(plan)
            self._instance.completed(result.finished)
            self.lag.record(self._clock_s() - end_s, step_s, decode_only=not plan.prefills)

    async def _compute(self, plan: StepPlan) -> None:
        """Compute the KV and the tokens of a step early in it, so that the step hides the hashing.

        No one sees them before the step completes. Other tasks run in between; a request that they
        cancel has lost its blocks, so nothing may be written for it afterwards.
        """
        yield_at_s = self._clock_s() + self._yield_after_s
        work = [(request, request.kv_tokens, 1) for request in plan.decodes]
        work += [(chunk.request, chunk.start, chunk.tokens) for chunk in plan.prefills]
        for request, start, tokens in work:
            stop = start + tokens
            for first in range(start, stop, _HASH_TOKENS):
                if request.place is not Place.BATCH:
                    break
                self._hash(request, first, min(first + _HASH_TOKENS, stop))
                if self._clock_s() > yield_at_s:
                    await self._sleep(0)
                    yield_at_s = self._clock_s() + self._yield_after_s

    def _hash(self, request: EngineRequest, start: int, stop: int) -> None:
        mine = self._instance.requests[request.request_id]
        pool = self._instance.pool
        mine.table.follow(request.blocks)
        pool.compute(mine.tokens, mine.table, start, stop)
        if stop == request.total_tokens:
            mine.next_token = pool.next_token(mine.table, stop, may_end=mine.may_end)
