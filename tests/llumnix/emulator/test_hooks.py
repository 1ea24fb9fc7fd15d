"""What a llumlet sees of an emulated engine, and what it can make it do."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llumnix.emulator.hooks import EmulatorHooks
from llumnix.emulator.model.answer import expected_output
from llumnix.emulator.requests import FinishReason, Sampling
from migration.engine import EngineHooks, Gone
from policies.types import MigrationId, RequestId
from tests.llumnix.emulator.engines import HandStepped, copy_blocks, detach, some_prompt

A = RequestId("a")
LONG = Sampling(60, ignore_eos=True)


def test_it_is_the_seam_a_llumlet_asks_for() -> None:
    """Checked by the type checker."""
    hooks: EngineHooks = HandStepped().hooks
    assert isinstance(hooks, EmulatorHooks)


def test_layouts_agree_only_where_bytes_do() -> None:
    """Other payloads, blocks or models are other layouts."""
    layout = HandStepped().hooks.layout()
    assert layout.mismatch(HandStepped().hooks.layout()) is None
    assert layout.block_bytes == 16 * 64
    for change in (
        {"kv_payload_bytes_per_token": 8},
        {"block_tokens": 32},
        {"model": "other"},
    ):
        assert layout.mismatch(HandStepped(**change).hooks.layout()) is not None


def test_views_tell_the_phase_and_what_may_move() -> None:
    """Queued, in prefill, running; a request about to leave is not movable again."""
    engine = HandStepped(max_num_seqs=2)
    engine.submit("running", some_prompt(5), LONG)
    engine.step()
    engine.submit("prefill", some_prompt(300), LONG)
    engine.step()
    engine.submit("queued", some_prompt(5), LONG)
    views = {view.request_id: view for view in engine.hooks.requests()}
    assert {name: view.phase for name, view in views.items()} == {
        "running": "running",
        "prefill": "prefill",
        "queued": "queued",
    }
    assert (
        engine.hooks.kv_tokens(RequestId("running")) == views[RequestId("running")].context_tokens
    )
    assert engine.hooks.kv_tokens(RequestId("prefill")) is None
    assert engine.hooks.kv_tokens(RequestId("queued")) is None
    assert all(view.movable for view in views.values())
    engine.hooks.detach(RequestId("running"))
    assert not engine.hooks.requests()[0].movable


async def test_adjacent_blocks_share_a_view() -> None:
    """A contiguous request is one view; views of its parts are the same bytes in order."""
    engine = HandStepped()
    engine.submit("a", some_prompt(100), LONG)
    engine.step()
    (whole,) = engine.hooks.gather(A, 0, 7)
    parts = [bytes(engine.hooks.gather(A, block, 1)[0]) for block in range(7)]
    assert b"".join(parts) == bytes(whole)
    assert len(set(parts)) == 7
    with pytest.raises(IndexError):
        engine.hooks.gather(A, 5, 3)
    with pytest.raises(KeyError):
        engine.hooks.gather(RequestId("other"), 0, 1)


@given(
    prompt=st.integers(1, 120),
    length=st.integers(2, 50),
    data=st.data(),
    payload=st.sampled_from([8, 64]),
)
@settings(deadline=None, max_examples=50)
def test_a_moved_request_answers_as_if_left_alone(
    prompt: int, length: int, data: st.DataObject, payload: int
) -> None:
    """INV-4, whatever the lengths and wherever it is cut; and both sides end up empty."""
    cut = data.draw(st.integers(1, length - 1))

    async def scenario() -> None:
        source = HandStepped(kv_payload_bytes_per_token=payload)
        destination = HandStepped(kv_payload_bytes_per_token=payload)
        # Neighbours, so that blocks are not the same on both sides.
        source.submit("x", some_prompt(20, 1), Sampling(cut, ignore_eos=True))
        destination.submit("y", some_prompt(50, 2), LONG)
        destination.step()
        tokens = some_prompt(prompt, 3)
        request = source.submit("a", tokens, Sampling(length, ignore_eos=True))
        while request.output_tokens < cut:
            source.step()
        source.hooks.detach(A)
        plan = source.instance.engine.plan_step()
        assert plan is None or A not in [one.request_id for one in plan.decodes]
        state = source.listener.states[-1]
        migration_id = copy_blocks(source, destination, state)
        assert destination.hooks.attach(migration_id, state)
        source.hooks.release(A, f"migrate:{migration_id}")
        assert request.finish == FinishReason("abort", f"migrate:{migration_id}")
        arrived = destination.instance.claim(migration_id)
        assert arrived is not None
        destination.run_out()
        assert tuple(arrived.outputs) == expected_output(tokens, length)
        assert arrived.finish == FinishReason("length")
        blocks = destination.instance.engine.blocks
        assert blocks.free_blocks == blocks.total_blocks
        assert source.instance.engine.get(A) is None

    asyncio.run(scenario())


async def test_a_request_may_move_again_before_it_is_claimed() -> None:
    """The claim then replays what there was and is redirected on."""
    first, second = HandStepped(), HandStepped()
    first.submit("a", some_prompt(30), LONG)
    first.step()
    first.step()
    state = detach(first, "a")
    migration_id = copy_blocks(first, second, state)
    assert second.hooks.attach(migration_id, state)
    second.step()
    onward = detach(second, "a")
    second.hooks.release(A, "migrate:onward")
    claimed = second.instance.claim(migration_id)
    assert claimed is not None
    tokens, finish = await claimed.read(0)
    assert tuple(tokens) == onward.output_token_ids
    assert finish == FinishReason("abort", "migrate:onward")


async def test_an_unclaimed_request_is_freed_after_a_while() -> None:
    """Nobody waits for it: its memory goes to others, and its llumlet is told."""
    source, destination = HandStepped(), HandStepped(claim_timeout_s=0.01)
    source.submit("a", some_prompt(30), LONG)
    source.step()
    source.step()
    state = detach(source, "a")
    migration_id = copy_blocks(source, destination, state)
    assert destination.hooks.attach(migration_id, state)
    await asyncio.wait_for(destination.listener.somebody_left.wait(), 5)
    assert destination.listener.gone_ones == [("a", Gone.CANCELLED)]
    assert destination.instance.claim(migration_id) is None
    assert destination.instance.engine.blocks.allocated_blocks == 0


async def test_a_claim_is_granted_once() -> None:
    """A second stream of the same request would double its tokens."""
    source, destination = HandStepped(), HandStepped()
    source.submit("a", some_prompt(30), LONG)
    source.step()
    source.step()
    state = detach(source, "a")
    migration_id = copy_blocks(source, destination, state)
    assert destination.hooks.attach(migration_id, state)
    assert destination.instance.claim(migration_id) is not None
    assert destination.instance.claim(migration_id) is None


async def test_a_state_that_cannot_be_taken_is_refused_and_freed() -> None:
    """Wrong parameters, an id in use, or more tokens than the model may have."""
    source = HandStepped()
    source.submit("a", some_prompt(30), Sampling(900, ignore_eos=True))
    source.step()
    source.step()
    state = detach(source, "a")
    for destination in (HandStepped(max_model_len=128), HandStepped()):
        migration_id = copy_blocks(source, destination, state)
        if destination.instance.sizes.max_model_len > 900:
            state.params.pop("max_tokens")
        assert not destination.hooks.attach(migration_id, state)
        blocks = destination.instance.engine.blocks
        assert blocks.free_blocks == blocks.total_blocks


def test_an_aborted_migration_leaves_the_request_as_it_was() -> None:
    """Detached, then reattached: the answer is the same."""
    engine = HandStepped()
    prompt = some_prompt(30)
    request = engine.submit("a", prompt, LONG)
    engine.step()
    engine.step()
    detach(engine, "a")
    assert not engine.step()
    engine.hooks.reattach(A)
    engine.run_out()
    assert tuple(request.outputs) == expected_output(prompt, 60)


def test_a_listener_hears_who_is_gone_and_why() -> None:
    """Finished, cancelled, preempted; blocks are free by then."""
    engine = HandStepped(capacity_tokens=96, max_model_len=96)
    short = engine.submit("short", some_prompt(5), Sampling(2, ignore_eos=True))
    left = engine.submit("left", some_prompt(5), LONG)
    engine.step()
    engine.instance.cancel(left)
    engine.step()
    assert engine.listener.gone_ones == [("left", Gone.CANCELLED), ("short", Gone.FINISHED)]
    assert short.finish == FinishReason("length")
    engine.submit("x", some_prompt(30, 1), LONG)
    engine.submit("y", some_prompt(30, 2), LONG)
    engine.run_out()
    assert ("y", Gone.PREEMPTED) in engine.listener.gone_ones


def test_a_queued_request_is_sent_elsewhere_by_requeue() -> None:
    """Its stream ends with the word for it; running or preempted ones are left alone."""
    engine = HandStepped(max_num_seqs=1)
    running = engine.submit("running", some_prompt(5), LONG)
    queued = engine.submit("queued", some_prompt(5), LONG)
    engine.step()
    assert not engine.hooks.requeue(RequestId("running"))
    assert engine.hooks.requeue(RequestId("queued"))
    assert not engine.hooks.requeue(RequestId("queued"))
    assert queued.finish == FinishReason("abort", "migrate:requeue")
    assert running.finish is None


def test_hooks_of_requests_already_gone_do_nothing() -> None:
    """A llumlet may be a message late."""
    engine = HandStepped()
    request = engine.submit("a", some_prompt(5), LONG)
    engine.step()
    engine.hooks.release(A, "migrate:m")
    assert request.finish is None
    engine.instance.cancel(request)
    engine.hooks.detach(A)
    engine.hooks.reattach(A)
    engine.hooks.release(A, "migrate:m")
    engine.hooks.free_reservation(MigrationId("m"))
    assert request.finish == FinishReason("abort")


def test_load_names_the_instance_and_whether_it_is_drained() -> None:
    """The rest is the engine's own account."""
    engine = HandStepped(instance_id="i7")
    engine.hooks.set_terminating(True)
    load = engine.hooks.load()
    assert (load.instance_id, load.terminating, load.capacity_tokens) == ("i7", True, 2048)
