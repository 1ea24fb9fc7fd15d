"""The engine with a prefix cache: what is shared, what is computed; all else is as before."""

from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.types import InstanceId, MigrationId, RequestId
from simulator.costs.presets import preset
from simulator.engine.batch import EngineRequest, Place, StepPlan
from simulator.engine.engine import Engine, EngineLimits
from simulator.workload.request import PromptBlocks
from tests.simulator.engine.engine_host import Host, run_out, step

BLOCK = 8


def make_engine(blocks: int = 20, *, caching: bool = True, budget: int = 16) -> tuple[Engine, Host]:
    host = Host()
    limits = EngineLimits(blocks * BLOCK, BLOCK, 6, budget, 2, prefix_caching=caching)
    return Engine(limits, preset("toy").costs, host), host


def add(
    engine: Engine, host: Host, name: str, prompt: int, ids: list[int] | None, length: int = 3
) -> EngineRequest:
    """Add a request whose prompt consists of these blocks, `BLOCK` tokens each."""
    host.lengths[RequestId(name)] = length
    blocks = None if ids is None else PromptBlocks.of(BLOCK, ids)
    return engine.add(RequestId(name), 0, prompt, prompt_blocks=blocks)


def computed(plans: list[StepPlan], name: str) -> int:
    """Count the prompt tokens computed for a request."""
    chunks = [chunk for plan in plans for chunk in plan.prefills]
    return sum(chunk.tokens for chunk in chunks if chunk.request.request_id == name)


def check_blocks(engine: Engine) -> None:
    """INV-3: what requests hold, each block once, and reservations and free blocks are all."""
    held = {block for request in engine.requests() for block in request.blocks}
    assert len(held) == engine.blocks.allocated_blocks
    total = engine.blocks.allocated_blocks + engine.blocks.reserved_blocks
    assert total + engine.blocks.free_blocks == engine.blocks.total_blocks
    for request in engine.requests():
        assert len(set(request.blocks)) == len(request.blocks)
        assert len(request.blocks) >= engine.blocks.blocks_for(request.kv_tokens)


