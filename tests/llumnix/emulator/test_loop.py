"""Steps on a clock, here one that tests turn."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from llumnix.emulator.loop import StepLoop
from llumnix.emulator.model.answer import expected_output
from llumnix.emulator.requests import Sampling
from simulator.costs.presets import preset
from tests.llumnix.emulator.engines import HandStepped, some_prompt

COSTS = preset("toy").costs


class Clock:
    """Time passes only in sleeps, and in what tests make slow."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self.oversleep_s = 0.0

    def __call__(self) -> float:
        return self.now_s

    async def sleep(self, duration_s: float) -> None:
        if duration_s > 0:
            self.now_s += duration_s + self.oversleep_s
            self.oversleep_s = 0.0
        await asyncio.sleep(0)


@asynccontextmanager
async def stepping(
    engine: HandStepped, clock: Clock, speed: float, **options: float
) -> AsyncIterator[StepLoop]:
    steps = StepLoop(engine.instance, speed, clock, clock.sleep, **options)
    task = asyncio.create_task(steps.run())
    try:
        yield steps
        assert not task.done(), "the engine failed"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_an_answer_takes_the_time_its_steps_cost() -> None:
    """On the ideal timeline, `speed` times faster."""
    engine, clock = HandStepped(), Clock()
    async with stepping(engine, clock, 10.0):
        request = engine.submit("a", some_prompt(50), Sampling(3, ignore_eos=True))
        await request.finished()
    cost_ns = COSTS.step_ns([(0, 50)], 0, 0) + COSTS.step_ns([], 1, 51) + COSTS.step_ns([], 1, 52)
    assert clock.now_s == pytest.approx(cost_ns / 1e9 / 10)
    assert tuple(request.outputs) == expected_output(some_prompt(50), 3)


async def test_lateness_is_measured_and_does_not_add_up() -> None:
    """One long pause makes steps late, which then catch up with the ideal timeline."""
    engine, clock = HandStepped(), Clock()
    clock.oversleep_s = 0.0035
    async with stepping(engine, clock, 1.0) as steps:
        request = engine.submit("a", some_prompt(5), Sampling(20, ignore_eos=True))
        await request.finished()
        lag = steps.lag
        assert lag.max_s == pytest.approx(0.0035)
        assert 0 < lag.late_steps < 6
        ideal_ns = COSTS.step_ns([(0, 5)], 0, 0) + sum(
            COSTS.step_ns([], 1, 5 + outputs) for outputs in range(1, 20)
        )
        assert clock.now_s == pytest.approx(ideal_ns / 1e9)


async def test_an_idle_engine_begins_anew_when_work_comes() -> None:
    """Time without work is neither owed nor saved up."""
    engine, clock = HandStepped(), Clock()
    async with stepping(engine, clock, 1.0) as steps:
        await engine.submit("a", some_prompt(5), Sampling(2)).finished()
        await asyncio.sleep(0)
        clock.now_s += 100
        before_s = clock.now_s
        await engine.submit("b", some_prompt(5), Sampling(1)).finished()
        assert clock.now_s - before_s == pytest.approx(COSTS.step_ns([(0, 5)], 0, 0) / 1e9)
        assert steps.lag.late_steps == 0


async def test_a_request_cancelled_within_a_step_is_not_written_for() -> None:
    """Its blocks may already be a migration's: hashing stops where it was."""
    engine, clock = HandStepped(), Clock()
    async with stepping(engine, clock, 1.0, yield_after_s=-1.0):  # after every piece
        request = engine.submit("a", some_prompt(128), Sampling(5))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert any(engine.instance.pool._raw), "the step has begun"
        assert not any(engine.instance.pool._raw[64 * 100 :]), "and is not done"
        engine.instance.cancel(request)
        engine.instance.pool._raw[:] = bytes(len(engine.instance.pool._raw))
        for _ in range(20):
            await asyncio.sleep(0)
        assert not any(engine.instance.pool._raw)


async def test_hashing_lets_others_run() -> None:
    """A long prompt does not block the event loop until all of it is computed."""
    engine, clock = HandStepped(), Clock()
    turns = 0
    async with stepping(engine, clock, 1.0, yield_after_s=-1.0):
        request = engine.submit("a", some_prompt(128), Sampling(1))
        while request.finish is None:
            await asyncio.sleep(0)
            turns += 1
    assert turns >= 128 / 16
