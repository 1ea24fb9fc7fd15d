"""Laws of the engine that hold for every workload."""

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from policies.types import RequestId
from simulator.engine.batch import Place, StepPlan
from simulator.engine.engine import Engine
from tests.simulator.engine.engine_host import Host, add, check_blocks, make_engine

BLOCKS, BLOCK_TOKENS, SLOTS, BUDGET = 12, 8, 5, 16


@dataclass(frozen=True)
class Arrival:
    at_step: int
    class_index: int
    prompt: int
    length: int
    cancel_at_step: int | None


arrivals = st.builds(
    Arrival,
    at_step=st.integers(0, 30),
    class_index=st.integers(0, 2),
    prompt=st.integers(1, 50),
    length=st.integers(1, BLOCKS * BLOCK_TOKENS - 50),
    cancel_at_step=st.none() | st.integers(5, 60),
)
workloads = st.lists(arrivals, min_size=1, max_size=14).map(
    lambda some: sorted(some, key=lambda one: one.at_step)
)


@dataclass
class Run:
    """All that was seen of one run."""

    engine: Engine
    host: Host
    plans: list[str]
    outputs: dict[str, int]
    admitted: list[tuple[int, int]]
    cancelled: set[str]


def run(workload: list[Arrival]) -> Run:
    engine, host = make_engine(BLOCKS, BLOCK_TOKENS, SLOTS, BUDGET, classes=3)
    seen = Run(engine, host, [], {}, [], set())
    now = 0
    while now <= 61 or engine.requests():
        assert now < 5_000, "some request is never finished"
        for index, one in enumerate(workload):
            if one.at_step == now:
                add(engine, host, str(index), one.prompt, one.length, one.class_index)
            if one.cancel_at_step == now and engine.get(_id(index)) is not None:
                engine.cancel(_id(index))
                seen.cancelled.add(str(index))
        _step(seen)
        now += 1
    return seen


def _id(index: int) -> RequestId:
    return RequestId(str(index))


def _step(seen: Run) -> None:
    engine, host = seen.engine, seen.host
    preemptions = len(host.preemptions)
    ready = [r for r in engine.requests() if r.place is Place.BATCH and r.decoding]
    fresh = {r for r in engine.requests() if r.place is Place.QUEUED and not r.output_tokens}
    plan = engine.plan_step()
    check_blocks(engine)
    if plan is None:
        assert not engine.requests(), "work waits, but nothing is computed"
        return
    victims = host.preemptions[preemptions:]
    _check_plan(plan)
    assert set(plan.decodes) == set(ready) - set(victims), "a decode was left out"
    batch = [r for r in engine.requests() if r.place is Place.BATCH]
    assert len(batch) <= SLOTS
    for victim in victims:
        assert all(one.urgency < victim.urgency for one in batch)
    seen.admitted += sorted(
        (r.class_index, r.arrived_order) for r in fresh if r.place is Place.BATCH
    )
    seen.plans.append(repr(plan))
    result = engine.complete_step(plan)
    check_blocks(engine)
    for request in result.produced:
        name = str(request.request_id)
        seen.outputs[name] = seen.outputs.get(name, 0) + 1
        assert seen.outputs[name] == request.output_tokens


def _check_plan(plan: StepPlan) -> None:
    assert 0 < plan.tokens <= BUDGET
    assert plan.cost_ns > 0
    for request in plan.decodes:
        assert len(request.blocks) * BLOCK_TOKENS >= request.total_tokens
    for chunk in plan.prefills:
        assert chunk.tokens > 0
        assert chunk.start == chunk.request.kv_tokens
        assert len(chunk.request.blocks) * BLOCK_TOKENS >= chunk.start + chunk.tokens


@given(workloads)
def test_every_request_gets_exactly_its_tokens(workload: list[Arrival]) -> None:
    """Whoever is not cancelled finishes, preempted or not, with each of its tokens once."""
    seen = run(workload)
    for index, one in enumerate(workload):
        got = seen.outputs.get(str(index), 0)
        if str(index) in seen.cancelled:
            assert got < one.length
        else:
            assert got == one.length
    assert seen.engine.blocks.free_blocks == BLOCKS


@given(workloads)
def test_first_come_first_served_within_a_class(workload: list[Arrival]) -> None:
    """Requests of one class are first admitted in the order they came."""
    for class_index in range(3):
        order = [arrived for klass, arrived in run(workload).admitted if klass == class_index]
        assert order == sorted(order)


@given(workloads)
def test_equal_workloads_give_equal_steps(workload: list[Arrival]) -> None:
    """The engine is deterministic, down to the block ids."""
    assert run(workload).plans == run(workload).plans
