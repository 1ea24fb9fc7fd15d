"""Requests moving away, on vLLM's own scheduler: the exact end, and what calls it off."""

from collections.abc import Callable
from typing import Any

import pytest

from migration.engine import Gone, RequestState
from policies.types import RequestId
from tests.vllm.toys.toy_engine import BLOCK_TOKENS, ToyEngine
from tests.vllm.toys.toy_model import blocks_of, continuation

R = RequestId("r")
PROMPT = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
ANSWER = continuation(PROMPT, 30)
REDIRECT = "migrate:m"


class Loop:
    """Stands in for the agent's event loop: keeps what is said to it."""

    def call_soon_threadsafe(self, work: Callable[..., None], *args: Any) -> None:
        work(*args)


class Ear:
    """Hears what the engine's side tells the agent."""

    def __init__(self, engine: ToyEngine) -> None:
        self.detached: list[tuple[RequestState, dict[int, int]]] = []
        self.gone: list[tuple[RequestId, Gone]] = []
        listener = engine.side.listener
        listener.detached = lambda state, slots: self.detached.append((state, slots))
        listener.gone = lambda request_id, why: self.gone.append((request_id, why))
        loop: Any = Loop()
        engine.bridge.join(loop)


@pytest.fixture(params=[False, True], ids=["in step", "pipelined"])
def engine(request: pytest.FixtureRequest) -> ToyEngine:
    return ToyEngine(pipelined=request.param)


def steps(engine: ToyEngine, n: int) -> None:
    for _ in range(n):
        engine.step()


def rest(engine: ToyEngine) -> None:
    for _ in range(200):
        if engine.idle:
            return
        engine.step()
    raise AssertionError("it does not come to rest")


def begin(engine: ToyEngine, max_tokens: int = 30, **options: Any) -> None:
    """Start a request, and let it decode a little."""
    engine.submit("a", PROMPT, max_tokens, request_id=R, **options)
    steps(engine, 6)
    tracked = engine.side.register.get(R)
    assert tracked is not None
    assert tracked.phase == "running"
    engine.side.outgoing.begin(tracked, REDIRECT)


def contents(engine: ToyEngine, slots: dict[int, int]) -> list[bytes]:
    return [bytes(engine.arena.view(slots[block])) for block in sorted(slots)]


def released(engine: ToyEngine, slots: dict[int, int]) -> None:
    engine.slots_out.release(slots.values())
    engine.side.outgoing.over(R)
    engine.check_rest()


def test_it_ends_at_a_known_token_with_all_of_its_kv(engine: ToyEngine) -> None:
    ear = Ear(engine)
    begin(engine)
    engine.side.outgoing.end(R, 1)
    rest(engine)

    stream, ((state, slots),) = engine.streams["a"], ear.detached
    outputs = list(state.output_token_ids)
    assert (stream.finish_reason, stream.stop_reason) == ("length", REDIRECT)
    assert stream.token_ids == outputs == ANSWER[: len(outputs)]
    assert len(outputs) < 12
    assert state.kv_tokens == len(PROMPT) + len(outputs) - 1
    whole = blocks_of(PROMPT + outputs, BLOCK_TOKENS, state.kv_tokens)
    width = 8 * (state.kv_tokens % BLOCK_TOKENS or BLOCK_TOKENS)
    assert sorted(slots) == list(range(1, len(whole)))
    assert contents(engine, slots)[:-1] == whole[1:-1]
    assert contents(engine, slots)[-1][:width] == whole[-1][:width]
    assert ear.gone == []
    released(engine, slots)


def test_full_blocks_are_staged_while_it_decodes(engine: ToyEngine) -> None:
    Ear(engine)
    begin(engine)
    placed: list[dict[int, int] | None] = []
    slots = engine.slots_out.acquire(2)
    assert slots is not None
    engine.side.outgoing.gather(R, 1, slots, placed.append)
    steps(engine, 3)
    assert placed == [dict(zip((1, 2), slots, strict=True))]
    assert contents(engine, placed[0] or {}) == blocks_of(PROMPT + ANSWER, BLOCK_TOKENS, 12)[1:]
    rest(engine)
    assert engine.streams["a"].token_ids == ANSWER
    released(engine, placed[0] or {})


@pytest.mark.parametrize("until", [1, 2, 3, 4])
def test_the_migration_is_called_off_after_the_end_was_set(engine: ToyEngine, until: int) -> None:
    """A request that was to end here, but has not, goes on as if nothing had been."""
    ear = Ear(engine)
    begin(engine)
    engine.side.outgoing.end(R, 0)
    called_off = False

    def call_off() -> None:
        nonlocal called_off
        engine.side.outgoing.over(R)
        called_off = True

    for turn in range(until):
        engine.step(call_off if turn == until - 1 else lambda: None)
        if called_off:
            break
    rest(engine)
    stream = engine.streams["a"]
    if ear.detached:
        assert stream.stop_reason == REDIRECT
        engine.slots_out.release(ear.detached[0][1].values())
    else:
        assert (stream.finish_reason, stream.stop_reason) == ("length", None)
        assert stream.token_ids == ANSWER
    engine.side.outgoing.over(R)
    engine.check_rest()


