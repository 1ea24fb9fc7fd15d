"""The worker's side over a toy copier: shares, order, and that every job is done once."""

from collections import Counter
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from migration.vllm.engine.copies import Copies
from migration.vllm.settings import PluginSettings, SettingsError
from migration.vllm.step_orders import CopyJob, StepOrders, StepResults
from migration.vllm.worker.copier import Ticket
from migration.vllm.worker.worker_side import IDLE_BLOCKS, WorkerSide
from tests.vllm.toys.toy_model import ToyArena, ToyCopier

STEP_S, BLOCK_S, SHARE = 0.1, 0.001, 0.1


class Clock:
    def __init__(self) -> None:
        self.now_s = 10.0

    def __call__(self) -> float:
        return self.now_s


class SlowCopier(ToyCopier):
    """Takes time for each block, and says when copies are complete as the test wants."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(np.zeros((200, 1), dtype=np.uint64), ToyArena(200, 8))
        self._clock = clock
        self.complete = True
        self.waited: list[Ticket] = []

    def gather(self, block_ids: Sequence[int], slots: Sequence[int]) -> Ticket:
        self._clock.now_s += BLOCK_S * len(slots)
        return super().gather(block_ids, slots)

    def scatter(self, slots: Sequence[int], block_ids: Sequence[int]) -> Ticket:
        self._clock.now_s += BLOCK_S * len(slots)
        return super().scatter(slots, block_ids)

    def done(self, ticket: Ticket) -> bool:
        return self.complete or ticket in self.waited

    def wait(self, ticket: Ticket) -> None:
        self.waited.append(ticket)


class Rig:
    def __init__(self) -> None:
        self.clock = Clock()
        self.copier = SlowCopier(self.clock)
        self.worker = WorkerSide(
            PluginSettings(copy_share=SHARE), "engine", 0, "v1", clock=self.clock
        )
        self.worker._copier = cast("Any", self.copier)
        self.done: Counter[int] = Counter()

    def step(self, *jobs: CopyJob, forward: bool = True, **orders: Any) -> int:
        """Take a step; returns how many blocks were copied in it."""
        self.clock.now_s += STEP_S
        before = sum(len(slots) for _, _, slots in self.copier.launched)
        self.worker.work(StepOrders(jobs, **orders), forward=forward)
        results = self.worker.results()
        if results is not None:
            self.done.update(results.done)
        return sum(len(slots) for _, _, slots in self.copier.launched) - before


def job(number: int, n: int, *, gather: bool = True, urgent: bool = False, at: int = 0) -> CopyJob:
    numbers = tuple(range(at, at + n))
    return CopyJob(number, gather, numbers, numbers, urgent)


def test_no_step_is_lengthened_by_more_than_its_share() -> None:
    rig = Rig()
    assert rig.step(job(0, 100)) == 1  # nothing is known of steps and blocks yet
    copied = 1
    while not rig.done:
        n = rig.step()
        assert 0 < n <= SHARE * STEP_S / BLOCK_S + 1
        copied += n
    assert rig.done == {0: 1}
    assert copied == 100


def test_an_idle_worker_copies_more_at_a_time() -> None:
    rig = Rig()
    assert rig.step(job(0, 100), forward=False) == IDLE_BLOCKS
    assert rig.step(forward=False) == 100 - IDLE_BLOCKS
    assert rig.done == {0: 1}


def test_urgent_jobs_are_done_in_their_step_and_others_wait() -> None:
    rig = Rig()
    rig.step()
    assert 30 < rig.step(job(0, 50), job(1, 30, urgent=True, at=60)) <= 41
    assert rig.copier.launched[0][2] == tuple(range(60, 90))
    assert rig.done == {1: 1}


def test_flush_does_all_that_wait_before_what_is_urgent() -> None:
    rig = Rig()
    rig.copier.complete = False
    rig.step(job(0, 20, gather=False))
    rig.step(job(1, 5, gather=False, urgent=True, at=50), flush=True, received=("a",))
    assert rig.done == {0: 1, 1: 1}
    assert rig.copier.launched[-1][1] == tuple(range(50, 55))
    assert rig.worker.received() == {"a"}
    assert rig.worker.received() is None


def test_a_copy_under_way_is_reported_when_it_is_complete() -> None:
    rig = Rig()
    rig.copier.complete = False
    rig.step(job(0, 1))
    rig.step()
    assert not rig.done
    rig.copier.complete = True
    rig.step()
    assert rig.done == {0: 1}
    rig.step()
    assert rig.done == {0: 1}


def test_a_job_without_blocks_is_done_too() -> None:
    rig = Rig()
    rig.step(job(0, 0), job(1, 0, urgent=True))
    assert rig.done == {0: 1, 1: 1}


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    st.lists(
        st.tuples(
            st.lists(st.tuples(st.integers(0, 9), st.booleans(), st.booleans()), max_size=3),
            st.booleans(),
            st.booleans(),
            st.booleans(),
        ),
        max_size=25,
    )
)
def test_every_job_is_done_exactly_once_and_each_kind_in_order(plan: list[Any]) -> None:
    rig, numbers, expected = Rig(), iter(range(1000)), []
    for made, forward, flush, complete in plan:
        rig.copier.complete = complete
        jobs = [job(next(numbers), n, gather=g, urgent=u) for n, g, u in made]
        expected += jobs
        rig.step(*jobs, forward=forward, flush=flush)
        assert all(rig.done[each.job_id] for each in jobs if each.urgent)
    rig.copier.complete = True
    for _ in range(400):
        rig.step()
    assert rig.done == Counter({each.job_id: 1 for each in expected})
    for gather in (True, False):
        copied = sum(len(slots) for kind, _, slots in rig.copier.launched if kind is gather)
        assert copied == sum(len(each.slots) for each in expected if each.gather is gather)


def test_ranks_add_up_and_a_job_is_done_when_all_have_done_it() -> None:
    copies, called = Copies(2), list[str]()
    copies.add([1], [1], lambda: called.append("a"), gather=True)
    copies.add([2], [2], lambda: called.append("b"), gather=False, urgent=True)
    assert [(each.job_id, each.urgent) for each in copies.take()] == [(0, False), (1, True)]
    assert copies.take() == ()
    both = StepResults(Counter({0: 1, 1: 1})).aggregate(StepResults(Counter({1: 1})))
    copies.completed(both.done)
    assert called == ["b"]
    assert copies.pending
    copies.completed(Counter({0: 1}))
    assert called == ["b", "a"]
    assert not copies.pending


def test_staging_memory_too_small_for_the_blocks_is_refused_in_words() -> None:
    import torch

    worker = WorkerSide(PluginSettings(staging_bytes=1000), "engine", 0, "v1")
    with pytest.raises(SettingsError, match="give at least"):
        worker.register_caches({"layer": torch.zeros(2, 17, 32, 2, 64)}, 17)
