"""Rounds: never lost, never many, never long."""

import asyncio
import time
from collections.abc import Callable, Iterator

import pytest

from llumnix.frontend.rounds import Rounds
from tests.llumnix.frontend.stage import until

PATIENCE_S = 20.0


class Work:
    """Counts rounds; each has some steps, which may take time."""

    def __init__(self, steps: int = 1, step_s: float = 0.0) -> None:
        self.begun = self.ended = 0
        self.left = True
        self.broken = False
        self.meanwhile: Callable[[], None] = lambda: None
        self.steps, self.step_s = steps, step_s
        self.rounds = Rounds(self.round, lambda: self.left, 0.001)

    def round(self) -> Iterator[None]:
        self.begun += 1
        meanwhile, self.meanwhile = self.meanwhile, lambda: None
        meanwhile()
        for _ in range(self.steps):
            time.sleep(self.step_s)
            yield
        if self.broken:
            raise RuntimeError("broken")
        self.ended += 1


async def test_what_is_asked_during_a_round_has_a_round_of_its_own() -> None:
    work = Work(steps=4, step_s=0.002)
    work.meanwhile = work.rounds.ask
    work.rounds.ask()
    async with asyncio.timeout(PATIENCE_S):
        await work.rounds.end()
        assert work.ended == 1
        assert work.rounds.due
        await work.rounds.end()

    assert work.ended == 2
    assert not work.rounds.due


async def test_a_long_round_lets_others_run() -> None:
    """Between its steps, whenever it has held the loop for some milliseconds."""
    work = Work(steps=40, step_s=0.001)
    work.rounds.ask()
    turns = 0
    async with asyncio.timeout(PATIENCE_S):
        while not work.ended:
            await asyncio.sleep(0)
            turns += 1

    assert turns >= 8


async def test_rounds_go_on_unasked_while_something_is_left() -> None:
    work = Work()
    work.rounds.keep_on()
    await until(lambda: work.ended >= 2)
    work.left = False
    seen = work.ended
    work.rounds.ask()

    assert not work.rounds.due
    assert work.ended == seen


async def test_a_round_that_fails_is_no_end_of_rounds() -> None:
    work = Work()
    failures: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, told: failures.append(told))
    work.broken = True
    work.rounds.ask()
    async with asyncio.timeout(PATIENCE_S):
        await work.rounds.end()
        work.broken = False
        work.rounds.ask()
        await work.rounds.end()

    assert work.ended == 1
    assert len(failures) == 1


@pytest.mark.parametrize("asked", [1, 1000])
async def test_asking_often_is_asking_once(asked: int) -> None:
    work = Work()
    for _ in range(asked):
        work.rounds.ask()
    async with asyncio.timeout(PATIENCE_S):
        await work.rounds.end()

    assert work.begun == 1