@pytest.mark.parametrize("left", [1, 2, 3])
def test_it_ends_by_itself_just_then(engine: ToyEngine, left: int) -> None:
    """Its last tokens are at most those in flight: it is not moved."""
    ear = Ear(engine)
    begin(engine)
    request = engine.request("a")
    assert request is not None
    request.max_tokens = request.num_output_tokens + left
    engine.side.outgoing.over(R)
    tracked = engine.side.register.get(R)
    assert tracked is not None
    engine.side.outgoing.begin(tracked, REDIRECT)
    engine.side.outgoing.end(R, 0)
    rest(engine)
    stream = engine.streams["a"]
    assert stream.finish_reason == "length"
    assert stream.token_ids == ANSWER[: len(stream.token_ids)]
    if ear.detached:
        assert stream.stop_reason == REDIRECT
        assert ear.gone == []
        engine.slots_out.release(ear.detached[0][1].values())
    else:
        assert len(stream.token_ids) == request.max_tokens
        assert ear.gone == [(R, Gone.FINISHED)]
    engine.side.outgoing.over(R)
    engine.check_rest()


def test_the_token_it_should_end_with_is_a_stop_token(engine: ToyEngine) -> None:
    ear = Ear(engine)
    begin(engine, stop_token_ids=[token for token in range(50) if token not in ANSWER[:7]])
    engine.side.outgoing.end(R, 0)
    rest(engine)
    stream = engine.streams["a"]
    if not ear.detached:
        assert stream.finish_reason == "stop"
        assert ear.gone == [(R, Gone.FINISHED)]
    for _, slots in ear.detached:
        engine.slots_out.release(slots.values())
    engine.side.outgoing.over(R)
    engine.check_rest()


@pytest.mark.parametrize("turn", range(4))
def test_its_client_leaves(engine: ToyEngine, turn: int) -> None:
    ear = Ear(engine)
    begin(engine)
    engine.side.outgoing.end(R, 0)
    steps(engine, turn)
    engine.step(lambda: engine.abort("a"))
    rest(engine)
    for _, slots in ear.detached:
        engine.slots_out.release(slots.values())
    if not ear.detached:
        assert ear.gone == [(R, Gone.CANCELLED)]
    engine.side.outgoing.over(R)
    engine.check_rest()


def preempt(engine: ToyEngine) -> None:
    request = engine.request("a")
    assert request is not None
    if request in engine.scheduler.running:
        engine.scheduler.running.remove(request)
        engine.scheduler._preempt_request(request, 0.0)


@pytest.mark.parametrize("turn", range(3))
def test_it_is_preempted(engine: ToyEngine, turn: int) -> None:
    """It goes on to the full length it was to have."""
    ear = Ear(engine)
    begin(engine)
    engine.side.outgoing.end(R, 0)
    steps(engine, turn)
    if engine.request("a") is not None:
        preempt(engine)
    rest(engine)
    stream = engine.streams["a"]
    assert stream.token_ids == ANSWER[: len(stream.token_ids)]
    if ear.detached:
        assert stream.stop_reason == REDIRECT
        engine.slots_out.release(ear.detached[0][1].values())
    else:
        assert stream.token_ids == ANSWER
        assert ear.gone == [(R, Gone.PREEMPTED), (R, Gone.FINISHED)]
    engine.side.outgoing.over(R)
    engine.check_rest()


def test_what_is_asked_for_after_a_preemption_is_gone(engine: ToyEngine) -> None:
    Ear(engine)
    begin(engine)
    preempt(engine)
    placed: list[dict[int, int] | None] = []
    slots = engine.slots_out.acquire(2)
    assert slots is not None
    engine.side.outgoing.gather(R, 0, slots, placed.append)
    assert placed == [None]
    slots = engine.slots_out.acquire(2)
    assert slots is not None
    engine.side.outgoing.gather(RequestId("nobody"), 0, slots, placed.append)
    assert placed == [None, None]
    rest(engine)
    engine.side.outgoing.over(R)
    engine.check_rest()


def test_blocks_it_does_not_have_are_refused(engine: ToyEngine) -> None:
    """Never an assertion: it would be the end of the engine."""
    Ear(engine)
    begin(engine)
    placed: list[dict[int, int] | None] = []
    slots = engine.slots_out.acquire(4)
    assert slots is not None
    engine.side.outgoing.gather(R, 7, slots, placed.append)
    assert placed == [None]
    rest(engine)
    engine.side.outgoing.over(R)
    engine.check_rest()


def test_a_tail_longer_than_the_staging_memory_is_left_to_be_computed() -> None:
    engine = ToyEngine(slots=4)
    ear = Ear(engine)
    begin(engine)
    engine.side.outgoing.end(R, 0)
    rest(engine)
    ((state, slots),) = ear.detached
    assert state.kv_tokens == 2 * BLOCK_TOKENS
    assert contents(engine, slots) == blocks_of(PROMPT, BLOCK_TOKENS, 8)
    released(engine, slots)


def test_no_slot_is_free_for_the_tail(engine: ToyEngine) -> None:
    """It goes on until one is."""
    ear = Ear(engine)
    begin(engine)
    taken = engine.slots_out.acquire(len(engine.slots_out))
    assert taken is not None
    engine.side.outgoing.end(R, 0)
    steps(engine, 3)
    assert not ear.detached
    engine.slots_out.release(taken)
    rest(engine)
    ((_, slots),) = ear.detached
    released(engine, slots)


def test_an_older_claim_of_the_same_name_ends(engine: ToyEngine) -> None:
    """The agent is told nothing that it would take for the newer one's end."""
    ear = Ear(engine)
    engine.submit("old", PROMPT, 30, request_id=R)
    steps(engine, 2)
    engine.submit("new", PROMPT, 30, request_id=R)
    steps(engine, 4)
    assert all(not view.movable for view in engine.side.register.views())
    engine.abort("old")
    assert ear.gone == []
    (view,) = engine.side.register.views()
    assert view.movable
    rest(engine)
    assert ear.gone == [(R, Gone.FINISHED)]
    engine.check_rest()
