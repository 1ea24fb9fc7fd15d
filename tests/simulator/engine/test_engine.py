"""The engine's batching rules, one by one."""

import pytest

from policies.types import InstanceId, RequestId
from simulator.costs.presets import preset
from simulator.engine.batch import Place
from simulator.engine.engine import EngineLimits
from tests.simulator.engine.engine_host import add, check_blocks, make_engine, names, run_out, step


def test_a_prompt_is_computed_in_chunks_of_the_budget() -> None:
    """40 tokens take three steps of at most 16; the last of them yields the first token."""
    engine, host = make_engine(token_budget=16)
    request = add(engine, host, "a", prompt=40, length=2)
    chunks = []
    for _ in range(3):
        plan, result = step(engine)
        chunks += [(chunk.start, chunk.tokens) for chunk in plan.prefills]
    assert chunks == [(0, 16), (16, 16), (32, 8)]
    assert names(result.produced) == ["a"]
    assert (request.output_tokens, request.kv_tokens) == (1, 40)


def test_kv_exists_for_all_tokens_but_the_last() -> None:
    """After the step that yields output k, KV covers prompt + k - 1 tokens."""
    engine, host = make_engine()
    request = add(engine, host, "a", prompt=10, length=5)
    for outputs in range(1, 5):
        step(engine)
        assert (request.output_tokens, request.kv_tokens) == (outputs, 10 + outputs - 1)


def test_a_single_token_finishes_with_its_prefill() -> None:
    """A request for one token is done when its prompt is."""
    engine, host = make_engine()
    add(engine, host, "a", prompt=3, length=1)
    _, result = step(engine)
    assert names(result.finished) == ["a"]
    assert engine.requests() == []
    assert engine.blocks.free_blocks == engine.blocks.total_blocks


def test_decodes_come_before_prefills() -> None:
    """A running request decodes in every step while another's prompt takes the rest."""
    engine, host = make_engine(token_budget=16)
    add(engine, host, "old", prompt=4, length=10)
    step(engine)
    add(engine, host, "new", prompt=40, length=2)
    plan, _ = step(engine)
    assert names(plan.decodes) == ["old"]
    assert [(chunk.start, chunk.tokens) for chunk in plan.prefills] == [(0, 15)]


def test_the_most_urgent_class_is_admitted_first() -> None:
    """Class order goes before arrival, arrival decides within a class."""
    engine, host = make_engine(max_num_seqs=3, token_budget=64)
    for name, class_index in [("n1", 1), ("n2", 1), ("h1", 0), ("h2", 0)]:
        add(engine, host, name, class_index=class_index)
    plan, _ = step(engine)
    assert [str(chunk.request.request_id) for chunk in plan.prefills] == ["h1", "h2", "n1"]


def test_nobody_overtakes_a_head_of_line_that_does_not_fit() -> None:
    """A small request waits behind a large one that is short of blocks."""
    engine, host = make_engine(blocks=10, token_budget=64)
    add(engine, host, "running", prompt=40, length=30)
    step(engine)
    add(engine, host, "large", prompt=60, length=2)
    add(engine, host, "small", prompt=4, length=2)
    plan, _ = step(engine)
    assert plan.prefills == ()
    assert engine.waiting == 2


def test_the_victim_is_the_lowest_class_then_the_latest() -> None:
    """When a decode finds no block, the least urgent running request loses its own."""
    engine, host = make_engine(blocks=6, max_num_seqs=4, token_budget=64)
    add(engine, host, "normal", prompt=15, length=30, class_index=1)
    add(engine, host, "high", prompt=15, length=30, class_index=0)
    add(engine, host, "late", prompt=15, length=30, class_index=0)
    while not host.preemptions:
        step(engine)
    assert names(host.preemptions) == ["normal"]
    while len(host.preemptions) < 2:
        step(engine)
    assert names(host.preemptions) == ["normal", "late"]
    run_out(engine)
    assert engine.preemptions == len(host.preemptions)


def test_a_preempted_request_heads_its_queue_and_computes_everything_again() -> None:
    """It goes before those that came earlier but never ran, and loses no output."""
    engine, host = make_engine(blocks=6, max_num_seqs=2, token_budget=64)
    add(engine, host, "first", prompt=20, length=20)
    victim = add(engine, host, "second", prompt=15, length=20)
    add(engine, host, "third", prompt=1, length=1)
    while not host.preemptions:
        step(engine)
    assert host.preemptions == [victim]
    assert (victim.place, victim.kv_tokens, victim.blocks) == (Place.QUEUED, 0, [])
    outputs = victim.output_tokens
    assert outputs > 0
    while victim.place is Place.QUEUED:
        plan, _ = step(engine)
    assert next((c.request.request_id, c.start, c.tokens) for c in plan.prefills) == (
        "second",
        0,
        15 + outputs,
    )
    assert victim.output_tokens == outputs + 1