@pytest.mark.parametrize(
    ("prompt", "tail"),
    [(30, 6), (32, 8), (33, 1), (7, 7), (8, 8), (9, 1)],
)
def test_an_equal_prompt_computes_only_its_tail(prompt: int, tail: int) -> None:
    """Full blocks are taken over, and at least one token is computed."""
    engine, host = make_engine()
    ids = list(range(100, 100 + -(-prompt // BLOCK)))
    add(engine, host, "first", prompt, ids)
    assert computed(run_out(engine), "first") == prompt
    again = add(engine, host, "again", prompt, ids)
    plans = run_out(engine)
    assert computed(plans, "again") == tail
    assert again.cached_tokens == prompt - tail
    assert again.output_tokens == 3


def test_prompts_share_what_they_begin_with_and_no_more() -> None:
    """Equal blocks behind a different one are different: their KV depends on all before."""
    engine, host = make_engine()
    add(engine, host, "first", 40, [1, 2, 3, 4, 5])
    run_out(engine)
    add(engine, host, "fork", 40, [1, 2, 9, 4, 5])
    assert computed(run_out(engine), "fork") == 24
    add(engine, host, "other", 40, [9, 2, 3, 4, 5])
    assert computed(run_out(engine), "other") == 40


@pytest.mark.parametrize("trace_block", [4, 12, 16, 20])
def test_blocks_of_the_trace_may_have_another_size(trace_block: int) -> None:
    """A block is shared if all of the trace's blocks it lies in are equal."""
    engine, host = make_engine()
    for name, last in (("first", 7), ("fork", 8)):
        ids = [*range(100, 100 + 48 // trace_block), last]
        host.lengths[RequestId(name)] = 1
        prompt = trace_block * len(ids)
        blocks = PromptBlocks.of(trace_block, ids)
        request = engine.add(RequestId(name), 0, prompt, prompt_blocks=blocks)
        run_out(engine)
    equal = trace_block * (48 // trace_block)
    assert request.cached_tokens == equal // BLOCK * BLOCK


def test_outputs_and_what_a_trace_does_not_tell_are_shared_with_nobody() -> None:
    """Ids for half a prompt: the other half is computed; so is what followed the first prompt."""
    engine, host = make_engine()
    add(engine, host, "first", 32, [1, 2], length=20)
    run_out(engine)
    again = add(engine, host, "again", 60, [1, 2])
    run_out(engine)
    assert again.cached_tokens == 16


def test_requests_running_together_hold_shared_blocks_once() -> None:
    """Memory and load count a shared block once, and it stays until its last holder is gone."""
    engine, host = make_engine()
    add(engine, host, "first", 32, [1, 2, 3, 4], length=40)
    step(engine)
    step(engine)
    add(engine, host, "second", 40, [1, 2, 3, 4, 5], length=40)
    queued = engine.load(InstanceId("i"))
    assert queued.head_demand_tokens == queued.queued_demand_tokens == BLOCK
    assert queued.prefill_backlog_tokens == BLOCK
    step(engine)
    first, second = engine.requests()
    assert second.blocks[:4] == first.blocks[:4]
    check_blocks(engine)
    load = engine.load(InstanceId("i"))
    assert load.physical_tokens == BLOCK * len({*first.blocks, *second.blocks})
    shared = second.blocks[:4]
    engine.cancel(RequestId("first"))
    check_blocks(engine)
    assert second.blocks[:4] == shared


def test_what_two_queued_requests_share_is_demanded_once() -> None:
    """Both will need the same two blocks, each one more of its own."""
    engine, host = make_engine()
    add(engine, host, "first", 20, [1, 2, 3])
    add(engine, host, "second", 20, [1, 2, 4])
    load = engine.load(InstanceId("i"))
    assert load.head_demand_tokens == 3 * BLOCK
    assert load.queued_demand_tokens == 4 * BLOCK


def test_a_preempted_request_finds_what_is_left_of_its_own() -> None:
    """Its outputs too; only what others needed meanwhile is computed again."""
    engine, host = make_engine(blocks=9)
    add(engine, host, "old", 8, [1], length=50)
    young = add(engine, host, "young", 16, [2, 3], length=30)
    plans = []
    while not host.preemptions:
        plans.append(step(engine)[0])
    assert host.preemptions == [young]
    lost = young.total_tokens
    engine.cancel(RequestId("old"))
    plans = run_out(engine)
    assert 0 < computed(plans, "young") < lost - 16
    assert young.output_tokens == 30


def test_a_migrated_request_brings_content_with_it() -> None:
    """What was copied in is found by the next request that begins alike."""
    engine, host = make_engine()
    host.lengths[RequestId("moved")] = 10
    assert engine.reserve(MigrationId("m"), 5)
    blocks = PromptBlocks.of(BLOCK, [1, 2, 3, 4])
    moved = engine.attach(MigrationId("m"), RequestId("moved"), 0, 32, 3, 34, blocks)
    assert moved is not None
    check_blocks(engine)
    late = add(engine, host, "late", 32, [1, 2, 3, 4])
    run_out(engine)
    assert late.cached_tokens == 24


# --- laws over random workloads ---


@dataclass(frozen=True)
class Arrival:
    at_step: int
    prompt: int
    length: int
    ids: tuple[int, ...] | None


def arrivals(ids: st.SearchStrategy[tuple[int, ...] | None]) -> st.SearchStrategy[list[Arrival]]:
    one = st.builds(
        Arrival,
        at_step=st.integers(0, 30),
        prompt=st.integers(1, 50),
        length=st.integers(1, 40),
        ids=ids,
    )
    return st.lists(one, min_size=1, max_size=12).map(
        lambda some: sorted(some, key=lambda arrival: arrival.at_step)
    )


FEW_IDS = st.lists(st.integers(0, 1), max_size=7).map(tuple) | st.none()


def trail(workload: list[Arrival], *, caching: bool, blocks: int = 12) -> list[object]:
    """Serve a workload; gives all that can be seen of every step but the numbers of blocks."""
    engine, host = make_engine(blocks, caching=caching)
    seen: list[object] = []
    now = 0
    while now <= 30 or engine.requests():
        for index, one in enumerate(workload):
            if one.at_step == now:
                ids = None if one.ids is None else list(one.ids)
                add(engine, host, str(index), one.prompt, ids, one.length)
        plan = engine.plan_step()
        check_blocks(engine)
        if plan is not None:
            decodes = [request.request_id for request in plan.decodes]
            prefills = [(one.request.request_id, one.start, one.tokens) for one in plan.prefills]
            result = engine.complete_step(plan)
            finished = [request.request_id for request in result.finished]
            seen.append((now, decodes, prefills, plan.cost_ns, finished))
            check_blocks(engine)
        seen.append(engine.load(InstanceId("i")))
        now += 1
        assert now < 5_000, "some request is never finished"
    assert all(request.place is Place.GONE for request in host.preemptions)
    assert engine.blocks.free_blocks == blocks
    return seen


@given(arrivals(st.none()))
def test_without_hashes_all_is_as_without_the_cache(workload: list[Arrival]) -> None:
    """Every step and every load, preemptions included."""
    assert trail(workload, caching=True) == trail(workload, caching=False)


@given(arrivals(st.none()))
def test_hashes_that_never_repeat_change_nothing(workload: list[Arrival]) -> None:
    """Where nobody is preempted, so that no request meets its own blocks again."""
    apart = [
        replace(one, ids=tuple(range(100 * index, 100 * index + 7)))
        for index, one in enumerate(workload)
    ]
    assert trail(apart, caching=True, blocks=200) == trail(apart, caching=False, blocks=200)


@given(arrivals(FEW_IDS))
def test_every_request_gets_its_tokens_however_much_is_shared(workload: list[Arrival]) -> None:
    """With little memory and much in common: all finish, and blocks are conserved throughout."""
    seen = trail(workload, caching=True)
    finished = [name for one in seen if isinstance(one, tuple) for name in one[4]]
    assert sorted(finished) == sorted(str(index) for index in range(len(workload)))


@given(arrivals(FEW_IDS))
def test_equal_workloads_give_equal_steps(workload: list[Arrival]) -> None:
    """The cache is deterministic."""
    assert trail(workload, caching=True) == trail(workload, caching=True)