def test_nothing_is_admitted_in_a_step_that_preempted() -> None:
    """The memory a victim frees goes to those already running, not even to a more urgent class."""
    engine, host = make_engine(blocks=6, max_num_seqs=3, token_budget=64)
    add(engine, host, "first", prompt=20, length=20, class_index=1)
    add(engine, host, "second", prompt=15, length=20, class_index=1)
    while engine.blocks.free_blocks:
        step(engine)
    add(engine, host, "urgent", prompt=8, length=1, class_index=0)
    while not host.preemptions:
        plan, _ = step(engine)
    assert engine.blocks.free_blocks > 0
    assert (names(plan.decodes), plan.prefills) == (["first"], ())
    plan, _ = step(engine)
    assert [str(chunk.request.request_id) for chunk in plan.prefills] == ["urgent"]


def test_outputs_a_request_comes_with_are_computed_again() -> None:
    """A resumed request computes prompt and outputs, and goes on with the next output."""
    engine, host = make_engine(token_budget=64)
    request = add(engine, host, "a", prompt=10, outputs=4, length=6)
    plan, _ = step(engine)
    assert [(chunk.start, chunk.tokens) for chunk in plan.prefills] == [(0, 14)]
    assert request.output_tokens == 5
    _, result = step(engine)
    assert names(result.finished) == ["a"]


def test_cancelling_frees_at_once_even_within_a_step() -> None:
    """A request cancelled while its step is in flight yields no token and holds no block."""
    engine, host = make_engine()
    add(engine, host, "a")
    step(engine)
    plan = engine.plan_step()
    assert plan is not None
    assert engine.cancel(RequestId("a"))
    assert engine.blocks.free_blocks == engine.blocks.total_blocks
    assert engine.complete_step(plan).produced == ()
    assert not engine.cancel(RequestId("a"))


def test_an_id_may_be_used_again_once_it_is_gone() -> None:
    """A new request of a cancelled one's id gets nothing of the step planned for the old."""
    engine, host = make_engine()
    add(engine, host, "a")
    plan = engine.plan_step()
    assert plan is not None
    engine.cancel(RequestId("a"))
    fresh = add(engine, host, "a")
    assert engine.complete_step(plan).produced == ()
    assert (fresh.place, fresh.kv_tokens) == (Place.QUEUED, 0)


def test_a_step_costs_what_the_cost_model_says() -> None:
    """Decoding requests count with their whole context, prompts by their chunk."""
    engine, host = make_engine(token_budget=16)
    add(engine, host, "old", prompt=10, length=10)
    step(engine)
    add(engine, host, "new", prompt=40)
    plan = engine.plan_step()
    assert plan is not None
    assert plan.cost_ns == preset("toy").costs.step_ns([(0, 15)], 1, 11)


def test_load_tells_who_runs_waits_and_what_they_need() -> None:
    """The figures a llumlet reports: by class, in tokens of whole blocks."""
    engine, host = make_engine(blocks=10, token_budget=16)
    add(engine, host, "running", prompt=17, length=30, class_index=1)
    step(engine)
    step(engine)
    add(engine, host, "large", prompt=70, class_index=0)
    add(engine, host, "small", prompt=3, class_index=1)
    load = engine.load(InstanceId("i"), terminating=True)
    assert (load.capacity_tokens, load.physical_tokens, load.reserved_tokens) == (80, 24, 0)
    assert (load.running, load.waiting) == ((0, 1), (1, 1))
    assert (load.head_demand_tokens, load.queued_demand_tokens) == (72, 72 + 8)
    assert load.prefill_backlog_tokens == 70 + 3
    assert load.terminating


def test_an_id_in_use_is_refused() -> None:
    """Two requests of one id cannot be told apart."""
    engine, host = make_engine()
    add(engine, host, "a")
    with pytest.raises(ValueError, match="'a' is in use"):
        add(engine, host, "a")


@pytest.mark.parametrize(
    ("prompt", "class_index", "message"),
    [(0, 0, "at least one token"), (161, 0, "never fit"), (1, 2, "no class 2")],
)
def test_impossible_requests_are_refused(prompt: int, class_index: int, message: str) -> None:
    """What could never run is not queued, where it would block everyone for ever."""
    engine, host = make_engine()
    with pytest.raises(ValueError, match=message):
        add(engine, host, "a", prompt=prompt, class_index=class_index)
    assert engine.waiting == 0


def test_a_request_that_outgrows_the_engine_is_an_error() -> None:
    """The host must limit lengths: growing beyond all memory raises, it does not hang."""
    engine, host = make_engine(blocks=2)
    add(engine, host, "a", prompt=16, length=5)
    step(engine)
    with pytest.raises(RuntimeError, match="no preemption can make room"):
        engine.plan_step()


def test_the_budget_must_cover_a_full_batch() -> None:
    """Otherwise some decode would be left out of every step."""
    with pytest.raises(ValueError, match="below max_num_seqs"):
        EngineLimits(1024, 16, max_num_seqs=32, token_budget=16)


def test_an_idle_engine_plans_nothing() -> None:
    """No requests, no step."""
    engine, _ = make_engine()
    assert engine.plan_step() is None
    check_blocks(engine)
